"""The terms of the losses of collaborative learning, as shares of means over the global batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from uml_kernels import evidential_sums, opinion
from uml_shards.sample import IGNORE

from ...batch import Batch
from ...distributed.global_batch import GlobalBatch
from .evidence import EVIDENCE

ABSENT = -1

SMOOTH = 1.0

Terms = dict[str, Tensor]
"""Name of a term -> its float32 scalar, without its weight."""


def counted_pixels(batch: Batch) -> Tensor:
    """Return (B, L, H, W) bool, the pixels whose lesions are known."""
    return (batch.mask != IGNORE) & (batch.weight > 0)[:, None, None, None]


@dataclass(frozen=True)
class LesionLoss:
    """The losses of lesion maps, from the generator's scores; see `LesionMaps.of`.

    Attributes:
        whole: the global batch, with the counts "lesion_pixels", "masked" and "pseudo".
        positive: weight of each lesion's pixels in the cross-entropy of labelled masks.
        kl: weight of the divergence from ignorance, for scores that are evidence.
    """

    whole: GlobalBatch
    positive: Sequence[float]
    kl: float

    def labelled(self, scores: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of scores with the masks of images that have them."""
        counted = counted_pixels(batch)
        presence = _presence(batch, counted)
        positive = presence.new_tensor(self.positive)[:, None, None]
        errors = self._errors(scores, presence, counted * (1.0 + (positive - 1.0) * presence))
        return self.whole.mean(errors, "lesion_pixels")

    def dice(self, probability: Tensor, batch: Batch) -> Tensor:
        """Return the mean of 1 - Dice over the maps (B, L, H, W) of images that have masks."""
        counted = counted_pixels(batch)
        presence, probability = _presence(batch, counted), probability * counted
        both, sums = (value.flatten(2).sum(2) for value in (probability * presence, probability + presence))
        losses = (1.0 - (2.0 * both + SMOOTH) / (sums + SMOOTH)).mean(1)
        return self.whole.mean((losses * counted.flatten(1).any(1)).sum(), "masked")

    def pseudo(self, scores: Tensor, presence: Tensor, weight: Tensor) -> Tensor:
        """Return the cross-entropy of scores with pseudo masks and their weights (B, L, H, W)."""
        return self.whole.mean(self._errors(scores, presence, weight), "pseudo")

    def _errors(self, scores: Tensor, presence: Tensor, weight: Tensor) -> Tensor:
        """Return the weighted sum of cross-entropies with the presence, from 0 to 1, of each lesion in each pixel."""
        if scores.dim() == 4:
            logits = scores.float()
            return functional.binary_cross_entropy_with_logits(logits, presence, weight=weight, reduction="sum")
        target = torch.stack([1.0 - presence, presence], 2)
        sums = evidential_sums(scores, target, kind=EVIDENCE, dice="none", dim=2, weight=weight)
        return (sums.cross_entropy + self.kl * sums.kl).sum()


def _presence(batch: Batch, counted: Tensor) -> Tensor:
    """Return (B, L, H, W) float32, 1 where a pixel has a lesion, 0 also where that is not known."""
    return ((batch.mask == 1) & counted).float()


def grade_loss(logits: Tensor, batch: Batch, whole: GlobalBatch, kind: str, kl: float) -> Tensor:
    """Return the mean loss of the grade over the images that have one.

    Args:
        logits: (B, K), or (B, K - 1) for `kind` ordinal.
        batch: the images.
        whole: the global batch, with the count "graded".
        kind: "cross_entropy", "ordinal" or "evidential".
        kl: weight of the divergence from ignorance, for evidence.
    """
    label, logits = batch.label.clamp(min=0), logits.float()
    match kind:
        case "evidential":
            sums = evidential_sums(logits, batch.label, kind=EVIDENCE, dice="none", ignore_index=ABSENT)
            # Without any evidence, the gradient of both vanishes: Pandey and Yu, ICML 2023, add the logarithm of the
            # label's evidence, here the logit itself, as far as nothing is known.
            unknown = opinion(logits.detach(), EVIDENCE).vacuity
            errors = sums.cross_entropy + kl * sums.kl - unknown * logits.gather(1, label[:, None])[:, 0]
        case "ordinal":
            above = (label[:, None] > torch.arange(logits.shape[1], device=label.device)).float()
            errors = functional.binary_cross_entropy_with_logits(logits, above, reduction="none").sum(1)
        case _:
            errors = functional.cross_entropy(logits, label, reduction="none")
    return whole.mean((errors * batch.labelled).sum(), "graded")


def judgement_loss(logits: Tensor, weight: Tensor, real: float, whole: GlobalBatch, count: str) -> Tensor:
    """Return the mean cross-entropy of the discriminator's judgement with a target.

    Args:
        logits: (B,), judgement of each sample; above 0: real.
        weight: (B,), 0 for placeholders.
        real: the target, 1 for real maps.
        whole: the global batch.
        count: name of the number of these samples in it.
    """
    target = torch.full_like(logits, real, dtype=torch.float32)
    errors = functional.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return whole.mean((errors * (weight > 0)).sum(), count)


@dataclass(frozen=True)
class PseudoMasks:
    """Masks for images that have a grade only.

    Attributes:
        presence: (B, L, H, W) float32, from 0 to 1.
        weight: (B, L, H, W) float32, 0 where the mask is not known.
    """

    presence: Tensor
    weight: Tensor

    @classmethod
    def of(
        cls,
        attention: Tensor,
        batch: Batch,
        allowed: Sequence[Sequence[bool]],
        hard: tuple[float, float] | None,
        certainty: Tensor | None = None,
    ) -> "PseudoMasks":
        """Form the masks from the grader's attention and from what each grade allows.

        Args:
            attention: (B, L, H, W) in [0, 1].
            batch: the images; those without a grade may have all lesions.
            allowed: for each grade, whether its images may have each lesion.
            hard: attention up to which a lesion is absent, and from which it is present; None: the attention counts.
            certainty: (B, L, H, W), weight of what the attention tells; None: 1. Lesions that the grade excludes have
                the weight 1.
        """
        may = torch.tensor(allowed, device=attention.device)[batch.label.clamp(min=0)] | (batch.label < 0)[:, None]
        may = may[:, :, None, None]
        presence = torch.where(may, attention.float(), 0.0)
        weight = torch.ones_like(presence) if certainty is None else torch.where(may, certainty, 1.0)
        if hard is not None:
            low, high = hard
            weight = weight * ((presence <= low) | (presence >= high))
            presence = (presence >= high).float()
        return cls(presence, weight * (batch.weight > 0)[:, None, None, None])
