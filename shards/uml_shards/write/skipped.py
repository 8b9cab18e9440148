"""The samples that are left out of a split because they cannot be used, and why."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

FILE_NAME = "skipped.csv"

_FILE = r"(^|: )[^:]*/[^:/]*?(\.\w+(?=[ :]|$)|(?= cannot |:|$))"
_PARTICULARS = ((_FILE, r"\1FILE"), (r"'[^']*'", "'...'"), (r"\d+", "N"))
"""What differs between two reasons of one kind: file names, quoted text and numbers."""


@dataclass(frozen=True)
class Skipped:
    """A sample that is left out.

    Attributes:
        item: its key, or the importer's item where the key is not known.
        reason: why, in one line.
    """

    item: str
    reason: str

    @property
    def kind(self) -> str:
        """The reason without what is particular to this sample."""
        kind = self.reason
        for pattern, general in _PARTICULARS:
            kind = re.sub(pattern, general, kind)
        return kind


def skipped_csv(skipped: Iterable[Skipped]) -> str:
    """The table that lies beside the shards: one row a sample, in the order of writing."""
    table = StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("item", "reason"))
    writer.writerows((sample.item, sample.reason) for sample in skipped)
    return table.getvalue()


def load_skipped(folder: str | Path) -> list[Skipped]:
    """What was left out of the split in a folder; nothing where no table lies in it."""
    path = Path(folder) / FILE_NAME
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [Skipped(row["item"], row["reason"]) for row in csv.DictReader(file)]


def summarize(skipped: Sequence[Skipped]) -> str:
    """A table of how many samples were left out for which kind of reason, the most frequent first."""
    counts = Counter(sample.kind for sample in skipped)
    return "\n".join(f"{count:>8}  {kind}" for kind, count in sorted(counts.items(), key=lambda row: (-row[1], row[0])))
