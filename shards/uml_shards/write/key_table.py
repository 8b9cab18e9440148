"""The table from keys back to raw files, which stays with whoever made the shards.

Keys of `folder` and `nnunet` are hashes, so that shards do not reveal file names. The table lies beside the splits, not
in them: it is neither part of the shards nor fetched from a URL, and only its owner can read it.
"""

import csv
import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import ShardError, reading
from ..format.manifest import KEY_TABLE
from ..text import csv_table, csv_value


def save_key_table(folder: Path, files: Mapping[str, Mapping[str, str]]) -> None:
    """Write the table of a data set, readable by its owner only; nothing if no file is known.

    Args:
        folder: folder of the data set, which contains the splits.
        files: split -> key -> raw file.

    Raises:
        ShardError: it cannot be written.
    """
    if not any(files.values()):
        return
    rows = [(split, key, file) for split, keys in files.items() for key, file in keys.items()]
    path = folder / KEY_TABLE
    try:
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(csv_table([("split", "key", "file"), *rows]))
    except OSError as error:
        raise ShardError(f"{path} cannot be written: {error.strerror}") from None


def find_key(folder: Path, key: str) -> tuple[str, str]:
    """Return the split and the raw file of a key.

    Args:
        folder: folder of the data set, or of one of its splits.
        key: key of a sample.

    Raises:
        ShardError: there is no table, or the key is not in it.
    """
    path = next((place / KEY_TABLE for place in (folder, folder.parent) if (place / KEY_TABLE).is_file()), None)
    if path is None:
        raise ShardError(
            f"{folder} has no {KEY_TABLE}: only the importers folder and nnunet write it, on the machine "
            "that makes the shards"
        )
    with reading(path), path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if csv_value(row["key"]) == key:
                return csv_value(row["split"]), csv_value(row["file"])
    raise ShardError(f"{path} does not contain the key {key!r}")
