"""Folds of the samples for cross-validation, drawn when splits are opened: stratified, and by patient."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError
from ..format.manifest import Manifest
from ..keyed import keyed_bits, word
from .samples import Samples
from .split import Split

OPTION = "drawn_fold"
"""Entry of the options of a manifest that states the fold."""

Unit = tuple[str, str]
"""What is drawn as one: ("patient", name), or ("key", key) of a sample whose patient is not known."""

Stratum = tuple[int, int]
"""Label of a unit, -1 without any, and whether it has a mask."""

ABSENT: Stratum = (-2, 0)
"""Stratum of a unit in a split in which it does not occur."""


@dataclass(frozen=True)
class Fold:
    """One of several folds.

    Attributes:
        folds: number of folds, at least 2.
        fold: number of the fold, from 0.
        seed: seed of the draw of the folds.
    """

    folds: int
    fold: int
    seed: int = 0

    def __str__(self) -> str:
        return f"fold {self.fold} of {self.folds}"

    def split_name(self, split: str) -> str:
        """Return the name of the held-out samples of a split, such as train-fold-0-of-3."""
        return f"{split}-{str(self).replace(' ', '-')}"

    def held_out(self, samples: Samples, drawn: NDArray[np.int64]) -> Samples:
        """Return the samples of this fold.

        Args:
            samples: all samples of a split, or of several.
            drawn: (N,) fold of each of them.
        """
        return samples.chosen(drawn == self.fold, OPTION, self._facts(samples, True), self.split_name)

    def training(self, samples: Samples, drawn: NDArray[np.int64]) -> Samples:
        """Return the samples of all other folds.

        Args:
            samples: samples of a split, of several, or a part of them.
            drawn: (N,) fold of each sample of the splits; a part has its share of them.

        Raises:
            ShardError: a part has none.
        """
        chosen = (drawn if samples.rows is None else drawn[samples.rows]) != self.fold
        if not chosen.any():
            raise ShardError(f"{samples}: no sample of the part is outside {self}: use another fold, or more folds")
        return samples.chosen(chosen, OPTION, self._facts(samples, False))

    def _facts(self, samples: Samples, held_out: bool) -> dict[str, Any]:
        return {**asdict(self), "held_out": held_out, "of": samples.digest}


def held_out_fold(manifest: Manifest) -> tuple[Fold, str] | None:
    """Return the fold of which a manifest describes the samples, and the digest of all folds together; None if none."""
    facts = manifest.options.get(OPTION)
    if not isinstance(facts, Mapping) or facts.get("held_out") is not True:
        return None
    folds, fold, seed, whole = (facts.get(key) for key in ("folds", "fold", "seed", "of"))
    if not (isinstance(folds, int) and isinstance(fold, int) and isinstance(seed, int) and isinstance(whole, str)):
        return None  # of an importer that has an option of this name
    return Fold(folds, fold, seed), whole


def draw_folds(splits: Sequence[Split], folds: int, seed: int = 0) -> list[NDArray[np.int64]]:
    """Return the fold (N,) of each sample, for every split.

    All samples of a patient are in one fold, also those in different splits: equal names are taken for one patient. A
    sample without a patient is drawn by its key, likewise. The draw depends on these names, on the labels and on which
    samples have masks, but not on the order of the samples or the place of the splits. No image is read, but every tar
    is opened for the names.

    Args:
        splits: the splits; one may occur several times.
        folds: number of folds.
        seed: seed of the draw.

    Raises:
        ShardError: a split has fewer patients than there are folds, a fold lacks a class or masks that its split has,
            or a tar cannot be read.
    """
    distinct = {split.digest: split for split in splits}
    units = {digest: [_unit(*case) for case in split.cases()] for digest, split in distinct.items()}
    strata: dict[Unit, list[Stratum]] = defaultdict(lambda: [ABSENT] * len(distinct))
    for place, (digest, split) in enumerate(distinct.items()):
        for unit, stratum in strata_of(units[digest], split.labels().tolist(), split.masked().tolist()).items():
            strata[unit][place] = stratum
    numbers = deal({unit: tuple(found) for unit, found in strata.items()}, folds, seed)
    drawn = {}
    for digest, split in distinct.items():
        drawn[digest] = np.asarray([numbers[unit] for unit in units[digest]], dtype=np.int64)
        _check(split, len(set(units[digest])), drawn[digest], folds)
    return [drawn[split.digest] for split in splits]


def deal(strata: Mapping[Unit, Any], folds: int, seed: int) -> dict[Unit, int]:
    """Return the fold of each unit.

    Units of one stratum are shuffled, and the strata are dealt out one after another. So the folds differ by at most
    one unit of each stratum, and by at most one unit in total.

    Args:
        strata: unit -> its stratum; strata can be sorted.
        folds: number of folds.
        seed: seed of the shuffling, which is a hash of each unit's own name.
    """
    units = sorted(strata)
    hashes = keyed_bits("folds", seed, np.asarray([word("/".join(unit)) for unit in units], dtype=np.uint64))
    order = sorted(range(len(units)), key=lambda number: (strata[units[number]], hashes[number], number))
    return {units[number]: place % folds for place, number in enumerate(order)}


def strata_of(units: Sequence[Unit], labels: Iterable[int], masked: Iterable[bool]) -> dict[Unit, Stratum]:
    """Return the stratum of each unit: its most frequent label, the highest of equally frequent ones, then any mask.

    Args:
        units: (N,) unit of each sample.
        labels: (N,) labels, -1 without one.
        masked: (N,) which samples have a mask.
    """
    counts: dict[Unit, Counter[int]] = defaultdict(Counter)
    masks: dict[Unit, bool] = defaultdict(bool)
    for unit, label, has_mask in zip(units, labels, masked, strict=True):
        counts[unit][label] += label >= 0
        masks[unit] |= has_mask
    return {
        unit: (max(found, key=lambda label: (found[label], label)), int(masks[unit])) for unit, found in counts.items()
    }


def _unit(key: str, patient: str) -> Unit:
    return ("patient", patient) if patient else ("key", key)


def _check(split: Split, units: int, drawn: NDArray[np.int64], folds: int) -> None:
    """Check that every fold of a split can be trained without and evaluated.

    Raises:
        ShardError: there are too few units, or a fold lacks a class or masks that the split has.
    """
    if units < folds:
        raise ShardError(
            f"{split.path}: {units} patients, or samples without one, cannot be divided into {folds} folds: use fewer"
        )
    labels, names = split.labels(), split.manifest.classes
    kinds = {f"of class {names[k] if k < len(names) else k}": labels == k for k in np.unique(labels[labels >= 0])}
    for kind, members in {**kinds, "with a mask": split.masked()}.items():
        counts = np.bincount(drawn[members], minlength=folds)
        if members.any() and not counts.all():
            raise ShardError(
                f"{split.path}: fold {int(counts.argmin())} of {folds} has no sample {kind}, since too few patients "
                "have one: use fewer folds, or another seed of the draw"
            )
