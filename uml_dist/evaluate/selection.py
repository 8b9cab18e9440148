"""What `train.best` names: one metric, or the mean of several, by which validations are compared."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum, isfinite

from uml_shards.format.manifest import Manifest

from ..errors import UmlError
from .metrics import LOWER_IS_BETTER, formable, is_overlap

MEAN = re.compile(r"mean\s*\(")


@dataclass(frozen=True)
class Selection:
    """The figure by which validations are compared, and so the best checkpoint is chosen.

    Attributes:
        name: under which the figure is shown: that of the metric, or `mean(first, second)`.
        metrics: names of the metrics that it is the mean of.
    """

    name: str
    metrics: tuple[str, ...]

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller value is the better one."""
        return self.metrics[0] in LOWER_IS_BETTER

    @property
    def depends_on_empty_masks(self) -> bool:
        """Whether the rule for empty masks changes it."""
        return any(map(is_overlap, self.metrics))

    def missing(self, figures: Mapping[str, float]) -> list[str]:
        """Its metrics that a validation lacks."""
        return [name for name in self.metrics if not isfinite(figures.get(name, float("nan")))]

    def value(self, figures: Mapping[str, float]) -> float | None:
        """The mean of its metrics; None where a validation lacks one of them."""
        if self.missing(figures):
            return None
        return fsum(figures[name] for name in self.metrics) / len(self.metrics)

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether a value is better than the best one so far; any is where there is none yet."""
        if than is None:
            return True
        return value < than if self.lower_is_better else value > than


def parse_selection(text: str) -> Selection:
    """The selection that `train.best` states: the name of a metric, or `mean(NAME, NAME)`; white space is free.

    Raises:
        UmlError: the mean is not closed, nested or empty, names a metric twice, or mixes metrics of which a lower value
            is better with others.
    """
    text = text.strip()
    opening = MEAN.match(text)
    if not opening:
        if not text:
            raise UmlError("train.best is empty: set it to a metric, or to mean(NAME, NAME)")
        return Selection(text, (text,))
    if not text.endswith(")"):
        raise UmlError(f"train.best = {text!r}: the mean does not end with a closing parenthesis")
    names = tuple(name.strip() for name in text[opening.end() : -1].split(","))
    if any(MEAN.match(name) for name in names):
        raise UmlError(f"train.best = {text!r}: a mean cannot hold another mean: list all metrics in one")
    if "" in names:
        what = "there is no metric in the mean" if len(names) == 1 else "a name is missing between the commas"
        raise UmlError(f"train.best = {text!r}: {what}: write mean(NAME, NAME)")
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise UmlError(f"train.best = {text!r}: {twice[0]} is in the mean twice: name each metric once")
    lower = [name for name in names if name in LOWER_IS_BETTER]
    higher = [name for name in names if name not in LOWER_IS_BETTER]
    if lower and higher:
        raise UmlError(
            f"train.best = {text!r}: lower is better for {', '.join(lower)}, higher for {', '.join(higher)}: "
            "a mean of both cannot rank checkpoints, so choose metrics of one kind"
        )
    return Selection(f"mean({', '.join(names)})", names)


def check_selection(selection: Selection, manifest: Manifest) -> None:
    """Check that the metrics of a selection exist, before a run is trained by it.

    Args:
        selection: of the run.
        manifest: of the split that is validated on.

    Raises:
        UmlError: the data have no metric of a name, with the nearest one; or the split lacks what a metric needs.
    """
    lacks = formable(manifest)
    valid = [name for name, lacking in lacks.items() if not lacking]
    use = f"use one of {', '.join(valid)}, or mean(NAME, NAME) of them"
    for name in selection.metrics:
        if name not in lacks:
            near = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UmlError(f"train.best: {name!r} is no metric of this data{hint}: {use}")
        if lacks[name]:
            raise UmlError(f"train.best: {name} needs {lacks[name]}, and split {manifest.split} has none: {use}")
