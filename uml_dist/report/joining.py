"""Several evaluations that belong together, of seeds or of folds: whether they do, and their mean with an interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from ..errors import UmlError
from .records import Evaluated

LEVEL = 0.95

ADVICE = "a report joins runs that differ in their seed or their fold"

DATA = ("data.fold",)
SEED = "train.seed"
UNRELATED = ("metrics.", "checkpoint.", "data.workers", "train.log_every", "zero.")
"""Settings that change no figure."""


@dataclass(frozen=True)
class Joined:
    """Evaluations that belong together.

    Attributes:
        kind: what they are of.
        runs: the evaluations, folds in their order.
        metrics: the metrics that all have -> (runs,), the value of each.
        partial: the metrics that some have -> names of the runs that lack it.
        warnings: what a reader must know, one line each.
    """

    kind: Literal["seeds", "folds"]
    runs: tuple[Evaluated, ...]
    metrics: dict[str, tuple[float, ...]]
    partial: dict[str, tuple[str, ...]]
    warnings: tuple[str, ...]

    @property
    def first(self) -> Evaluated:
        """The first evaluation, which states what is the same in all."""
        return self.runs[0]


def join(evaluated: Sequence[Evaluated]) -> Joined:
    """Check that evaluations belong together, and return them.

    Raises:
        UmlError: they differ in what must be the same, or are not all folds of one draw.
    """
    if len(evaluated) < 2:
        raise UmlError("a joined report needs at least two runs: for one, use evaluate.py --report")
    for number, one in enumerate(evaluated):
        for other in evaluated[:number]:
            if one.run.resolve() == other.run.resolve():
                raise UmlError(f"{one.run} is named twice: name each run once")
    for other in evaluated[1:]:
        _check_same(evaluated[0], other)
    folds = any(one.record.fold for one in evaluated)
    runs = _folds(evaluated) if folds else list(evaluated)
    if not folds:
        for other in runs[1:]:
            _refuse(runs[0], other, "data (data_digest)", *(one.record.data_digest[:12] for one in (runs[0], other)))
    shared = [name for name in runs[0].record.metrics if all(name in one.record.metrics for one in runs)]
    every = dict.fromkeys(name for one in runs for name in one.record.metrics)
    return Joined(
        kind="folds" if folds else "seeds",
        runs=tuple(runs),
        metrics={name: tuple(one.record.metrics[name] for one in runs) for name in shared},
        partial={
            name: tuple(one.name for one in runs if name not in one.record.metrics)
            for name in every
            if name not in shared
        },
        warnings=tuple(_warnings(runs)),
    )


def _check_same(one: Evaluated, other: Evaluated) -> None:
    first, second = one.record, other.record
    for what, here, there in (
        ("recipe", first.recipe, second.recipe),
        ("data set", first.shards or first.dataset, second.shards or second.dataset),
        ("image classes", ", ".join(first.image_classes), ", ".join(second.image_classes)),
        ("mask classes", ", ".join(first.mask_classes), ", ".join(second.mask_classes)),
        ("rule for empty masks", first.empty_masks, second.empty_masks),
        ("weights", first.weights, second.weights),
        ("data of which folds were drawn", first.folds_data_digest[:12], second.folds_data_digest[:12]),
    ):
        _refuse(one, other, what, here, there)
    if (first.fold is None) != (second.fold is None):
        held, whole = (one, other) if first.fold else (other, one)
        raise UmlError(f"{held.run} is of a fold, {whole.run} is not: {ADVICE}")


def _refuse(one: Evaluated, other: Evaluated, what: str, here: str, there: str) -> None:
    if here != there:
        raise UmlError(f"{one.run} and {other.run} differ in {what} ({here or 'none'} and {there or 'none'}): {ADVICE}")


def _folds(evaluated: Sequence[Evaluated]) -> list[Evaluated]:
    """Return the evaluations of all folds in order.

    Raises:
        UmlError: they are of several draws, a fold is there twice, or one is missing.
    """
    numbers: dict[int, Evaluated] = {}
    first = evaluated[0].record.fold
    assert first is not None
    for one in evaluated:
        fold = one.record.fold
        assert fold is not None
        if (fold.folds, fold.seed) != (first.folds, first.seed):
            raise UmlError(
                f"{evaluated[0].run} and {one.run} are folds of different draws ({first.folds} folds of seed "
                f"{first.seed}, {fold.folds} of seed {fold.seed}): {ADVICE}"
            )
        if fold.fold in numbers:
            raise UmlError(f"{numbers[fold.fold].run} and {one.run} are both fold {fold.fold}: name each fold once")
        numbers[fold.fold] = one
    missing = [str(number) for number in range(first.folds) if number not in numbers]
    if missing:
        raise UmlError(
            f"fold {', '.join(missing)} of {first.folds} is missing beside {evaluated[0].run}: train and evaluate it "
            "too, since only all folds together are all cases"
        )
    return [numbers[number] for number in sorted(numbers)]


def interval_of_mean(values: Sequence[float]) -> tuple[float, float]:
    """Return the t interval of the mean of at least two values, 95 %."""
    mean, error = float(np.mean(values)), float(stats.sem(values))
    reach = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    return mean - reach, mean + reach


def differing(runs: Sequence[Evaluated]) -> dict[str, tuple[str, ...]]:
    """Return the settings in which the runs differ -> the value of each run, "" where it has none."""
    names = dict.fromkeys(name for one in runs for name in one.settings)
    values = {name: tuple(one.settings.get(name, "") for one in runs) for name in names}
    return {name: given for name, given in values.items() if len(set(given)) > 1 and not name.startswith(UNRELATED)}


def _warnings(runs: Sequence[Evaluated]) -> list[str]:
    found = []
    others = [name for name in differing(runs) if name != SEED and not name.startswith(DATA)]
    if others:
        found.append(
            f"The runs differ in more than seed or fold ({', '.join(others)}): their mean describes none of them."
        )
    if not any(one.record.fold for one in runs):
        seeds: dict[str, str] = {}
        for one in runs:
            seed = one.settings.get(SEED, "")
            if seed and seed in seeds:
                found.append(
                    f"{seeds[seed]} and {one.name} have the same seed {seed}: they are not independent trainings."
                )
            seeds.setdefault(seed, one.name)
    if len({one.record.notes.get("windows", "") for one in runs}) > 1:
        found.append("The runs were evaluated by different windows; see the notes of their metrics.json.")
    return found
