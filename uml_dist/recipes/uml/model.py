"""`[model]` of the recipe `uml`: profile, widths, and each task's encoder."""

from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator
from torch import nn

from ...backbones import ENCODERS, EncoderChoice, EncoderName, scaled
from ...backbones.normalisation import EPSILON, FrozenBatchNorm, GlobalBatchNorm, Normalisation, group_norm
from ...config.schema import ModelConfig, Resumable, Section
from .evidence import Evidence

Task = Literal["classification", "segmentation"]
CLASSIFIED = (64, 256, 512, 1024)
SEGMENTED = (64, 128, 256, 512)
TASKS: dict[Task, tuple[int, int, int, int]] = {"classification": CLASSIFIED, "segmentation": SEGMENTED}
"""Task -> channels of an encoder that does not define its own."""


DecoderNorm = Literal["group", "batch"]
Head = Literal["adapted", "published"]
Initialisation = Literal["unit_gain", "fan_out"]
PixelProbability = Literal["segmentation", "opinion", "mean"]


class Profile(NamedTuple):
    """Defaults that belong together; each field but the encoders is a key of `[model]` too."""

    width: float
    classification: EncoderName
    segmentation: EncoderName
    space_to_depth: int = 1
    evidence: Evidence = "softplus"
    pixel_probability: PixelProbability = "segmentation"
    frozen: bool = False
    frozen_epsilon: float = EPSILON
    decoder_norm: DecoderNorm = "group"
    head: Head = "adapted"
    initialisation: Initialisation = "unit_gain"


PROFILES = {
    "compact": Profile(1 / 8, "compact", "compact", space_to_depth=2, evidence="exponential", pixel_probability="mean"),
    "paper": Profile(1.0, "res2net50", "vgg16"),
    "release": Profile(
        1.0,
        "res2net50",
        "vgg16",
        frozen=True,
        frozen_epsilon=0.0,
        decoder_norm="batch",
        head="published",
        initialisation="fan_out",
    ),
}


class UmlEncoders(Section):
    """`[model.encoder]`: the encoder of each task, and the local file of its published weights."""

    classification: EncoderName | None = Field(
        default=None, description="encoder of the classification; default: the profile's (compact or res2net50)"
    )
    segmentation: EncoderName | None = Field(
        default=None, description="encoder of the segmentation; default: the profile's (compact or vgg16)"
    )
    classification_weights: Annotated[str | None, Resumable(path_only=True)] = Field(
        default=None,
        description="ImageNet weights of the classification encoder, .pth or .safetensors: for res2net50 the "
        "authors' res2net50_v1b_26w_4s or timm's res2net50d; default: random",
    )
    segmentation_weights: Annotated[str | None, Resumable(path_only=True)] = Field(
        default=None,
        description="ImageNet weights of the segmentation encoder: for vgg16 torchvision's or timm's vgg16_bn or "
        "5stages_vgg16_bn; default: random",
    )


class UmlModel(ModelConfig):
    """`[model]` of the recipe `uml`."""

    profile: Literal["compact", "paper", "release"] = Field(
        default="compact",
        description="defaults that belong together: a small network; the paper's; or the paper's with every layer as "
        "in the authors' code",
    )
    width: float | None = Field(
        default=None, gt=0, le=16, description="factor of all channels; default: the profile's (1/8 or 1)"
    )
    space_to_depth: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="side of the blocks of pixels that become one point with all of their values as channels; in the "
        "output a point has scores for each of its pixels; default: the profile's (2 for compact, else 1)",
    )
    evidence: Evidence | None = Field(
        default=None,
        description="evidence of a pixel's score: softplus, as in the paper, or exponential, which is softplus up to a "
        "score of 1 and grows exponentially above; default: the profile's (exponential for compact, else softplus)",
    )
    pixel_probability: PixelProbability | None = Field(
        default=None,
        description="predicted probability of a pixel: the segmentation's softmax, as in the paper; the mutual "
        "opinion's "
        "probability; or the mean of both; default: the profile's (mean for compact, else segmentation)",
    )
    encoder: UmlEncoders = UmlEncoders()
    norm: Literal["auto", "frozen", "group"] = Field(
        default="auto",
        description="normalisation of the encoders: batch norm frozen at the statistics of given weights, or group "
        "norm; "
        "auto: frozen if weights are given, and in the profile release",
    )
    frozen_epsilon: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="added to the variance in frozen batch norm; default: the profile's (1e-5, or 0 for release)",
    )
    decoder_norm: DecoderNorm | None = Field(
        default=None,
        description="normalisation of the decoders: group norm, or batch norm over the global batch; default: the "
        "profile's (group, or batch for release)",
    )
    head: Head | None = Field(
        default=None,
        description="head of the classification: adapted has biases and edge padding, and no normalisation; published "
        "has batch norm and zero padding, and no biases; default: the profile's (adapted, or published for release)",
    )
    initialisation: Initialisation | None = Field(
        default=None,
        description="initialisation of the convolutions outside the encoders: unit_gain keeps the variance in maps to "
        "scores; fan_out is Kaiming by fan-out everywhere; default: the profile's (unit_gain, or fan_out for release)",
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="probability of dropping a channel in the decoders")
    un_top_in_seg: bool = Field(
        default=False,
        description="take the segmentation after the uncertainty navigator's top block, as the paper's figure draws "
        "it, instead of before it, as the authors' code does",
    )
    mask_source: Literal["evidence", "alpha", "belief"] = Field(
        default="evidence", description="part of the mutual opinion that is added to the scores in the reliable masks"
    )

    def resolved(self, key: str) -> Any:
        """Return the value of a key of `Profile`: this configuration's or, by default, the profile's."""
        value = getattr(self, key)
        return getattr(PROFILES[self.profile], key) if value is None else value

    @property
    def scale(self) -> float:
        """Factor of all channels."""
        return self.resolved("width")

    @property
    def has_batch_norm(self) -> bool:
        """Whether any layer uses statistics of the batch."""
        return self.resolved("decoder_norm") == "batch" or self.resolved("head") == "published"

    @property
    def decoder_normalisation(self) -> Normalisation:
        """Function that makes the normalisations of the decoders."""
        return GlobalBatchNorm if self.resolved("decoder_norm") == "batch" else group_norm

    def encoder_of(self, task: Task) -> EncoderChoice:
        """Return the encoder of a task.

        Group normalisation divides by the contrast of an image, which depends on its class. The compact encoder of the
        classification therefore has none (AUROC on the phantom after 3000 images: 0.84, with it 0.78); Res2Net is too
        deep to train without.
        """
        name: EncoderName = getattr(self.encoder, task) or getattr(PROFILES[self.profile], task)
        widths = scaled(ENCODERS[name].widths or TASKS[task], self.scale)
        weights: str | None = getattr(self.encoder, f"{task}_weights")
        frozen = weights is not None or (PROFILES[self.profile].frozen and self.norm == "auto")
        norm = partial(FrozenBatchNorm, epsilon=self.resolved("frozen_epsilon")) if frozen else group_norm
        if name == "compact" and task == "classification":
            frozen, norm = False, nn.Identity
        return EncoderChoice(name, widths, weights, frozen, norm)

    def starts_as_identity(self, task: Task) -> bool:
        """Return whether a task's encoder has frozen batch norm without weights, which is for comparisons only."""
        choice = self.encoder_of(task)
        return choice.frozen and choice.weights is None

    @model_validator(mode="after")
    def _recomputes_once(self) -> "UmlModel":
        if self.checkpointing and self.resolved("decoder_norm") == "batch":
            raise ValueError(
                "checkpointing recomputes activations, and batch norm would count every batch twice: set "
                'checkpointing = false, or decoder_norm = "group"'
            )
        return self

    @model_validator(mode="after")
    def _weights_suit(self) -> "UmlModel":
        for task in TASKS:
            name, widths, weights, *_ = self.encoder_of(task)
            kind = ENCODERS[name]
            if weights is None:
                if self.norm == "frozen":
                    raise ValueError(f'norm = "frozen" needs weights: set model.encoder.{task}_weights')
            elif kind.published is None:
                raise ValueError(
                    f"model.encoder.{task}_weights: encoder {name} has no published weights: leave it out, or start "
                    "from a run of your own by model.init"
                )
            elif self.resolved("space_to_depth") > 1:
                raise ValueError(
                    f"model.encoder.{task}_weights are of whole images: set model.space_to_depth = 1, or leave them out"
                )
            elif self.norm == "group":
                raise ValueError(
                    f'norm = "group" does not suit model.encoder.{task}_weights, which were trained with batch norm: '
                    'use "auto"'
                )
            elif widths != kind.widths:
                raise ValueError(
                    f"model.encoder.{task}_weights are of width 1, the model is of width {self.scale:g}: "
                    "set model.width = 1, or leave them out"
                )
        return self

    def check_weights(self, channels: int) -> None:
        """Compare the weight files with the encoders for images with a number of channels, without building them.

        Raises:
            UmlError: see `uml_dist.backbones.load_weights`.
        """
        for task in TASKS:
            self.encoder_of(task).check(channels)
