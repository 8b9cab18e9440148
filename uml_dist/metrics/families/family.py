"""The interface of a family of metrics."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from uml_shards.format.manifest import Manifest

from ...batch import Batch, Prediction
from ..columns import Columns
from ..weighted import Metric


@dataclass(frozen=True)
class Definition:
    """What a metric is.

    Attributes:
        text: one line for tables and files.
        lower_is_better: whether a smaller value is the better one.
        by_empty_masks: whether it depends on the rule for empty masks.
        biased: whether it is never negative and larger in small samples, as a sum of absolute values of noise is.
    """

    text: str
    lower_is_better: bool = False
    by_empty_masks: bool = False
    biased: bool = False


@dataclass(frozen=True)
class CountTable:
    """A table of counts with titles.

    Attributes:
        text: what it counts, one line.
        rows: titles of the rows.
        columns: titles of the columns.
        values: the counts by row.
    """

    text: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]


class MetricFamily(ABC):
    """Metrics that are formed from the same columns.

    Class attributes:
        definitions: name of a metric -> what it is. A name that ends with _ stands for all metrics that begin so, such
            as those of each class.
        likelihood: name of its negative log-likelihood in nats, which is part of the metric `loss`; None without one.
    """

    definitions: ClassVar[Mapping[str, Definition]] = {}
    likelihood: ClassVar[str | None] = None

    @abstractmethod
    def columns(self, batch: Batch, prediction: Prediction, manifest: Manifest) -> Mapping[str, Tensor]:
        """Return the family's figures of a batch; empty where the recipe does not predict what it needs.

        Returns:
            Name -> (B,), a number that is kept for each case, or (B, ...), arrays that are only summed over the cases.
        """

    @abstractmethod
    def metrics(self, columns: Columns) -> Iterator[tuple[str, Metric]]:
        """Yield the metrics by name, the likelihood first; nothing where no case has the family's columns."""

    @abstractmethod
    def requirements(self, manifest: Manifest) -> Mapping[str, str]:
        """Return every metric of a data set's classes and tasks -> what the split lacks to form it; "" for nothing."""

    def lacking(self, columns: Columns) -> Mapping[str, str]:
        """Return metrics that these cases do not suffice for -> what they lack, beyond what the manifest states."""
        return {}

    def notes(self, columns: Columns) -> Mapping[str, str]:
        """Return what a reader of these cases' metrics must know beside their definitions: title -> one line."""
        return {}

    def counts(self, columns: Columns) -> Mapping[str, CountTable]:
        """Return the family's tables of counts over all cases, by name, such as a confusion matrix."""
        return {}

    def table(self, columns: Columns) -> Mapping[str, Iterable[Any]]:
        """Return the family's columns of cases.csv: title -> a cell for each case."""
        return {}


def absent_class(manifest: Manifest, groups: Sequence[frozenset[int]]) -> str:
    """Describe the first group of image classes of which a split has no sample; empty where it has all of them."""
    counts = manifest.class_counts or (1,) * len(manifest.classes)
    for group in groups:
        if not any(counts[number] for number in group):
            names = [manifest.classes[number] for number in sorted(group)]
            return f"an image of {' or '.join(names) or 'another class'}"
    return ""
