"""Recognise DICOM files, which often have no extension, by their content. Needs no library."""

from pathlib import Path
from typing import Literal

from ..errors import ShardError

ENDINGS = (".dcm", ".dicom", ".ima")
"""Extensions of DICOM files, case-insensitive."""

_PREAMBLE = 128
_MAGIC = b"DICM"
_META = 1024
"""Bytes read after the magic: more than the file's own header, which names the kind of its contents."""

_INDEX = b"1.2.840.10008.1.3.10"
"""UID of the storage class of a DICOMDIR, which lists other files."""


def dicom_kind(path: Path) -> Literal["slice", "index"] | None:
    """Return whether a file is a DICOM image, the index of a DICOM folder (DICOMDIR), or neither.

    Raises:
        ShardError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_PREAMBLE + len(_MAGIC) + _META)
    except OSError as error:
        raise ShardError(f"{path} cannot be read: {error.strerror}") from None
    if head[_PREAMBLE:][: len(_MAGIC)] == _MAGIC:
        return "index" if _INDEX in head else "slice"
    return "slice" if path.suffix.lower() in ENDINGS else None
