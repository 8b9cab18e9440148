"""Computes the results of the quality benchmark: metrics of every run, means over seeds, and paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from quality_runs import Evaluated
from uml_dist.errors import UmlError
from uml_dist.metrics.summary import draw_metrics, estimate, interval_of, is_biased, metrics_of
from uml_dist.metrics.weighted import Floats

Interval = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        title: title of the line.
        metric: name of the metric.
        better: "more", "less", or "" if the metric does not measure quality.
        instead: metric to use for a method that lacks this one.
        digits: number of decimals.
    """

    title: str
    metric: str
    better: str = ""
    instead: str | None = None
    digits: int = 3


ROWS = (
    Row("Dice", "dice", "more"),
    Row("Dice where the class is in the mask", "dice_present", "more"),
    Row("AUROC of the class", "auroc", "more"),
    Row("accuracy of the class", "accuracy", "more"),
    Row("ECE of the class", "image_ece", "less"),
    Row("ECE of the pixels", "pixel_ece", "less"),
    Row("NLL of the class", "image_nll", "less"),
    Row("NLL of the pixels", "pixel_nll", "less"),
    Row("wrong images found by vacuity *", "image_error_auroc_vacuity", "more", "image_error_auroc_entropy"),
    Row("wrong images found by entropy", "image_error_auroc_entropy", "more"),
    Row("wrong pixels found by vacuity *", "pixel_error_auroc_vacuity", "more", "pixel_error_auroc_entropy"),
    Row("wrong pixels found by entropy", "pixel_error_auroc_entropy", "more"),
    Row("parameters, million", "parameters", digits=2),
    Row("processor seconds, 1000 images", "processor_seconds_per_1000", digits=1),
    Row("processor minutes, whole training", "processor_minutes", digits=1),
    Row("minutes by the clock", "wall_minutes", digits=1),
)


@dataclass(frozen=True)
class Result:
    """The results of one run.

    Attributes:
        method, seed: method and seed of the run.
        keys: keys of the cases.
        values: value by name of the metric.
        draws: values for each bootstrap draw of the cases, by name of the metric; paired over all runs.
        facts: data, settings, versions and machine, for the CSV.
    """

    method: str
    seed: int
    keys: tuple[str, ...]
    values: Mapping[str, float]
    draws: Mapping[str, Floats]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Summary:
    """A metric of one method: mean and standard deviation (NaN for one seed), values, and the interval of the mean."""

    mean: float
    deviation: float
    values: tuple[float, ...]
    interval: Interval | None


@dataclass(frozen=True)
class Compared:
    """A row with the summary of each method, and the difference of the first and second method with its interval."""

    row: Row
    methods: Mapping[str, Summary]
    difference: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Comparison:
    """All rows, with methods and seeds in order of appearance."""

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    rows: tuple[Compared, ...]


def summarise(run: Evaluated) -> Result:
    """Compute the metrics of a run, including its costs, and the bootstrap draws of the metrics."""
    metrics = metrics_of(run.cases, run.manifest)
    values = estimate(metrics, run.cases)
    draws = draw_metrics({name: metrics[name] for name in values}, run.cases)
    setup = run.job.setup
    config = setup.config
    facts = {
        **{"recipe": config.recipe, "dataset": run.manifest.dataset, "split": run.manifest.split},
        **{"cases": len(run.cases), "steps": setup.steps, "checkpoint_step": run.step},
        **{"batch": config.streams[setup.first_stream].count, "lr": config.optimizer.lr},
    }
    return Result(
        run.job.method, run.job.seed, run.cases.keys, {**values, **_costs(run)}, draws, {**facts, **_facts(run)}
    )


def compare(results: Sequence[Result]) -> Comparison:
    """Compute means over seeds, and the difference between two methods.

    The interval of a difference is a bootstrap over the cases, of the mean over the seeds: each draw uses the same
    cases for all runs, and the seeds are fixed.

    Raises:
        UmlError: the runs were evaluated on different cases.
    """
    if len({result.keys for result in results}) > 1:
        raise UmlError("the runs were evaluated on different cases: use the same shards for all of them")
    methods = tuple(dict.fromkeys(result.method for result in results))
    runs = {method: [result for result in results if result.method == method] for method in methods}
    rows = []
    for row in ROWS:
        named = {method: _metric_of(row, runs[method]) for method in methods}
        found = {method: _summary(runs[method], name) for method, name in named.items() if name}
        difference = interval = None
        if row.better and len(found) == len(methods) == 2:
            (_, one), (_, other) = found.items()
            difference = one.mean - other.mean
            drawn = [_mean_draws(runs[method], name) for method, name in named.items() if name]
            interval = interval_of(drawn[0] - drawn[1])
        if row.metric in named.values():
            rows.append(Compared(row, found, difference, interval))
    seeds = tuple(dict.fromkeys(result.seed for result in results))
    return Comparison(methods, seeds, tuple(rows))


def _metric_of(row: Row, runs: Sequence[Result]) -> str | None:
    """Return the metric of a row that every run of a method has; None if a run lacks it."""
    names = [name for name in (row.metric, row.instead) if name and all(name in run.values for run in runs)]
    return names[0] if names else None


def _summary(runs: Sequence[Result], name: str) -> Summary:
    values = tuple(run.values[name] for run in runs)
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    interval = None
    if all(name in run.draws for run in runs):
        biased = float(np.mean(values)) if is_biased(name) else None
        interval = interval_of(_mean_draws(runs, name), biased=biased)
    return Summary(float(np.mean(values)), deviation, values, interval)


def _mean_draws(runs: Sequence[Result], name: str) -> Floats:
    return np.mean([run.draws[name] for run in runs], axis=0)


def _costs(run: Evaluated) -> dict[str, float]:
    costs = {"parameters": run.parameters / 1e6}
    if run.cost is None:
        return costs
    costs["processor_seconds_per_1000"] = 1000.0 * run.cost.processor_seconds / run.cost.images
    if run.cost.from_step == 0:  # otherwise the part before the stop was not measured
        costs["processor_minutes"] = run.cost.processor_seconds / 60.0
        costs["wall_minutes"] = run.cost.wall_seconds / 60.0
    return costs


def _facts(run: Evaluated) -> dict[str, Any]:
    return {"workers": run.cost.workers, **run.cost.machine} if run.cost else {}
