"""The figure by which validations are compared, as `train.best` names it: one metric, or the mean of several."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import fsum, isfinite

from uml_shards.format.manifest import Manifest

from ..errors import UmlError
from .families import STANDARD, Definition
from .summary import Families, definition_of, formable

MEAN = re.compile(r"mean\s*\(")

LISTED = 30
"""Most names that a refusal lists."""


@dataclass(frozen=True)
class Selection:
    """The figure by which validations are compared, and so the best checkpoint is chosen.

    Attributes:
        name: name under which the figure is shown: that of the metric, or `mean(first, second)`.
        metrics: names of the metrics that it is the mean of.
        lower_is_better: whether a smaller value is the better one.
        by_empty_masks: whether it depends on the rule for empty masks.
        key: configuration key that states it, for errors.
    """

    name: str
    metrics: tuple[str, ...]
    lower_is_better: bool = False
    by_empty_masks: bool = False
    key: str = "train.best"

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


def parse_selection(text: str, families: Families = STANDARD, key: str = "train.best") -> Selection:
    """Return the selection that a setting states: the name of a metric, or `mean(NAME, NAME)`; white space is free.

    Args:
        text: the setting.
        families: the recipe's families of metrics.
        key: configuration key of the setting, for errors.

    Raises:
        UmlError: the mean is not closed, nested or empty, names a metric twice, or mixes metrics of which a lower value
            is better with others.
    """
    text = text.strip()
    opening = MEAN.match(text)
    if not opening:
        if not text:
            raise UmlError(f"{key} is empty: set it to a metric, or to mean(NAME, NAME)")
        names = (text,)
    else:
        names = _names(text, opening.end(), key)
    definitions = {name: _definition(name, families) for name in names}
    lower = [name for name, definition in definitions.items() if definition.lower_is_better]
    higher = [name for name in names if name not in lower]
    if lower and higher:
        raise UmlError(
            f"{key} = {text!r}: lower is better for {', '.join(lower)}, higher for {', '.join(higher)}: "
            "a mean of both cannot rank checkpoints, so choose metrics of one kind"
        )
    return Selection(
        name=f"mean({', '.join(names)})" if opening else text,
        metrics=names,
        lower_is_better=bool(lower),
        by_empty_masks=any(definition.by_empty_masks for definition in definitions.values()),
        key=key,
    )


def _names(text: str, start: int, key: str) -> tuple[str, ...]:
    """Return the names in a mean that begins at an index."""
    if not text.endswith(")"):
        raise UmlError(f"{key} = {text!r}: the mean does not end with a closing parenthesis")
    names = tuple(name.strip() for name in text[start:-1].split(","))
    if any(MEAN.match(name) for name in names):
        raise UmlError(f"{key} = {text!r}: a mean cannot contain another mean: list all metrics in one")
    if "" in names:
        problem = "the mean contains no metric" if len(names) == 1 else "a name is missing between the commas"
        raise UmlError(f"{key} = {text!r}: {problem}: write mean(NAME, NAME)")
    if twice := [name for number, name in enumerate(names) if name in names[:number]]:
        raise UmlError(f"{key} = {text!r}: {twice[0]} is in the mean twice: name each metric once")
    return names


def _definition(name: str, families: Families) -> Definition:
    try:
        return definition_of(name, families)
    except KeyError:  # reported, with the nearest name, when the data are known
        return Definition("")


def check_selection(selection: Selection, manifest: Manifest, families: Families = STANDARD) -> None:
    """Check that the metrics of a selection exist, before a run is trained by it.

    Args:
        selection: the run's selection.
        manifest: manifest of the split that is validated on.
        families: the recipe's families of metrics.

    Raises:
        UmlError: the data have no metric of a name, with the nearest one; or the split lacks what a metric needs.
    """
    lacks = formable(manifest, families)
    valid = [name for name, lacking in lacks.items() if not lacking]
    if not valid:
        raise UmlError(
            f"{selection.key}: no image of split {manifest.split} has a label or a mask, so no metric can be formed: "
            "validate on another split"
        )
    more = f" and {len(valid) - LISTED} more (uml_dist/METRICS.md)" if len(valid) > LISTED else ""
    use = f"use one of {', '.join(valid[:LISTED])}{more}, or mean(NAME, NAME) of them"
    for name in selection.metrics:
        if name not in lacks:
            near = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise UmlError(f"{selection.key}: {name!r} is not a metric of this data{hint}: {use}")
        if lacks[name]:
            raise UmlError(f"{selection.key}: {name} needs {lacks[name]}, but split {manifest.split} has none: {use}")
