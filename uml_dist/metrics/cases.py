"""The cases of a split: figures by column, and sums over the cases of everything that is larger than a number.

Histograms of the pixels take kilobytes per case. They are needed only as sums: over all cases, and over each draw of
the bootstrap. So the draws are made first, and every batch is added to all sums as it comes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..batch import Batch
from ..distributed.ranks import all_gather, gather, rank, sum_on_first_rank
from .weighted import Floats, Weighting

Case = Mapping[str, Any]
"""Figures of one case by name, with its `key`."""

BLOCK = 4_000_000
"""Number of weights in memory at once, as float64."""


def draw_weights(cases: int, draws: int, seed: int, patients: Sequence[str] = ()) -> NDArray[np.uint8]:
    """Return how often each case is in each bootstrap draw: (draws, cases). Drawn with replacement.

    Patients are drawn with all their cases, where they are known: cases of one patient resemble each other, so that
    drawing them one by one gives intervals that are too narrow. The draws are determined by the number of cases, their
    patients and the seed, so those of two models are paired.

    Args:
        cases: number of cases.
        draws: number of draws.
        seed: seed of the draws.
        patients: (cases,), the patient of each; "" for cases that are drawn by themselves. () is "" for all.
    """
    weights = np.empty((draws, cases), dtype=np.uint8)
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK // max(cases, 1))
    units = number_units(patients) if patients else np.arange(cases)
    number = int(units.max(initial=-1)) + 1
    for start in range(0, draws if cases else 0, block):
        stop = min(start + block, draws)
        drawn = generator.multinomial(number, np.full(number, 1.0 / number), stop - start)
        assert drawn.max() <= np.iinfo(weights.dtype).max, "a case is drawn more often than the type can count"
        weights[start:stop] = drawn[:, units]
    return weights


def number_units(patients: Sequence[str]) -> NDArray[np.int64]:
    """Return the number (N,) of what each case is drawn with, its patient or itself, in the order of first cases."""
    numbers: dict[tuple[str, int], int] = {}
    units = [(patient, -1) if patient else ("", place) for place, patient in enumerate(patients)]
    return np.array([numbers.setdefault(unit, len(numbers)) for unit in units], dtype=np.int64)


@dataclass(frozen=True)
class Cases(Sequence[Case]):
    """The evaluated cases of a split, sorted by key; N cases, D bootstrap draws. As a sequence, its items are rows.

    Attributes:
        keys: names of the cases.
        columns: name -> (N,), one number per case.
        sums: name -> (1 + D, ...) float64, sum over all cases, then over the cases of each draw.
        draws: (D, N), how often each case is in each draw.
        seed: seed of the draws.
        patients: patients of the cases, "" where one is not known; () if none is, or without draws.
    """

    keys: tuple[str, ...] = ()
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    sums: Mapping[str, Floats] = field(default_factory=dict)
    draws: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 0), dtype=np.uint8))
    seed: int = 0
    patients: tuple[str, ...] = ()

    @property
    def units(self) -> int:
        """Number of patients, or of cases where the patients are not known: what the draws are made of."""
        return len(set(number_units(self.patients).tolist())) if self.patients else len(self)

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> Case: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Case]: ...

    def __getitem__(self, index: int | slice) -> Case | Sequence[Case]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        return {"key": self.keys[index], **{name: column[index].item() for name, column in self.columns.items()}}

    def rows(self, indices: Sequence[int]) -> "Cases":
        """Return some of the cases in the given order, without sums and draws."""
        columns = {name: column[list(indices)] for name, column in self.columns.items()}
        return Cases(tuple(self.keys[index] for index in indices), columns, seed=self.seed)

    @property
    def all(self) -> Weighting:
        """Every case once."""
        return Weighting(np.ones((1, len(self))), {name: values[:1] for name, values in self.sums.items()})

    def drawn(self) -> Iterator[Weighting]:
        """Yield the bootstrap draws in blocks."""
        block = max(1, BLOCK // max(len(self), 1))
        for start in range(0, len(self.draws), block):
            part = slice(start, start + block)
            sums = {name: values[1:][part] for name, values in self.sums.items()}
            yield Weighting(self.draws[part].astype(np.float64), sums)


class CaseCollector:
    """Collects the cases of this rank, batch by batch.

    Args:
        keys: keys of the split's samples, by position.
        draws: number of bootstrap draws; 0 without intervals.
        seed: seed of the draws.
        patients: patients of the samples, by position, "" where one is not known; () if none is.
    """

    def __init__(self, keys: Sequence[str], draws: int = 0, seed: int = 0, patients: Sequence[str] = ()) -> None:
        self._seed = seed
        order = sorted(range(len(keys)), key=keys.__getitem__)
        self._row = np.empty(len(keys), dtype=np.int64)
        self._row[order] = np.arange(len(keys))
        self._patients = tuple(patients[position] for position in order) if any(patients) else ()
        self._draws = draw_weights(len(keys), draws, seed, self._patients)
        self._rows: list[NDArray[np.int64]] = []
        self._keys: list[str] = []
        self._columns: dict[str, list[NDArray[Any]]] = {}
        self._sums: dict[str, Floats] = {}

    def add(self, batch: Batch, columns: Mapping[str, Tensor]) -> None:
        """Add a batch. Placeholders are left out.

        Args:
            batch: the samples.
            columns: name -> (B,), which is kept for each case, or (B, ...), which is only summed.
        """
        counted = (batch.weight > 0).cpu().numpy()
        rows = self._row[batch.position.cpu().numpy()[counted]]
        self._rows.append(rows)
        self._keys += [key for key, counts in zip(batch.keys, counted, strict=True) if counts]
        weights = np.vstack([np.ones((1, len(rows))), self._draws[:, rows]])
        for name, column in columns.items():
            values = column.cpu().numpy()[counted]
            if values.ndim == 1:
                self._columns.setdefault(name, []).append(values)
                continue
            flat = values.reshape(len(values), -1)
            total = self._sums.setdefault(name, np.zeros((len(weights), *values.shape[1:])))
            used = np.flatnonzero(flat.any(0))  # most bins of a histogram are empty
            total.reshape(len(weights), -1)[:, used] += weights @ flat[:, used].astype(np.float64)

    def gather(self) -> Cases:
        """Return the cases of all ranks on rank 0, and none on the others. All ranks must call it."""
        own = {name: np.concatenate(parts) for name, parts in self._columns.items()}
        rows = np.concatenate(self._rows) if self._rows else np.empty(0, dtype=np.int64)
        parts = [part for part in gather((rows, self._keys, own)) if part[1]]
        shapes = {name: shape for one in all_gather(_shapes(self._sums)) for name, shape in one.items()}
        sums = {name: sum_on_first_rank(self._sums.get(name, np.zeros(shape))) for name, shape in shapes.items()}
        if rank() != 0 or not parts:
            return Cases(seed=self._seed)
        rows = np.concatenate([part[0] for part in parts])
        order = np.argsort(rows)
        keys = [key for part in parts for key in part[1]]
        return Cases(
            keys=tuple(keys[number] for number in order),
            columns={name: np.concatenate([part[2][name] for part in parts])[order] for name in parts[0][2]},
            sums=sums,
            draws=self._draws if len(order) == len(self._row) else self._draws[:, rows[order]],
            seed=self._seed,
            patients=tuple(self._patients[row] for row in rows[order]) if self._patients else (),
        )


def _shapes(arrays: Mapping[str, NDArray[Any]]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}
