"""Parses the headers of .npy files, version 1.0, in the form that numpy writes.

numpy itself takes any Python expression as a header and raises errors of many classes if it is damaged.
"""

import re
from dataclasses import dataclass

_MAGIC = b"\x93NUMPY\x01\x00"
_START = len(_MAGIC) + 2
"""Offset of the header, after the magic bytes and two bytes of its length."""

_FIELDS = re.compile(
    r"\{'descr': (?P<descr>'[<>|][biufcmMOSUV]\d{0,6}'|\[[ -~]{1,65536}\]), 'fortran_order': (?P<fortran>True|False), "
    r"'shape': \((?P<shape>|\d{1,18},|\d{1,18}(?:, \d{1,18})+)\), \} *\n"
)


@dataclass(frozen=True)
class NpyHeader:
    """The header of a .npy file.

    Attributes:
        descr: dtype as the header states it: `'<i2'`, or a list of fields.
        fortran: whether the values are in Fortran order.
        shape: shape of the array.
        start: offset of the first value in bytes.
    """

    descr: str
    fortran: bool
    shape: tuple[int, ...]
    start: int


def parse_npy_header(data: bytes) -> NpyHeader:
    """Parse the header at the beginning of a .npy file.

    Raises:
        ValueError: the data do not begin with a header of version 1.0.
    """
    if not data.startswith(_MAGIC):
        raise ValueError("not a .npy file of version 1.0")
    start = _START + int.from_bytes(data[len(_MAGIC) : _START], "little")
    found = _FIELDS.fullmatch(data[_START:start].decode("latin-1"))
    if found is None or start > len(data):
        raise ValueError("not a .npy file of version 1.0: its header is damaged")
    shape = tuple(int(side) for side in found["shape"].replace(",", " ").split())
    return NpyHeader(found["descr"], found["fortran"] == "True", shape, start)
