"""Parses JSON that may be damaged, and describes where it does not match a model."""

import math
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def parse_json(data: bytes) -> Any:
    """Parse JSON in UTF-8 of at most 200 nested levels, with finite numbers only.

    Raises:
        ValueError: the data are not such JSON.
    """
    value = from_json(data.removeprefix(_BYTE_ORDER_MARK), allow_inf_nan=False)
    if not _is_finite(value):
        raise ValueError("a number is too large")
    return value


def _is_finite(value: Any) -> bool:
    """Whether all numbers are finite: 1e999 is JSON, but infinite as a float."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, list) or all(map(_is_finite, value))


def first_problem(error: ValidationError) -> str:
    """Return the first problem that a model found, as `place: problem`, or `problem` if it concerns the whole."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return (f"{place}: " if place else "") + first["msg"].removeprefix("Value error, ")
