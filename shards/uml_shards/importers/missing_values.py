"""Recognise cells that stand for a missing value, and values that differ only in spelling."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

_MISSING = frozenset(
    "na|n/a|n.a.|#n/a|#n/a n/a|#na|<na>|nan|-nan|1.#ind|-1.#ind|1.#qnan|-1.#qnan|none|null|#null!|nil|nul|unknown|unk|"
    "missing|undefined|not available|not applicable|not labelled|not labeled|unlabelled|unlabeled|tbd|?|??|???|-|--|"
    "---|.|..|...|_|(blank)|#value!|#ref!|#name?|#div/0!".split("|")
)
"""Common marks of a missing value, in lower case: those of pandas, R, Excel and BIDS, and what people type."""

_CODES = frozenset({9, 99, 999, 9999, 99999})
"""Numbers that clinical tables use for a missing value."""

_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d*)?", re.ASCII)


def is_missing(text: str) -> bool:
    """Whether a cell holds a common mark of a missing value, such as NA, n/a, None, null or ?."""
    return " ".join(text.lower().split()) in _MISSING


def missing_codes(values: Iterable[str]) -> list[str]:
    """Return the numbers that probably stand for a missing value: negative ones, and 9, 99 and so on after a gap.

    Args:
        values: all values of the column.
    """
    numbers = {value: number for value in values if (number := _number(value)) is not None}
    others = set(numbers.values())
    return sorted(
        value
        for value, number in numbers.items()
        if number < 0 or (number in _CODES and number - 1 not in others and len(others) > 1)
    )


def spellings(values: Iterable[str]) -> list[tuple[str, ...]]:
    """Return groups of values that differ only in case, separators, Unicode form or the writing of a number."""
    groups: dict[object, set[str]] = defaultdict(set)
    for value in values:
        number = _number(value)
        folded = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", value).casefold()).strip()
        groups[folded if number is None else number].add(value)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)


def _number(text: str) -> float | None:
    return float(text.replace(",", ".")) if len(text) < 20 and _NUMBER.fullmatch(text) else None
