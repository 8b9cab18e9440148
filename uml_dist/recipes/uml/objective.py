"""The objective of UML: classification, segmentation and mutual loss (spec 2.4 to 2.8), as sums before ratios."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from uml_kernels import EvidentialSums, LevelSums, TermWeights, combined_loss, evidential_sums, level_sums
from uml_shards.sample import IGNORE

from ...batch import Batch
from ...config.schema import Section
from ...distributed.global_batch import GlobalBatch
from ...errors import UmlError
from .network import UmlOutput

SMOOTH = 1e-5
ABSENT = -1


class UmlWeights(Section):
    """`[objective.weights]`: weights of the three terms of the loss."""

    classification: float = Field(default=0.5, ge=0, description="weight of the classification loss")
    segmentation: float = Field(default=0.4, ge=0, description="weight of the segmentation loss")
    mutual: float = Field(default=0.1, ge=0, description="weight of the mutual loss")


class UmlObjective(Section):
    """`[objective]` of the recipe `uml`."""

    weights: UmlWeights = UmlWeights()
    class_weights: Literal["none", "balanced"] | tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        default="none",
        description="weights of the image classes in the classification loss; only their ratios count. balanced: "
        "the inverse of each class's frequency in the training data; or one number for each class",
    )
    anneal: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of the run over which the weight of the KL terms rises; 0: full weight from the start",
    )
    kl: float = Field(
        default=1.0, ge=0, description="final weight of the KL terms; a smaller one gives less cautious opinions"
    )
    dice: Literal["negative_log", "linear"] = Field(
        default="negative_log", description="Dice loss: -ln D or 1 - D, where D is the overlap"
    )
    dice_scope: Literal["global", "sample"] = Field(
        default="global",
        description="global: overlap over the global batch; sample: mean of the samples' overlaps, which can be "
        "accumulated",
    )
    dice_probability: Literal["softmax", "expected"] = Field(
        default="softmax",
        description="probability in the Dice term of the mutual loss: softmax of the evidence, or alpha / S",
    )
    segmentation_loss: Literal["dice", "cross_entropy_dice"] = Field(
        default="dice", description="loss of each level of the segmentation: Dice, or cross-entropy + Dice"
    )
    level_reduction: Literal["mean", "sum", "first"] = Field(
        default="mean",
        description="reduction over the segmentation's four levels; first: only the segmentation, without deep "
        "supervision",
    )
    detach_uncertainty: bool = Field(default=False, description="stop gradients at the gates of the navigator")

    def weights_of_classes(self, classes: Sequence[str], counts: Sequence[int]) -> tuple[float, ...] | None:
        """Return the weight of each image class, the smallest being 1; None if all count alike.

        Args:
            classes: names of the classes.
            counts: number of training samples of each class.

        Raises:
            UmlError: there is another number of weights than of classes.
        """
        if self.class_weights == "none":
            return None
        stated = self.class_weights
        if stated == "balanced":
            stated = tuple(1.0 / max(count, 1) for count in counts)
        if len(stated) != len(classes) or not classes:
            raise UmlError(
                f"objective.class_weights = {self.class_weights!r} gives {len(stated)} weights, but the shards have "
                f"{len(classes)} image classes ({', '.join(classes) or 'none'}): give one for each, or none"
            )
        # A mean is divided by the sum of its weights, or by 1 if that is less, as where nothing counts.
        return tuple(weight / min(stated) for weight in stated)

    def kl_weight(self, fraction: float) -> float:
        """Return lambda, the weight of the KL terms at a fraction of the run."""
        return self.kl * (1.0 if self.anneal == 0 else min(1.0, fraction / self.anneal))

    def level_weights(self, levels: int) -> list[float]:
        """Return the weight of each level in the segmentation loss; a level of weight 0 stays in the graph."""
        if self.level_reduction == "first":
            return [1.0] + [0.0] * (levels - 1)
        return [1.0 if self.level_reduction == "sum" else 1.0 / levels] * levels


def image_weight(batch: Batch, class_weights: Sequence[float] | None) -> Tensor:
    """Return the weight (B,) of each sample in the classification loss: its own, times that of its class."""
    if class_weights is None:
        return batch.weight
    return batch.weight * batch.weight.new_tensor(class_weights)[batch.label.clamp(min=0)]


def counts(batch: Batch, class_weights: Sequence[float] | None = None) -> dict[str, Tensor]:
    """Return the divisors of means, float32 scalars: weights of labelled images, images with a mask, pixels of masks.

    Args:
        batch: one micro batch.
        class_weights: weight of each image class; None if all count alike.
    """
    pixels = (batch.mask != IGNORE).flatten(1).sum(1)
    return {
        "labelled": (image_weight(batch, class_weights) * (batch.label != ABSENT)).sum(),
        "masked": (batch.weight * (pixels > 0)).sum(),
        "pixels": (batch.weight * pixels).sum(),
    }


def uml_terms(
    output: UmlOutput,
    batch: Batch,
    whole: GlobalBatch,
    objective: UmlObjective,
    fraction: float,
    class_weights: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """Compute the loss and its terms as float32 scalars; the parts of terms carry no gradient.

    A rank without labels or masks computes every term too: it is 0, and so is its gradient.

    Args:
        output: output of the network for the batch.
        batch: one micro batch on one rank.
        whole: the global batch that it is part of.
        objective: the configuration.
        fraction: share of the run that is done.
        class_weights: weight of each image class; None if all count alike.

    Returns:
        "loss", the weighted sum of the three terms, which training minimises; the terms "classification",
        "segmentation" and "mutual"; and their parts "classification_kl", "mutual_cross_entropy", "mutual_kl" and
        "mutual_dice".
    """
    kl_weight, weights = objective.kl_weight(fraction), objective.weights
    image_sums = evidential_sums(output.class_logits, batch.label, dice="none", ignore_index=ABSENT)
    image = combined_loss(
        image_sums,
        term_weights=[TermWeights(cross_entropy=weights.classification, kl=weights.classification)],
        kl_weight=kl_weight,
        weight=image_weight(batch, class_weights),
        divisor=whole.divisor("labelled"),
    )

    sums = evidential_sums(output.mutual_logits, batch.mask, dice=objective.dice_probability, ignore_index=IGNORE)
    levels = level_sums(output.segmentation, batch.mask, size=output.padded_size, ignore_index=IGNORE)
    with_errors = float(objective.segmentation_loss == "cross_entropy_dice")
    of_levels = objective.level_weights(len(output.segmentation))
    shares = [weights.segmentation * share for share in of_levels]
    weight: Tensor | None = batch.weight
    if objective.dice_scope == "global" and not whole.alone:
        sums, levels = _over_ranks(sums, levels, batch.weight, whole)
        weight = None
    pixel = combined_loss(
        sums,
        levels,
        term_weights=[
            TermWeights(*[weights.mutual] * 3),
            *(TermWeights(with_errors * share, 0.0, share) for share in shares),
        ],
        kl_weight=kl_weight,
        weight=weight,
        divisor=whole.divisor("pixels"),
        dice=objective.dice,
        dice_per_sample=objective.dice_scope == "sample",
        dice_divisor=whole.divisor("masked") if objective.dice_scope == "sample" else None,
        smooth=SMOOTH,
    )
    level_losses = pixel.dice[1:] + with_errors * pixel.cross_entropy[1:]
    return {
        "loss": image.loss + pixel.loss,
        "classification": image.cross_entropy[0] + kl_weight * image.kl[0],
        "segmentation": of_levels[0] * (level_losses.sum() if of_levels[-1] else level_losses[0]),
        "mutual": pixel.dice[0] + pixel.cross_entropy[0] + kl_weight * pixel.kl[0],
        "classification_kl": image.kl[0].detach(),
        "mutual_cross_entropy": pixel.cross_entropy[0].detach(),
        "mutual_kl": pixel.kl[0].detach(),
        "mutual_dice": pixel.dice[0].detach(),
    }


def _over_ranks(
    sums: EvidentialSums, levels: LevelSums, weight: Tensor, whole: GlobalBatch
) -> tuple[EvidentialSums, LevelSums]:
    """Add the sums over all samples, and the overlaps over all ranks too; means stay this rank's share."""
    own, of_levels = ((one.columns * weight[:, None]).sum(-2, keepdim=True) for one in (sums, levels))
    own = own.unsqueeze(0)
    # One tensor, so that one collective adds all overlaps
    overlaps = whole.total(torch.cat([own[..., 4:], of_levels[..., 2:]]))
    return (
        EvidentialSums(torch.cat([own[..., :4], overlaps[:1]], -1)),
        LevelSums(torch.cat([of_levels[..., :2], overlaps[1:]], -1)),
    )
