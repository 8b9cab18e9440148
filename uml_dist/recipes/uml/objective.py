"""The objective of UML: classification, segmentation and mutual loss (spec 2.4 to 2.8), as sums before ratios."""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from uml_kernels import DiceSums, evidential_sums, level_sums
from uml_shards.sample import IGNORE

from ...batch import Batch
from ...config import Section
from ...reduce import GlobalBatch
from .network import UmlOutput

SMOOTH = 1e-5
ABSENT = -1


class UmlWeights(Section):
    """`[objective.weights]`: of the three terms in the total."""

    classification: float = Field(default=0.5, ge=0, description="of the opinion on the image")
    segmentation: float = Field(default=0.4, ge=0, description="of the segmentation's levels")
    mutual: float = Field(default=0.1, ge=0, description="of the opinion on each pixel")


class UmlObjective(Section):
    """`[objective]` of the recipe `uml`."""

    weights: UmlWeights = UmlWeights()
    anneal: float = Field(
        default=0.5, ge=0, le=1, description="share of the run over which the KL terms' weight rises; 0: full at once"
    )
    kl: float = Field(default=1.0, ge=0, description="weight of the KL terms once it has risen; less is less cautious")
    dice: Literal["negative_log", "linear"] = Field(
        default="negative_log", description="-ln D or 1 - D of the overlap D"
    )
    dice_scope: Literal["global", "sample"] = Field(
        default="global",
        description="overlap of the whole global batch, or mean of the samples' (which can be accumulated)",
    )
    dice_probability: Literal["softmax", "expected"] = Field(
        default="softmax",
        description="what overlaps with the mask in the mutual loss: softmax of the evidence, or alpha / S",
    )
    segmentation_loss: Literal["dice", "cross_entropy_dice"] = Field(
        default="dice", description="of each level's softmax: Dice, or cross-entropy + Dice"
    )
    level_reduction: Literal["mean", "sum", "first"] = Field(
        default="mean",
        description="over the segmentation's four levels; first: of the segmentation alone, no deep supervision",
    )
    detach_uncertainty: bool = Field(default=False, description="let no gradient pass through the navigator's gates")

    def kl_weight(self, fraction: float) -> float:
        """Lambda: the weight of the KL terms when this share of the run is done."""
        return self.kl * (1.0 if self.anneal == 0 else min(1.0, fraction / self.anneal))

    def over_levels(self, losses: Tensor) -> Tensor:
        """The segmentation loss of its levels' (levels,), each of which stays in the graph."""
        if self.level_reduction == "first":
            return losses[0]
        return losses.sum() if self.level_reduction == "sum" else losses.mean()


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
    kl_weight, weight = objective.kl_weight(fraction), batch.weight
    image = evidential_sums(output.class_logits, batch.label, dice="none", ignore_index=ABSENT)
    class_error = whole.mean((weight * image.cross_entropy).sum(), "labelled")
    class_kl = whole.mean((weight * image.kl).sum(), "labelled")

    pixel = evidential_sums(output.mutual_logits, batch.mask, dice=objective.dice_probability, ignore_index=IGNORE)
    assert pixel.dice is not None
    pixel_error = whole.mean((weight * pixel.cross_entropy).sum(), "pixels")
    pixel_kl = whole.mean((weight * pixel.kl).sum(), "pixels")

    levels = level_sums(output.segmentation, batch.mask, size=output.padded_size, ignore_index=IGNORE)
    # (3, maps, B, C): one tensor, so that one collective adds all of them over the ranks
    overlaps = torch.stack([torch.cat((one[None], other)) for one, other in zip(pixel.dice, levels.dice, strict=True)])
    dice = _dice_losses(overlaps, batch, whole, objective)
    mutual_dice, level_losses = dice[0], dice[1:]
    if objective.segmentation_loss == "cross_entropy_dice":
        level_losses = level_losses + whole.mean((levels.cross_entropy * weight).sum(1), "pixels")
    return {
        "classification": class_error + kl_weight * class_kl,
        "segmentation": objective.over_levels(level_losses),
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


def _dice_losses(sums: Tensor, batch: Batch, whole: GlobalBatch, objective: UmlObjective) -> Tensor:
    """Dice losses (maps,) of the sums (3, maps, B, C) of maps of probabilities."""
    if objective.dice_scope == "global":
        sums = whole.total((sums * batch.weight[:, None]).sum(2))
        return _loss(DiceSums(*sums), objective.dice)
    masked = (batch.mask != IGNORE).flatten(1).any(1)
    losses = _loss(DiceSums(*sums), objective.dice) * (batch.weight * masked)
    return whole.mean(losses.sum(1), "masked")


def _loss(sums: DiceSums, kind: str) -> Tensor:
    """Mean over the classes, the last dimension, of -ln D or 1 - D; a class that is nowhere has D = 1."""
    overlap = (2 * sums.intersection + SMOOTH) / (sums.predicted + sums.target + SMOOTH)
    return (-overlap.log() if kind == "negative_log" else 1 - overlap).mean(-1)
