"""The objective of UML: classification, segmentation and mutual loss (spec 2.4 to 2.8), as sums before ratios."""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from uml_kernels import DiceSums, dice_sums, expected_cross_entropy, kl_to_uniform
from uml_shards.sample import IGNORE

from ...batch import Batch
from ...config import Section
from ...reduce import GlobalBatch
from .network import UmlOutput

SMOOTH = 1e-5
ABSENT = -1


class UmlWeights(Section):
    """`[objective.weights]`: of the three terms in the total."""

    classification: float = Field(default=0.5, ge=0)
    segmentation: float = Field(default=0.4, ge=0)
    mutual: float = Field(default=0.1, ge=0)


class UmlObjective(Section):
    """`[objective]` of the recipe `uml`."""

    weights: UmlWeights = UmlWeights()
    anneal: float = Field(
        default=0.5, ge=0, le=1, description="share of the run over which the KL terms' weight rises to 1"
    )
    dice: Literal["negative_log", "linear"] = Field(
        default="negative_log", description="-ln D or 1 - D of the overlap D"
    )
    dice_scope: Literal["global", "sample"] = Field(
        default="global",
        description="overlap of the whole global batch, or mean of the samples' (which can be accumulated)",
    )
    detach_uncertainty: bool = Field(default=False, description="let no gradient pass through the navigator's gates")

    def kl_weight(self, fraction: float) -> float:
        """Lambda: the weight of the KL terms when this share of the run is done."""
        return 1.0 if self.anneal == 0 else min(1.0, fraction / self.anneal)


def counts(batch: Batch) -> dict[str, Tensor]:
    """What means divide by: labelled images, images with a mask, and pixels of masks; scalars, float32."""
    pixels = (batch.mask != IGNORE).flatten(1).sum(1)
    return {
        "labelled": (batch.weight * (batch.label != ABSENT)).sum(),
        "masked": (batch.weight * (pixels > 0)).sum(),
        "pixels": (batch.weight * pixels).sum(),
    }


def uml_terms(
    output: UmlOutput, batch: Batch, whole: GlobalBatch, objective: UmlObjective, fraction: float
) -> dict[str, Tensor]:
    """The three terms of the loss and their parts, float32 scalars in which the parts carry no gradient.

    A rank without labels or masks forms every term too: it is 0, and so is its gradient.

    Args:
        output: of the network for the batch.
        batch: one micro batch on one rank.
        whole: the global batch that it is part of.
        objective: the configuration.
        fraction: share of the run that is done.

    Returns:
        "classification", "segmentation" and "mutual" (see `total`); their parts "classification_kl",
        "mutual_cross_entropy", "mutual_kl" and "mutual_dice".
    """
    kl_weight = objective.kl_weight(fraction)
    evidence, label, weight = output.class_evidence, batch.label, batch.weight
    class_error = whole.mean((weight * expected_cross_entropy(evidence, label, ABSENT)).sum(), "labelled")
    class_kl = whole.mean((weight * kl_to_uniform(evidence, label, ABSENT)).sum(), "labelled")

    pixel_weight = weight[:, None, None]
    evidence = output.mutual_evidence
    pixel_error = whole.mean((pixel_weight * expected_cross_entropy(evidence, batch.mask)).sum(), "pixels")
    pixel_kl = whole.mean((pixel_weight * kl_to_uniform(evidence, batch.mask)).sum(), "pixels")

    mutual_dice, *level_dice = _dice_losses(output, batch, whole, objective)
    return {
        "classification": class_error + kl_weight * class_kl,
        "segmentation": torch.stack(level_dice).mean(),
        "mutual": mutual_dice + pixel_error + kl_weight * pixel_kl,
        "classification_kl": class_kl.detach(),
        "mutual_cross_entropy": pixel_error.detach(),
        "mutual_kl": pixel_kl.detach(),
        "mutual_dice": mutual_dice.detach(),
    }


def total(terms: Mapping[str, Tensor], weights: UmlWeights) -> Tensor:
    """The scalar that the network descends: the weighted sum of the three terms."""
    return (
        weights.classification * terms["classification"]
        + weights.segmentation * terms["segmentation"]
        + weights.mutual * terms["mutual"]
    )


def _dice_losses(output: UmlOutput, batch: Batch, whole: GlobalBatch, objective: UmlObjective) -> tuple[Tensor, ...]:
    """Dice losses of softmax(evidence) and of the four levels' softmax(logits)."""
    scores = (output.mutual_evidence, *(output.level(index).float() for index in range(len(output.segmentation))))
    # (maps, B, C) each: one tensor, so that one collective adds all of them over the ranks
    sums = torch.stack([torch.stack(dice_sums(score.softmax(1), batch.mask, IGNORE)) for score in scores], 1)
    if objective.dice_scope == "global":
        sums = whole.total((sums * batch.weight[:, None]).sum(2))
        return _loss(DiceSums(*sums), objective.dice).unbind()
    masked = (batch.mask != IGNORE).flatten(1).any(1)
    losses = _loss(DiceSums(*sums), objective.dice) * (batch.weight * masked)
    return tuple(whole.mean(loss, "masked") for loss in losses.sum(1))


def _loss(sums: DiceSums, kind: str) -> Tensor:
    """Mean over the classes, the last dimension, of -ln D or 1 - D; a class that is nowhere has D = 1."""
    overlap = (2 * sums.intersection + SMOOTH) / (sums.predicted + sums.target + SMOOTH)
    return (-overlap.log() if kind == "negative_log" else 1 - overlap).mean(-1)
