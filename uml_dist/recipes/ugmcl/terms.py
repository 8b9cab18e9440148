"""The terms of the loss of UG-MCL, as sums before ratios over the global batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from uml_kernels import consistency_sums, evidential_sums
from uml_shards.sample import IGNORE

from ...distributed.global_batch import GlobalBatch
from .network import VolumeOutput
from .objective import Plan, UgmclObjective

SMOOTH = 1e-5

Terms = dict[str, Tensor]
"""Name of a term -> its float32 scalar, without its weight."""


def voxels_of(weight: Tensor, sides: Sequence[int]) -> Tensor:
    """Return (B, *sides) bool without taking memory: all voxels of the samples whose weight (B,) is above 0."""
    return (weight > 0).reshape(-1, *(1,) * len(sides)).expand(-1, *sides)


@dataclass(frozen=True)
class Truth:
    """The classes that a segmentation should have.

    Attributes:
        target: (B, *S) int64, class of each voxel; anything where it does not count.
        counted: (B, *S) bool, the voxels that count.
        name: name of its counts over the global batch: `NAME` of voxels, `NAME_samples` of samples.
    """

    target: Tensor
    counted: Tensor
    name: str

    @classmethod
    def of(cls, mask: Tensor, weight: Tensor, name: str) -> "Truth":
        """Return the truth of masks (B, *S) uint8, 255 where they are unknown, of samples of a weight (B,)."""
        counted = (mask != IGNORE) & voxels_of(weight, mask.shape[1:])
        return cls(torch.where(counted, mask, 0).long(), counted, name)

    def counts(self) -> dict[str, Tensor]:
        """Return the counts of a micro batch."""
        return {self.name: self.counted.sum(), f"{self.name}_samples": self.samples.sum()}

    @property
    def samples(self) -> Tensor:
        """(B,) bool, the samples with a voxel that counts."""
        return self.counted.flatten(1).any(1)


@dataclass(frozen=True)
class Segmentation:
    """The terms of a segmentation whose truth is known.

    Attributes:
        objective: the configuration.
        whole: the global batch, with the counts of every truth.
        evidential: whether logits are ln(1 + evidence).
        kl: weight of the divergence from ignorance in the evidential loss.
    """

    objective: UgmclObjective
    whole: GlobalBatch
    evidential: bool
    kl: float

    def terms(self, output: VolumeOutput, truth: Truth) -> Terms:
        """Return the cross-entropy, expected or plain, and the Dice loss."""
        errors = self._expected(output.logits, truth) if self.evidential else self._plain(output.logits, truth)
        return {
            "cross_entropy": self.whole.mean(errors, truth.name),
            "dice": self.dice_loss(output.probability[:, 1:], truth),
        }

    def _plain(self, logits: Tensor, truth: Truth) -> Tensor:
        return (functional.cross_entropy(logits, truth.target, reduction="none") * truth.counted).sum()

    def _expected(self, logits: Tensor, truth: Truth) -> Tensor:
        target = torch.where(truth.counted, truth.target, IGNORE)
        sums = evidential_sums(torch.expm1(logits), target, kind="given", dice="none", ignore_index=IGNORE)
        return (sums.cross_entropy + self.kl * sums.kl).sum()

    def dice_loss(self, probability: Tensor, truth: Truth) -> Tensor:
        """Return the mean of 1 - D over the foreground classes, D = 2 sum qg / (sum q^2 + sum g^2).

        The sums are over the global batch or, by `objective.dice_scope`, over each sample.

        Args:
            probability: (B, C - 1, *S), probability q of each foreground class.
            truth: the classes; g is 1 where a voxel is of the class.
        """
        classes = torch.arange(1, probability.shape[1] + 1, device=probability.device)
        of_class = truth.target[:, None] == classes.reshape(-1, *(1,) * (truth.target.dim() - 1))
        counted = truth.counted[:, None]
        both = (probability * (of_class & counted)).flatten(2).sum(2)
        sums = ((probability.square() + of_class) * counted).flatten(2).sum(2)
        if self.objective.dice_scope == "global":
            both, sums = self.whole.total(torch.stack([both.sum(0), sums.sum(0)]))
            return _dice_loss(both, sums).mean()
        losses = _dice_loss(both, sums).mean(1)
        return self.whole.mean((losses * truth.samples).sum(), f"{truth.name}_samples")

    def distance_error(self, output: VolumeOutput, truth: Truth, distance_map: Tensor) -> Tensor:
        """Return the mean error of the distances from those (B, D, *S) of the truth."""
        assert output.distance is not None
        error = output.distance - distance_map
        each = error.square() if self.objective.distance_loss == "squared" else error.abs()
        return self.whole.mean((each.mean(1) * truth.counted).sum(), truth.name)


def _dice_loss(both: Tensor, sums: Tensor) -> Tensor:
    return 1.0 - (2.0 * both + SMOOTH) / (sums + SMOOTH)


def agreement(
    output: VolumeOutput, targets: Mapping[str, Tensor], weight: Tensor, whole: GlobalBatch, plan: Plan, slope: float
) -> Terms:
    """Return the terms of agreement, of student and teacher and of segmentation and distance.

    Args:
        output: the student's output for the samples that should agree.
        targets: of these samples: the teacher's "probability" and "distance", and the "gate" (B, *S) of the voxels that
            count in its agreement; none without a teacher.
        weight: (B,), weights of these samples, 0 for placeholders.
        whole: the global batch, with the counts "matched" of all these voxels and "gate" of those that pass the gate.
        plan: the objective.
        slope: k, by which a distance becomes a share of a mask.
    """
    logits, counted = output.logits, voxels_of(weight, output.logits.shape[2:])
    # What a method lacks is replaced by zeros, which take no memory, and their sums are not used.
    none = logits.new_zeros(()).expand_as(logits)
    distance = none[:, 1:] if output.distance is None else output.distance
    sums = consistency_sums(
        logits,
        distance,
        targets.get("probability", none),
        targets.get("distance", none[:, : distance.shape[1]]),
        targets.get("gate", counted),
        slope,
    )
    terms: Terms = {}
    if plan.weights.intra > 0:
        terms["intra"] = plan.balance * whole.mean(sums.segmentation.sum(), "gate")
        if plan.balance < 1:
            terms["intra"] = terms["intra"] + (1.0 - plan.balance) * whole.mean(sums.distance.sum(), "gate")
    if plan.weights.cross > 0:
        gated, every = sums.gated_cross.sum(), (sums.cross * (weight > 0)).sum()
        terms["cross"] = whole.mean(gated, "gate") if plan.gate_cross else whole.mean(every, "matched")
    return terms
