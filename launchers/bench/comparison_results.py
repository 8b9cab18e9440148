"""Computes the results of a comparison: metrics of every run, means over seeds, and paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from comparison_runs import Evaluated
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
class Difference:
    """The difference of a method's mean from that of the reference, with its interval, and that of each seed."""

    value: float
    interval: Interval | None
    of_seeds: tuple[float, ...] = ()

    @property
    def is_clear(self) -> bool:
        """Whether the interval does not contain 0 and the difference has the same sign in every seed."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return False
        return all(value * self.value > 0 for value in self.of_seeds)


@dataclass(frozen=True)
class Compared:
    """A row with the summary of each method, and the difference of every other method from the reference."""

    row: Row
    methods: Mapping[str, Summary]
    differences: Mapping[str, Difference]


@dataclass(frozen=True)
class Comparison:
    """All rows, with methods and seeds in order of appearance, and the method that the others are compared with."""

    methods: tuple[str, ...]
    reference: str
    seeds: tuple[int, ...]
    rows: tuple[Compared, ...]


def summarise(run: Evaluated) -> Result:
    """Compute the metrics of a run, including its costs, and the bootstrap draws of the metrics."""
    metrics = metrics_of(run.cases, run.manifest, families=run.families)
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


def compare(results: Sequence[Result], rows: Sequence[Row], reference: str) -> Comparison:
    """Compute means over seeds, and the differences of the methods from one of them.

    The interval of a difference is a bootstrap over the cases, of the mean over the seeds: each draw uses the same
    cases for all runs, and the seeds are fixed.

    Args:
        results: the runs.
        rows: lines of the table; those of which no run has the metric are left out.
        reference: the method that the others are compared with.

    Raises:
        UmlError: the runs were evaluated on different cases.
    """
    if len({result.keys for result in results}) > 1:
        raise UmlError("the runs were evaluated on different cases: use the same shards for all of them")
    methods = tuple(dict.fromkeys(result.method for result in results))
    runs = {method: [result for result in results if result.method == method] for method in methods}
    compared = []
    for row in rows:
        named = {method: name for method in methods if (name := _metric_of(row, runs[method]))}
        found = {method: _summary(runs[method], name) for method, name in named.items()}
        differences = {}
        if row.better and reference in found:
            drawn = {method: _mean_draws(runs[method], name) for method, name in named.items()}
            differences = {
                method: _difference(runs, named, method, reference, interval_of(drawn[method] - drawn[reference]))
                for method in found
                if method != reference
            }
        if row.metric in named.values():
            compared.append(Compared(row, found, differences))
    seeds = tuple(dict.fromkeys(result.seed for result in results))
    return Comparison(methods, reference, seeds, tuple(compared))


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


def _difference(
    runs: Mapping[str, Sequence[Result]],
    named: Mapping[str, str],
    method: str,
    reference: str,
    interval: Interval | None,
) -> Difference:
    """Return the difference of two methods in their metrics; their runs have the same seeds in the same order."""
    values, others = ([run.values[named[one]] for run in runs[one]] for one in (method, reference))
    of_seeds = tuple(value - other for value, other in zip(values, others, strict=True))
    return Difference(float(np.mean(of_seeds)), interval, of_seeds)


def _mean_draws(runs: Sequence[Result], name: str) -> Floats:
    return np.mean([run.draws[name] for run in runs], axis=0)


def _costs(run: Evaluated) -> dict[str, float]:
    costs = {"parameters": run.parameters / 1e6}
    if run.step_seconds is not None:
        costs["step_seconds"] = run.step_seconds
    if run.cost is None:
        return costs
    if run.cost.peak_gigabytes is not None:
        costs["peak_gigabytes"] = run.cost.peak_gigabytes
    costs["processor_seconds_per_1000"] = 1000.0 * run.cost.processor_seconds / run.cost.images
    if run.cost.from_step == 0:  # otherwise the part before the stop was not measured
        costs["processor_minutes"] = run.cost.processor_seconds / 60.0
        costs["wall_minutes"] = run.cost.wall_seconds / 60.0
    return costs


def _facts(run: Evaluated) -> dict[str, Any]:
    return {"workers": run.cost.workers, **run.cost.machine} if run.cost else {}
