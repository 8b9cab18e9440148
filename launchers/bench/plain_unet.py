"""A plain baseline recipe: MONAI's U-Net with a classifier on its deepest feature, softmax, Dice + cross-entropy.

This is the usual alternative to an evidential method: one encoder for both tasks, no opinions and no vacuity. Its
uncertainty is the entropy of its probabilities.

    PYTHONPATH=launchers/bench python launchers/train.py --num_gpus 2 recipe=plain_unet:PlainUnet ...
"""

from collections.abc import Mapping
from importlib.util import find_spec

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from uml_dist.batch import Batch, Prediction
from uml_dist.config.schema import ModelConfig, OptimizerConfig, RunConfig, Schedule, Section
from uml_dist.distributed.global_batch import GlobalBatch
from uml_dist.errors import UmlError
from uml_dist.recipes import MicroBatchResult, Progress, Recipe, Trained
from uml_shards.address import parse_location
from uml_shards.format.manifest import Manifest
from uml_shards.sample import IGNORE

SMALLEST = 32
"""Smallest image size in pixels: the deepest feature has 1/16 of it, and its normalisation needs more than one."""

SMOOTH = 1e-5
"""Smoothing term of MONAI's DiceLoss, in numerator and denominator."""


class PlainModel(ModelConfig):
    """The table `[model]` of the baseline."""

    channels: int = Field(default=16, gt=0, description="channels of the first level; the deepest has 8 times as many")


class PlainObjective(Section):
    """The table `[objective]` of the baseline."""

    classification: float = Field(default=1.0, ge=0, description="weight of the cross-entropy of the image class")


class PlainOptimizer(OptimizerConfig):
    """`[optimizer]` with UML's schedule."""

    schedule: Schedule = Field(default="poly", description=OptimizerConfig.model_fields["schedule"].description)


class PlainConfig(RunConfig):
    """The whole tree of the baseline."""

    model: PlainModel = PlainModel()
    objective: PlainObjective = PlainObjective()
    optimizer: PlainOptimizer = PlainOptimizer()


class PlainNetwork(nn.Module):
    """MONAI's BasicUNet with its defaults, and a linear classifier on the mean of its deepest feature.

    Its instance normalisation depends neither on the batch nor on the rank. With group normalisation the class was
    learned later on the phantom: AUROC 0.50 after 300 steps and 0.88 after 900; with instance normalisation 0.87 and
    0.89 (one run each).

    Args:
        width: channels of the first level; the deepest level has 8 times as many.
        channels: channels of the image.
        pixel_classes: number of pixel classes, C.
        image_classes: number of image classes, K.
    """

    def __init__(self, width: int, channels: int, pixel_classes: int, image_classes: int) -> None:
        super().__init__()
        from monai.networks.nets.basic_unet import BasicUNet

        features = [width * factor for factor in (1, 1, 2, 4, 8, 1)]  # the ratios of its defaults
        self.unet = BasicUNet(2, channels, pixel_classes, features)
        self.classifier = nn.Linear(features[4], image_classes)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map an image (B, channels, H, W) to logits of the pixels (B, C, H, W) and of the image (B, K)."""
        unet = self.unet
        levels = [unet.conv_0(image)]
        for down in (unet.down_1, unet.down_2, unet.down_3, unet.down_4):
            levels.append(down(levels[-1]))
        feature = deepest = levels.pop()
        for up in (unet.upcat_4, unet.upcat_3, unet.upcat_2, unet.upcat_1):
            feature = up(feature, levels.pop())
        return unet.final_conv(feature), self.classifier(deepest.mean((2, 3)))


class PlainUnet(Recipe[PlainConfig]):
    """Trains with softmax, Dice + cross-entropy on the pixels, and cross-entropy on the image."""

    name = "plain_unet"
    Config = PlainConfig

    def __init__(self, config: PlainConfig, manifests: Mapping[str, Manifest]) -> None:
        super().__init__(config, manifests)
        self.model, self.objective = config.model, config.objective
        self.manifest = manifests["train"]
        if find_spec("monai") is None:
            raise UmlError("recipe plain_unet needs MONAI: pip install 'uml-dist[bench]'")
        if self.model.checkpointing:
            raise UmlError("recipe plain_unet cannot recompute activations: set model.checkpointing = false")
        shards = parse_location(config.streams["train"].shards)
        for task, classes in (("image classes", self.manifest.classes), ("mask classes", self.manifest.mask_classes)):
            if len(classes) < 2:
                raise UmlError(
                    f"recipe plain_unet needs labels and masks: the shards of {shards} have {len(classes)} {task}"
                )
        if self.manifest.mask_names:
            raise UmlError(f"recipe plain_unet needs one mask per image: those of {shards} overlap")
        size = config.data.size or self.manifest.size or SMALLEST
        if min(size if isinstance(size, tuple) else (size,)) < SMALLEST:
            raise UmlError(f"recipe plain_unet needs images of {SMALLEST} pixels or more: set data.size")

    @property
    def networks(self) -> Mapping[str, Trained]:
        """The single network."""
        return {"unet": Trained(self._build)}

    def counts(self, batches: Mapping[str, Batch], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Count labelled images, images with a mask, and pixels of masks."""
        return counts(batches["train"])

    def step(
        self,
        batches: Mapping[str, Batch],
        targets: Mapping[str, Tensor],
        networks: Mapping[str, nn.Module],
        progress: Progress,
        whole: GlobalBatch,
    ) -> MicroBatchResult:
        """Compute Dice + cross-entropy of the pixels and cross-entropy of the image."""
        batch = batches["train"]
        pixel_logits, image_logits = networks["unet"](batch.image)
        terms = plain_terms(pixel_logits, image_logits, batch, whole, self.objective.classification)
        return MicroBatchResult({"unet": terms["loss"]}, terms)

    def predict(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Prediction:
        """Return the softmax of both outputs; there is no vacuity."""
        pixel_logits, image_logits = networks["unet"](batch.image)
        return Prediction(
            image_probability=image_logits.float().softmax(1), pixel_probability=pixel_logits.float().softmax(1)
        )

    def _build(self) -> PlainNetwork:
        manifest = self.manifest
        return PlainNetwork(self.model.channels, manifest.channels, len(manifest.mask_classes), len(manifest.classes))


def counts(batch: Batch) -> dict[str, Tensor]:
    """Count labelled images, images with a mask, and pixels of masks, the divisors of the means; float32 scalars."""
    pixels = (batch.mask != IGNORE).flatten(1).sum(1)
    return {
        "labelled": batch.labelled.sum(),
        "masked": batch.masked.sum(),
        "pixels": (batch.weight * pixels).sum(),
    }


def plain_terms(
    pixel_logits: Tensor, image_logits: Tensor, batch: Batch, whole: GlobalBatch, weight: float
) -> dict[str, Tensor]:
    """Compute the loss and its terms, as float32 scalars.

    For a complete batch without missing labels, the segmentation loss equals MONAI's DiceCELoss per sample. Dice is
    computed per sample over all classes, so that it is additive over ranks. The cross-entropies are means over all
    pixels and all labels of the global batch. Pixels with mask 255, labels of -1 and samples of weight 0 are ignored.

    Args:
        pixel_logits: (B, C, H, W).
        image_logits: (B, K).
        batch: micro batch of one rank.
        whole: the global batch that contains it.
        weight: weight of the classification.

    Returns:
        "loss" = "segmentation" + weight * "classification"; "segmentation" = "segmentation_dice" + cross-entropy.
    """
    errors = functional.cross_entropy(image_logits.float(), batch.label.clamp(min=0), reduction="none")
    classification = whole.mean((errors * batch.labelled).sum(), "labelled")

    counted = (batch.mask != IGNORE) & (batch.weight > 0)[:, None, None]
    target = torch.where(counted, batch.mask, 0).long()
    logits = pixel_logits.float()
    errors = functional.cross_entropy(logits, target, reduction="none")
    cross_entropy = whole.mean((errors * counted).sum(), "pixels")

    probability = logits.softmax(1) * counted[:, None]
    truth = functional.one_hot(target, logits.shape[1]).movedim(-1, 1) * counted[:, None]
    overlap, sizes = (one.flatten(2).sum(2) for one in (probability * truth, probability + truth))
    each = 1.0 - (2.0 * overlap + SMOOTH) / (sizes + SMOOTH)
    dice = whole.mean((each.mean(1) * batch.masked).sum(), "masked")

    segmentation = dice + cross_entropy
    terms = {"classification": classification, "segmentation": segmentation, "segmentation_dice": dice.detach()}
    return {"loss": segmentation + weight * classification, **terms}
