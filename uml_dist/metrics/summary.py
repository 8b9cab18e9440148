"""Metrics of a split with bootstrap intervals over the cases, by families."""

from collections.abc import Mapping, Sequence

import numpy as np

from uml_shards.format.manifest import Manifest
from uml_shards.read.truth import EmptyRule

from . import weighted
from .cases import Cases
from .columns import Columns
from .families import STANDARD, Definition, MetricFamily
from .weighted import Floats, Metric

LOSS = Definition("sum of the negative log-likelihoods of image and pixels, or lesions", lower_is_better=True)

EMPTY_RULES: Mapping[EmptyRule, str] = {
    "one": "Dice and IoU of a class are 1 in cases where it is neither in the mask nor predicted",
    "leave-out": "cases where a class is neither in the mask nor predicted are left out of its Dice and IoU",
}
"""What each rule for empty masks means, for tables that hold Dice. On one side only, both are 0 under either rule."""

FORMED = 0.95
"""Share of the bootstrap draws in which a metric must be formed to have an interval."""

BIAS_SHARE = 2.0**0.5 - 1.0
"""Share of the bias of a calibrated set's ECE that the draws show.

Its gaps between hits and confidence are noise of some variance; those of a draw have the noise of the set and of the
draw, twice the variance, so the mean of the draws is sqrt(2) times the value, whose true value is 0.
"""

Families = Sequence[MetricFamily]


def summarise(
    cases: Cases, manifest: Manifest, empty: EmptyRule = "one", families: Families = STANDARD
) -> dict[str, float]:
    """Return the metrics of a split; those that cannot be formed are left out.

    That is the case without labels or masks; where a class does not occur, for all metrics that need it; where all
    predictions are right or all are wrong, for the detection of errors; without a vacuity. If a likelihood is not a
    number, there are no metrics.

    Args:
        cases: cases of the split.
        manifest: the split's manifest.
        empty: "one": Dice and IoU of a class that is neither in a case's mask nor predicted are 1; "leave-out": that
            case has none. A class on one side only has 0 either way.
        families: the families of metrics.
    """
    return estimate(metrics_of(cases, manifest, empty, families), cases)


def estimate(metrics: Mapping[str, Metric], cases: Cases) -> dict[str, float]:
    """Return the values of metrics over all cases, of those that can be formed."""
    values = {name: float(metric(cases.all)[0]) for name, metric in metrics.items()}
    return {name: value for name, value in values.items() if np.isfinite(value)}


def intervals(
    cases: Cases,
    manifest: Manifest,
    empty: EmptyRule = "one",
    level: float = 0.95,
    families: Families = STANDARD,
) -> dict[str, tuple[float, float]]:
    """Return bootstrap intervals of the metrics, from the draws of the cases; see `interval_of`.

    A metric that cannot be formed in one draw of twenty (a class that hardly occurs) has none.

    Args:
        cases: cases of the split, with draws.
        manifest: the split's manifest.
        empty: see `summarise`.
        level: level of the intervals.
        families: the families of metrics.
    """
    if cases.units < 2 or not len(cases.draws):
        return {}
    metrics = metrics_of(cases, manifest, empty, families)
    drawn = draw_metrics(metrics, cases)
    biased = {name: metric for name, metric in metrics.items() if is_biased(name, families)}
    values = estimate(biased, cases)
    found = {name: interval_of(draws, level, values.get(name)) for name, draws in drawn.items()}
    return {name: interval for name, interval in found.items() if interval is not None}


def draw_metrics(metrics: Mapping[str, Metric], cases: Cases) -> dict[str, Floats]:
    """Return each metric on every draw of the cases: (draws,), NaN where it cannot be formed.

    The draws of two models on the same cases are paired if their seeds are the same.
    """
    blocks = [{name: metric(weighting) for name, metric in metrics.items()} for weighting in cases.drawn()]
    return {name: np.concatenate([block[name] for block in blocks]) for name in metrics if blocks}


def interval_of(drawn: Floats, level: float = 0.95, biased: float | None = None) -> tuple[float, float] | None:
    """Return the percentile interval of bootstrap draws; None where one of twenty could not be formed.

    That of a biased metric is corrected, since its draws are biased once more than its value. The upper end is that of
    the draws centred at the value, so the interval contains the value. The lower end is further down by the bias of the
    value itself, as large as it is if the true value is 0 (see `BIAS_SHARE`).

    Args:
        drawn: (draws,), NaN where the metric cannot be formed.
        level: level of the interval.
        biased: the value over all cases, of a metric that is biased; else None.
    """
    formed = drawn[np.isfinite(drawn)]
    if len(formed) < FORMED * len(drawn):
        return None
    low, high = np.quantile(formed, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    if biased is not None:
        seen = max(0.0, float(formed.mean()) - biased)
        low, high = max(0.0, low - seen - seen / BIAS_SHARE), high - seen
    return float(low), float(high)


def metric_names(manifest: Manifest, families: Families = STANDARD) -> list[str]:
    """Return the metrics that can be formed of a split, if the recipe predicts everything that they need."""
    return [name for name, lacking in formable(manifest, families).items() if not lacking]


def formable(manifest: Manifest, families: Families = STANDARD) -> dict[str, str]:
    """Return every metric of a data set's classes and tasks -> what this split lacks to form it; "" for nothing."""
    lacks: dict[str, str] = {"loss": ""}
    for family in families:
        lacks |= family.requirements(manifest)
    likelihoods = [lacks[family.likelihood] for family in families if family.likelihood in lacks]
    if likelihoods and all(likelihoods):
        lacks["loss"] = "an image with a label or a mask"
    return lacks


def definition_of(name: str, families: Families = STANDARD) -> Definition:
    """Return what a metric is.

    Raises:
        KeyError: no family has this metric.
    """
    definitions = {"loss": LOSS}
    for family in families:
        definitions |= family.definitions
    if name in definitions:
        return definitions[name]
    beginnings = [key for key in definitions if key.endswith("_") and name.startswith(key)]
    if not beginnings:
        raise KeyError(name)
    return definitions[max(beginnings, key=len)]


def is_overlap(name: str, families: Families = STANDARD) -> bool:
    """Whether a metric depends on the rule for empty masks, as Dice and IoU do."""
    try:
        return definition_of(name, families).by_empty_masks
    except KeyError:
        return False


def is_biased(name: str, families: Families = STANDARD) -> bool:
    """Whether a metric is biased, so that its interval is corrected."""
    try:
        return definition_of(name, families).biased
    except KeyError:
        return False


def metrics_of(
    cases: Cases, manifest: Manifest, empty: EmptyRule = "one", families: Families = STANDARD
) -> Mapping[str, Metric]:
    """Return the metrics of a split as functions of the weights of its cases; see `summarise`."""
    columns = Columns(cases, manifest, empty)
    found: dict[str, Metric] = {}
    likelihoods: list[Metric] = []
    for family in families:
        metrics = dict(family.metrics(columns))
        if family.likelihood in metrics:
            likelihoods.append(metrics[family.likelihood])
        found |= metrics
    if not all(np.isfinite(metric(cases.all)[0]) for metric in likelihoods):
        return {}
    return {"loss": weighted.sum_of(likelihoods), **found} if likelihoods else found
