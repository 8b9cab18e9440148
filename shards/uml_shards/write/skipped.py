"""The samples that were skipped when a split was written, with the reasons."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import reading
from ..text import csv_table, csv_value, message_of

FILE_NAME = "skipped.csv"

_FILE = r"(^|: )[^:]*/[^:/]*?(\.\w+(?=[ :]|$)|(?= cannot |:|$))"
_PARTICULARS = ((_FILE, r"\1FILE"), (r"'[^']*'", "'...'"), (r"\d+", "N"))
"""Sample-specific parts of a reason: file names, quoted text and numbers."""


@dataclass(frozen=True)
class Skipped:
    """A skipped sample.

    Attributes:
        item: key of the sample, or the importer's item if the key is unknown.
        reason: why the sample was skipped, in one line.
    """

    item: str
    reason: str

    @property
    def kind(self) -> str:
        """The reason with sample-specific parts replaced by placeholders."""
        kind = self.reason
        for pattern, general in _PARTICULARS:
            kind = re.sub(pattern, general, kind)
        return kind


def skipped_csv(skipped: Iterable[Skipped]) -> str:
    """Return the CSV table stored beside the shards: one row per sample, in the order of writing."""
    return csv_table([("item", "reason"), *((sample.item, sample.reason) for sample in skipped)])


def load_skipped(folder: str | Path) -> list[Skipped]:
    """Read the skipped samples of a split folder; empty if there is no table.

    Raises:
        ShardError: the table cannot be read.
    """
    path = Path(folder) / FILE_NAME
    if not path.exists():
        return []
    with reading(path), path.open(newline="", encoding="utf-8") as file:
        rows = [(csv_value(row["item"]), csv_value(row["reason"])) for row in csv.DictReader(file)]
    return [Skipped(message_of(item), message_of(reason)) for item, reason in rows]


def summarize(skipped: Sequence[Skipped]) -> str:
    """Return a table of the number of skipped samples for each kind of reason, the most frequent first."""
    counts = Counter(sample.kind for sample in skipped)
    return "\n".join(f"{count:>8}  {kind}" for kind, count in sorted(counts.items(), key=lambda row: (-row[1], row[0])))
