"""UML exactly as in section 3 of its specification, without optimisation: the reference for results and speed.

Every concatenation, normalisation and upsampling is where the text has it, and the widest tensor of the mixer is formed
at full resolution. By default everything is as the authors published it; `Switches` exchange what `UmlNetwork` does in
its own way, one by one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from naive_loss import evidence_of
from published_encoders import Norm, PublishedFrozenNorm, PublishedRes2Net, PublishedVgg
from uml_dist.backbones import scaled
from uml_dist.backbones.normalisation import group_norm
from uml_dist.recipes.uml.model import Task, UmlModel
from uml_dist.recipes.uml.network import EVIDENCE_HIDDEN, INSTRUCTOR, MIXED, MIXER_HIDDEN, UmlOutput

SHUFFLE_GROUPS = 4
PUBLISHED_ENCODERS = {"res2net50": PublishedRes2Net, "vgg16": PublishedVgg}


@dataclass(frozen=True)
class Switches:
    """The choices of `UmlNetwork`; the defaults are those of the published network.

    Attributes:
        encoder_norm: normalisation of each task's encoder; None: batch norm frozen without epsilon.
        decoder_norm: normalisation of the decoders and of the masks' embeddings.
        head_norm: whether the head of the classification has batch norm.
        head_padding: around the head's depthwise convolutions.
        head_bias: whether its 1x1 convolutions have a bias.
        class_bias: whether the last map of the classification has one.
        dead_stages: whether the encoders' last stages, which nothing reads, are built.
    """

    encoder_norm: Mapping[Task, Norm] | None = None
    decoder_norm: Norm = nn.BatchNorm2d
    head_norm: bool = True
    head_padding: Literal["zeros", "replicate"] = "zeros"
    head_bias: bool = False
    class_bias: bool = False
    dead_stages: bool = True


def switches_of(model: UmlModel) -> Switches:
    """Return the switches with which the reference equals `UmlNetwork` with this configuration."""
    adapted = model.resolved("head") == "adapted"
    frozen = partial(PublishedFrozenNorm, epsilon=model.resolved("frozen_epsilon"))
    tasks: tuple[Task, ...] = ("classification", "segmentation")
    return Switches(
        encoder_norm={task: frozen if model.encoder_of(task).frozen else model.encoder_of(task).norm for task in tasks},
        decoder_norm=nn.BatchNorm2d if model.resolved("decoder_norm") == "batch" else group_norm,
        head_norm=not adapted,
        head_padding="replicate" if adapted else "zeros",
        head_bias=adapted,
        class_bias=adapted,
    )


def resize(feature: Tensor, factor: float) -> Tensor:
    return functional.interpolate(feature, scale_factor=factor, mode="bilinear", align_corners=True)


def pointwise(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, bias=False)


def double_convolution(inputs: int, outputs: int, dropout: float, norm: Norm) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        convolution = nn.Conv2d(channels, outputs, 3, padding=1)
        layers += [convolution, norm(outputs), nn.ReLU(), nn.Dropout2d(dropout)]
    return nn.Sequential(*layers)


class LevelMixer(nn.Module):
    """3.2: projections, concatenation, channel shuffle, polarised self-attention (six biased 1x1), projection."""

    def __init__(self, classified: int, segmented: int, hidden: int, outputs: int | None) -> None:
        super().__init__()
        joined = 2 * hidden
        self.project_classified = pointwise(classified, hidden)
        self.project_segmented = pointwise(segmented, hidden)
        self.channel_query = nn.Conv2d(joined, 1, 1)
        self.channel_value = nn.Conv2d(joined, hidden, 1)
        self.channel_out = nn.Conv2d(hidden, joined, 1)
        self.channel_norm = nn.LayerNorm(joined)
        self.place_query = nn.Conv2d(joined, hidden, 1)
        self.place_value = nn.Conv2d(joined, hidden, 1)
        self.out = None if outputs is None else pointwise(joined, outputs)

    def forward(self, classified: Tensor, segmented: Tensor) -> Tensor:
        x = torch.cat((self.project_classified(classified), self.project_segmented(segmented)), 1)
        samples, joined, height, width = x.shape
        x = x.reshape(samples, joined // SHUFFLE_GROUPS, SHUFFLE_GROUPS, height, width).transpose(1, 2)
        x = x.reshape(samples, joined, height, width)

        query = self.channel_query(x).flatten(2).softmax(2)
        value = self.channel_value(x).flatten(2)
        attended = (value @ query.transpose(1, 2)).unsqueeze(3)
        channel = torch.sigmoid(self.channel_norm(self.channel_out(attended).flatten(1)))
        x = channel[:, :, None, None] * x

        query = self.place_query(x).mean((2, 3)).unsqueeze(1)
        value = self.place_value(x).flatten(2)
        place = torch.sigmoid(query @ value).reshape(samples, 1, height, width)
        x = x + place * x
        return x if self.out is None else self.out(x)


class MutualDecoder(nn.Module):
    """3.3."""

    def __init__(self, mixed: Sequence[int], hidden: int, classes: int, dropout: float, norm: Norm) -> None:
        super().__init__()
        first, second, third, fourth = mixed
        self.third = double_convolution(fourth, third, dropout, norm)
        self.second = double_convolution(2 * third, second, dropout, norm)
        self.first = double_convolution(2 * second, first, dropout, norm)
        self.head = nn.Sequential(pointwise(2 * first, hidden), pointwise(hidden, classes))

    def forward(self, mixed: Sequence[Tensor]) -> Tensor:
        d3 = torch.cat((mixed[2], self.third(resize(mixed[3], 2))), 1)
        d2 = torch.cat((mixed[1], self.second(resize(d3, 2))), 1)
        d1 = torch.cat((mixed[0], self.first(resize(d2, 2))), 1)
        return self.head(d1)


class MaskFusion(nn.Module):
    """Concatenates a feature with the embedding of a reliable mask, and applies a 1x1 convolution (part of 3.4)."""

    def __init__(self, channels: int, classes: int, dropout: float, norm: Norm) -> None:
        super().__init__()
        self.embed = nn.Sequential(pointwise(classes, channels), norm(channels), nn.ReLU(), nn.Dropout2d(dropout))
        self.out = pointwise(2 * channels, channels)

    def forward(self, feature: Tensor, mask: Tensor) -> Tensor:
        return self.out(torch.cat((feature, self.embed(mask)), 1))


class UncertaintyNavigator(nn.Module):
    """3.4."""

    def __init__(self, segmented: Sequence[int], bottom: int, classes: int, dropout: float, norm: Norm) -> None:
        super().__init__()
        first, second, third, fourth = segmented
        self.reduce = pointwise(fourth + bottom, fourth)
        self.bottom = MaskFusion(fourth, classes, dropout, norm)
        self.third = double_convolution(fourth, third, dropout, norm)
        self.second = double_convolution(2 * third, second, dropout, norm)
        self.first = double_convolution(2 * second, first, dropout, norm)
        self.scores = nn.ModuleList(pointwise(width, classes) for width in (2 * first, 2 * second, 2 * third, fourth))
        self.top = MaskFusion(2 * first, classes, dropout, norm)

    def forward(self, segmented: Sequence[Tensor], mixed: Tensor, mutual: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        evidence, classes = evidence_of(mutual), mutual.shape[1]
        vacuity = classes / (evidence + 1).sum(1, keepdim=True)
        gate, small_gate = torch.exp(-vacuity), torch.exp(-resize(vacuity, 1 / 8))
        h4 = self.reduce(small_gate * torch.cat((segmented[3], mixed), 1))
        s4 = self.scores[3](h4)
        mask4 = (s4 + resize(evidence, 1 / 8)) * small_gate
        h3 = torch.cat((segmented[2], self.third(resize(self.bottom(h4, mask4), 2))), 1)
        h2 = torch.cat((segmented[1], self.second(resize(h3, 2))), 1)
        h1 = torch.cat((segmented[0], self.first(resize(h2, 2))), 1)
        s1, s2, s3 = self.scores[0](h1), self.scores[1](h2), self.scores[2](h3)
        mask1 = (s1 + evidence) * gate
        guide = resize(self.top(h1, mask1), 1 / 8)
        return (s1, s2, s3, s4), (mask1, mask4), (gate.squeeze(1), small_gate.squeeze(1)), (vacuity.squeeze(1), guide)


class SeparableConvolution(nn.Module):
    """Depthwise 3x3 of dilation 2, 1x1, normalisation, ReLU (within 3.5)."""

    def __init__(self, inputs: int, outputs: int, switches: Switches) -> None:
        super().__init__()
        mode = switches.head_padding
        self.depthwise = nn.Conv2d(
            inputs, inputs, 3, padding=2, dilation=2, groups=inputs, bias=False, padding_mode=mode
        )
        self.across = nn.Conv2d(inputs, outputs, 1, bias=switches.head_bias)
        self.norm = nn.BatchNorm2d(outputs) if switches.head_norm else nn.Identity()

    def forward(self, feature: Tensor) -> Tensor:
        return torch.relu(self.norm(self.across(self.depthwise(feature))))


class UncertaintyInstructor(nn.Module):
    """3.5."""

    def __init__(
        self, inputs: int, widths: Sequence[int], guide: int, classes: int, dropout: float, switches: Switches
    ) -> None:
        super().__init__()
        pairs = zip((inputs, *widths[:-1]), widths, strict=True)
        self.head = nn.Sequential(*(SeparableConvolution(*pair, switches) for pair in pairs))
        self.instruct = double_convolution(guide, widths[-1], dropout, switches.decoder_norm)
        self.out = nn.Linear(widths[-1], classes, bias=switches.class_bias)

    def forward(self, classified: Tensor, mixed: Tensor, guide: Tensor) -> Tensor:
        feature = self.head(torch.cat((classified, mixed), 1))
        feature = feature + feature * self.instruct(guide)
        return self.out(feature.mean((2, 3)))


class NaiveUml(nn.Module):
    """The network of section 3; parts and outputs have the same names as in `UmlNetwork`.

    Args:
        model: names the encoders, the width and the dropout.
        channels: channels of the image.
        pixel_classes: C.
        image_classes: K.
        switches: by default everything is as published.
    """

    def __init__(
        self,
        model: UmlModel,
        channels: int,
        pixel_classes: int,
        image_classes: int,
        switches: Switches = Switches(),
    ) -> None:
        super().__init__()
        norm, width, dropout = switches.decoder_norm, model.scale, model.dropout
        self.classification_encoder = _encoder(model, "classification", channels, switches)
        self.segmentation_encoder = _encoder(model, "segmentation", channels, switches)
        classified, segmented = model.encoder_of("classification").widths, model.encoder_of("segmentation").widths
        (hidden,), (evidence,) = scaled((MIXER_HIDDEN,), width), scaled((EVIDENCE_HIDDEN,), width)
        outputs = (*scaled(MIXED, width), None)
        self.mixer = nn.ModuleList(
            LevelMixer(c, s, hidden, out) for c, s, out in zip(classified, segmented, outputs, strict=True)
        )
        mixed = (*scaled(MIXED, width), 2 * hidden)
        self.mutual = MutualDecoder(mixed, evidence, pixel_classes, dropout, norm)
        self.navigator = UncertaintyNavigator(segmented, mixed[3], pixel_classes, dropout, norm)
        inputs, head = classified[3] + mixed[3], scaled(INSTRUCTOR, width)
        self.instructor = UncertaintyInstructor(inputs, head, 2 * segmented[0], image_classes, dropout, switches)

    def forward(self, image: Tensor) -> UmlOutput:
        classified, segmented = self.classification_encoder(image), self.segmentation_encoder(image)
        mixed = [mixer(c, s) for mixer, c, s in zip(self.mixer, classified, segmented, strict=True)]
        mutual = self.mutual(mixed)
        logits, masks, gates, (vacuity, guide) = self.navigator(segmented, mixed[3], mutual)
        of_image, size = self.instructor(classified[3], mixed[3], guide), (mutual.shape[2], mutual.shape[3])
        return UmlOutput(of_image, mutual, vacuity, logits, masks, gates, size)


def _encoder(model: UmlModel, task: Task, channels: int, switches: Switches) -> nn.Module:
    """Build a published encoder; the compact one is not published and is shared with `UmlNetwork`."""
    choice = model.encoder_of(task)
    if choice.name not in PUBLISHED_ENCODERS:
        return choice.build(channels)
    build: Callable[..., nn.Module] = PUBLISHED_ENCODERS[choice.name]
    norm = PublishedFrozenNorm if switches.encoder_norm is None else switches.encoder_norm[task]
    return build(channels, choice.widths, norm, switches.dead_stages)
