"""The model of collaborative learning: its configuration, and the networks that it builds."""

from collections.abc import Callable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from torch import nn

from ...backbones.normalisation import GlobalBatchNorm, Normalisation, group_norm
from ...config.schema import ModelConfig, Resumable
from .attention import Refinement
from .discriminator import Discriminator
from .generator import BlockKind, LesionGenerator
from .grader import AttentionKind, Grader
from .trunk import Backbone, EncoderTrunk, Stride, build_trunk, encoder_choice

Norm = Literal["group", "batch"]

NORMALISATIONS: dict[Norm, Callable[[int], nn.Module]] = {"group": group_norm, "batch": GlobalBatchNorm}

WIDTH = 32
"""Channels of the first stage of each network at width 1."""


class CollabModel(ModelConfig):
    """`[model]` of the recipe `collab`."""

    width: float = Field(
        default=1.0, gt=0, le=16, description="factor of all channels; 1: the first stage of each network has 32"
    )
    norm: Norm = Field(default="group", description="normalisation: group, or batch over the global batch")
    prior: float = Field(
        default=0.01, gt=0, lt=0.5, description="probability of each lesion in each pixel before training"
    )
    block: BlockKind = Field(
        default="plain", description="blocks of the generator: plain, or xception with separable convolutions"
    )
    backbone: Backbone = Field(
        default="small_cnn", description="trunk of the grader: small_cnn, compact, res2net50 or vgg16"
    )
    weights: Annotated[str | None, Resumable(path_only=True)] = Field(
        default=None, description="file of the trunk's published weights; default: random ones"
    )
    stride: Stride = Field(
        default=2, description="side of the image divided by that of the feature to which the attention applies"
    )
    attention: AttentionKind = Field(
        default="full",
        description="full: the grader refines lesion maps by what it knows of the whole image; low: without that; "
        "mask: it uses the maps as they are; none: it grades the image alone",
    )
    refinement: Refinement = Field(
        default="correction",
        description="how the attention refines a lesion map: by a correction of its logit, which is 0 before training; "
        "or by a map computed anew",
    )
    frozen_features: bool = Field(
        default=True,
        description="whether the attention uses features of a copy of the grader from before its attention learns",
    )
    one_by_one: bool = Field(
        default=True,
        description="whether the grader's attention processes lesions one after another and recomputes activations in "
        "backward: less memory, more time",
    )

    @property
    def divisor(self) -> int:
        """Number by which every side of an image must be divisible."""
        return LesionGenerator.divisor

    @property
    def smallest(self) -> int:
        """Smallest side of an image."""
        return Discriminator.smallest

    @property
    def has_batch_norm(self) -> bool:
        """Whether any layer uses statistics of the batch."""
        return self.norm == "batch"

    @property
    def attends(self) -> bool:
        """Whether the grader uses lesion maps."""
        return self.attention != "none"

    @property
    def needs_features(self) -> bool:
        """Whether the attention uses a frozen copy of the grader."""
        return self.frozen_features and self.attends

    def generator(self, channels: int, lesions: int, evidential: bool) -> LesionGenerator:
        """Build the generator for images with a number of channels."""
        scores = 2 if evidential else 1
        return LesionGenerator(
            channels, lesions, self._width, self.block, self._norm, scores, self.prior, self.checkpointing
        )

    def discriminator(self, channels: int) -> Discriminator:
        """Build the discriminator for a number of channels of its input."""
        return Discriminator(channels, self._width, self._norm)

    def grader(self, channels: int, lesions: int, grades: int, ordinal: bool) -> Grader:
        """Build the grader for images with a number of channels."""
        trunk = build_trunk(self.backbone, channels, self._width, self.stride, self._norm, self.weights)
        return Grader(
            trunk,
            lesions,
            grades,
            self._width,
            self._norm,
            self.attention,
            self.refinement,
            ordinal,
            one_by_one=self.one_by_one,
            checkpointing=self.checkpointing,
        )

    def check_weights(self, channels: int) -> None:
        """Compare the file of weights with the trunk, without building it.

        Raises:
            UmlError: see `uml_dist.backbones.load_weights`.
        """
        if self.backbone != "small_cnn":
            encoder_choice(self.backbone, self._width, self._norm, self.weights).check(channels)

    def load_weights(self, grader: Grader) -> list[str]:
        """Load the file of weights, if one is given, into the grader's trunk; return lines for the user."""
        trunk = grader.trunk
        if self.backbone == "small_cnn" or not isinstance(trunk, EncoderTrunk):
            return []
        return encoder_choice(self.backbone, self._width, self._norm, self.weights).load(trunk.encoder)

    @property
    def _width(self) -> int:
        return max(4, round(WIDTH * self.width))

    @property
    def _norm(self) -> Normalisation:
        return NORMALISATIONS[self.norm]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.weights is not None and self.backbone in ("small_cnn", "compact"):
            raise ValueError(f"there are no published weights of {self.backbone}: leave weights out")
        if self.has_batch_norm and (self.checkpointing or self.one_by_one):
            raise ValueError(
                "recomputed activations would count in batch norm twice: set checkpointing = false and one_by_one = "
                'false, or norm = "group"'
            )
        return self
