"""The columns of a split's cases, and figures that follow from them case by case."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from uml_shards.format.manifest import Manifest
from uml_shards.read.truth import EmptyRule

from .cases import Cases
from .weighted import Flags, Floats


class Columns:
    """Columns of cases; N cases, K image classes.

    Args:
        cases: cases of a split.
        manifest: the split's manifest.
        empty: rule for classes that are neither in a mask nor predicted.
    """

    def __init__(self, cases: Cases, manifest: Manifest, empty: EmptyRule = "one") -> None:
        self.cases = cases
        self.manifest = manifest
        self.empty = empty

    def column(self, name: str) -> Floats:
        """Return a column (N,); NaN without it."""
        if not self.has(name):
            return np.full(len(self.cases), np.nan)
        return self.cases.columns[name].astype(np.float64)

    def has(self, name: str) -> bool:
        """Whether the cases have this column."""
        return name in self.cases.columns

    @cached_property
    def label(self) -> NDArray[np.int64]:
        """(N,); -1 for cases without one."""
        return self.column("label").astype(np.int64)

    @cached_property
    def labelled(self) -> Flags:
        """(N,): cases with a label and a prediction of it, or of a binary task."""
        return (self.label >= 0) & any(name == "image_nll" or name.startswith("task_") for name in self.cases.columns)

    @cached_property
    def masked(self) -> Flags:
        """(N,): cases with a pixel that counts and a prediction of it."""
        return self.column("pixels") > 0

    @property
    def known(self) -> Flags:
        """(N,): cases with a label or a pixel that counts, and a prediction of it."""
        return self.labelled | self.masked

    @cached_property
    def probability(self) -> Floats:
        """(N, K), probability of the image classes."""
        return np.stack([self.column(f"probability_{k}") for k in range(len(self.manifest.classes))], axis=1)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """(N,), the most probable image class."""
        return self.probability.argmax(1)

    @cached_property
    def entropy(self) -> Floats:
        """(N,), entropy of the image probability in nats."""
        probability = self.probability
        return -(probability * np.log(np.maximum(probability, 1e-300))).sum(1)

    @property
    def foreground(self) -> list[tuple[int, str]]:
        """Number and name of every pixel class but the background, or of every lesion if they may overlap."""
        return list(enumerate(self.manifest.mask_names)) or list(enumerate(self.manifest.mask_classes))[1:]

    def overlap(self, number: int | str) -> tuple[Floats, Floats]:
        """Dice 2 |A and B| / (|A| + |B|) and IoU |A and B| / |A or B| of a class or a lesion, each (N,).

        NaN for cases without a mask. Where the class is neither there nor predicted, both are 1 or NaN by the rule;
        where it is on one side only, both are 0.
        """
        both = self.column(f"intersection_{number}")
        sizes = self.column(f"predicted_{number}") + self.column(f"true_{number}")
        none = 1.0 if self.empty == "one" else np.nan
        dice = np.where(sizes > 0, 2.0 * both / np.maximum(sizes, 1.0), none)
        iou = np.where(sizes > 0, both / np.maximum(sizes - both, 1.0), none)
        return np.where(self.masked, dice, np.nan), np.where(self.masked, iou, np.nan)

    @cached_property
    def dice(self) -> Floats:
        """(N,), the mean Dice of a case over the classes but the background that count in it; NaN where none does."""
        numbers = [number for number, _ in self.foreground]
        dices = np.array([self.overlap(number)[0] for number in numbers]).reshape(len(numbers), len(self.cases))
        counted = np.isfinite(dices)
        number = counted.sum(0)
        return np.where(number > 0, np.where(counted, dices, 0.0).sum(0) / np.maximum(number, 1), np.nan)

    def counts(self) -> dict[str, int]:
        """Cases, what they have, and how often a class is empty in the truth, in the prediction or in both."""
        counts = {"cases": len(self.cases), "labelled": int(self.labelled.sum()), "masked": int(self.masked.sum())}
        if self.masked.any():
            counts["pixels"] = int(self.column("pixels")[self.masked].sum())
            for number, name in self.foreground:
                no_truth = (self.column(f"true_{number}") == 0) & self.masked
                no_prediction = (self.column(f"predicted_{number}") == 0) & self.masked
                counts[f"empty_truth_{name}"] = int(no_truth.sum())
                counts[f"empty_prediction_{name}"] = int(no_prediction.sum())
                counts[f"empty_both_{name}"] = int((no_truth & no_prediction).sum())
        return counts
