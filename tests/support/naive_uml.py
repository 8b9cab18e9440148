"""UML as its specification is written (sections 2 and 3), with no thought of cost: the baseline for speed and results.

The widest tensor of the mixer is formed at full resolution, every concatenation and upsampling is where the text has
it, and autograd goes through digamma, lgamma and one-hot masks. Encoders and normalisation are those of `UmlNetwork`,
so that only the method's implementation differs.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from uml_dist.backbones.normalisation import group_norm
from uml_dist.recipes.uml.model import UmlModel, scaled
from uml_dist.recipes.uml.network import EVIDENCE_HIDDEN, INSTRUCTOR, MIXED, MIXER_HIDDEN, UmlOutput

SHUFFLE_GROUPS = 4
SMOOTH = 1e-5
JOINED = {
    "channel_query": 1, "channel_value": 1, "channel_out": 0, "channel_norm": 0, "place_query": 1, "place_value": 1,
    "out": 1,
}  # fmt: skip
"""Parameters of a level's mixer -> their dimension of joined channels."""
FOURTH_MIXED = {
    "mutual.third.0.weight": 1,
    "navigator.reduce.weight": 1,
    "instructor.head.0.weight": 0,
    "instructor.head.1.weight": 1,
}
"""Parameters that apply to the fourth mixed feature, which is joined channels too -> their dimension of them."""
EMBED = {"weight": "0.weight", "scale": "1.weight", "shift": "1.bias"}
"""Parameters of an embedding of a mask -> those of the layers that it consists of."""
WEIGHTS = {"classification": 0.5, "segmentation": 0.4, "mutual": 0.1}


def resize(feature: Tensor, factor: float) -> Tensor:
    return functional.interpolate(feature, scale_factor=factor, mode="bilinear", align_corners=True)


def evidence_of(logits: Tensor) -> Tensor:
    return functional.softplus(logits, threshold=40)  # torch's own threshold of 20 is 2e-9 off


def pointwise(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1, bias=False)


def double_convolution(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        convolution = nn.Conv2d(channels, outputs, 3, padding=1)
        layers += [convolution, group_norm(outputs), nn.ReLU(), nn.Dropout2d(dropout)]
    return nn.Sequential(*layers)


class LevelMixer(nn.Module):
    """Projections, concatenation, channel shuffle, polarised self-attention, projection (3.2)."""

    def __init__(self, classified: int, segmented: int, hidden: int, outputs: int | None) -> None:
        super().__init__()
        joined = 2 * hidden
        self.project_classified = pointwise(classified, hidden)
        self.project_segmented = pointwise(segmented, hidden)
        self.channel_query = nn.Conv2d(joined, 1, 1)
        self.channel_value = nn.Conv2d(joined, hidden, 1)
        self.channel_out = nn.Conv2d(hidden, joined, 1)
        self.channel_norm = nn.LayerNorm(joined)
        self.place_query = pointwise(joined, hidden)
        self.place_value = pointwise(joined, hidden)
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

    def __init__(self, mixed: Sequence[int], hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        first, second, third, fourth = mixed
        self.third = double_convolution(fourth, third, dropout)
        self.second = double_convolution(2 * third, second, dropout)
        self.first = double_convolution(2 * second, first, dropout)
        self.head = nn.Sequential(pointwise(2 * first, hidden), pointwise(hidden, classes))

    def forward(self, mixed: Sequence[Tensor]) -> Tensor:
        feature = mixed[3]
        feature = torch.cat((mixed[2], self.third(resize(feature, 2))), 1)
        feature = torch.cat((mixed[1], self.second(resize(feature, 2))), 1)
        feature = torch.cat((mixed[0], self.first(resize(feature, 2))), 1)
        return self.head(feature)


class MaskFusion(nn.Module):
    def __init__(self, channels: int, classes: int, dropout: float) -> None:
        super().__init__()
        embed = pointwise(classes, channels), group_norm(channels), nn.ReLU(), nn.Dropout2d(dropout)
        self.embed = nn.Sequential(*embed)
        self.out = pointwise(2 * channels, channels)

    def forward(self, feature: Tensor, mask: Tensor) -> Tensor:
        return self.out(torch.cat((feature, self.embed(mask)), 1))


class UncertaintyNavigator(nn.Module):
    """3.4."""

    def __init__(self, segmented: Sequence[int], bottom: int, classes: int, dropout: float) -> None:
        super().__init__()
        first, second, third, fourth = segmented
        self.reduce = pointwise(fourth + bottom, fourth)
        self.bottom = MaskFusion(fourth, classes, dropout)
        self.third = double_convolution(fourth, third, dropout)
        self.second = double_convolution(2 * third, second, dropout)
        self.first = double_convolution(2 * second, first, dropout)
        self.scores = nn.ModuleList(pointwise(width, classes) for width in (2 * first, 2 * second, 2 * third, fourth))
        self.top = MaskFusion(2 * first, classes, dropout)

    def forward(self, segmented: Sequence[Tensor], mixed: Tensor, mutual: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        evidence, classes = evidence_of(mutual), mutual.shape[1]
        vacuity = classes / (evidence + 1).sum(1, keepdim=True)
        gate, small_gate = torch.exp(-vacuity), torch.exp(-resize(vacuity, 1 / 8))
        feature = self.reduce(small_gate * torch.cat((segmented[3], mixed), 1))
        fourth = self.scores[3](feature)
        small_mask = (fourth + resize(evidence, 1 / 8)) * small_gate
        feature = self.bottom(feature, small_mask)
        feature = torch.cat((segmented[2], self.third(resize(feature, 2))), 1)
        third = self.scores[2](feature)
        feature = torch.cat((segmented[1], self.second(resize(feature, 2))), 1)
        second = self.scores[1](feature)
        feature = torch.cat((segmented[0], self.first(resize(feature, 2))), 1)
        first = self.scores[0](feature)
        mask = (first + evidence) * gate
        guide = resize(self.top(feature, mask), 1 / 8)
        return (
            (first, second, third, fourth),
            (mask, small_mask),
            (gate.squeeze(1), small_gate.squeeze(1)),
            (vacuity.squeeze(1), guide),
        )


class UncertaintyInstructor(nn.Module):
    """3.5."""

    def __init__(self, inputs: int, widths: Sequence[int], guide: int, classes: int, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths:
            depthwise = nn.Conv2d(
                inputs, inputs, 3, padding=2, dilation=2, groups=inputs, bias=False, padding_mode="replicate"
            )
            layers += [depthwise, nn.Conv2d(inputs, width, 1), nn.ReLU()]
            inputs = width
        self.head = nn.Sequential(*layers)
        self.instruct = double_convolution(guide, inputs, dropout)
        self.out = nn.Linear(inputs, classes)

    def forward(self, classified: Tensor, mixed: Tensor, guide: Tensor) -> Tensor:
        feature = self.head(torch.cat((classified, mixed), 1))
        feature = feature + feature * self.instruct(guide)
        return self.out(feature.mean((2, 3)))


class NaiveUml(nn.Module):
    """The network of section 3, whose parts and outputs bear the names of `UmlNetwork`'s."""

    def __init__(self, model: UmlModel, channels: int, pixel_classes: int, image_classes: int) -> None:
        super().__init__()
        width = model.scale
        self.classification_encoder = model.encoder_of("classification").build(channels)
        self.segmentation_encoder = model.encoder_of("segmentation").build(channels)
        classified, segmented = self.classification_encoder.widths, self.segmentation_encoder.widths
        (hidden,), (evidence,) = scaled((MIXER_HIDDEN,), width), scaled((EVIDENCE_HIDDEN,), width)
        outputs = (*scaled(MIXED, width), None)
        self.mixer = nn.ModuleList(
            LevelMixer(c, s, hidden, out) for c, s, out in zip(classified, segmented, outputs, strict=True)
        )
        mixed = (*scaled(MIXED, width), 2 * hidden)
        self.mutual = MutualDecoder(mixed, evidence, pixel_classes, model.dropout)
        self.navigator = UncertaintyNavigator(segmented, mixed[3], pixel_classes, model.dropout)
        self.instructor = UncertaintyInstructor(
            classified[3] + mixed[3], scaled(INSTRUCTOR, width), 2 * segmented[0], image_classes, model.dropout
        )

    def forward(self, image: Tensor) -> UmlOutput:
        classified, segmented = self.classification_encoder(image), self.segmentation_encoder(image)
        mixed = [mixer(c, s) for mixer, c, s in zip(self.mixer, classified, segmented, strict=True)]
        mutual = self.mutual(mixed)
        logits, masks, gates, (vacuity, guide) = self.navigator(segmented, mixed[3], mutual)
        return UmlOutput(self.instructor(classified[3], mixed[3], guide), mutual, vacuity, logits, masks, gates)


def naive_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What makes a `NaiveUml` the same function as a `UmlNetwork` with these parameters; differentiable.

    The shuffle renames the mixer's joined channels, which are the fourth mixed feature; its biases that have no effect
    are 0.
    """
    joined = 2 * len(state["mixer.levels.3.project_classified"])
    naive = {}
    for name, value in state.items():
        before, embedding, parameter = name.partition(".embed.")
        if embedding:
            naive[before + embedding + EMBED[parameter]] = value[:, :, None, None] if value.dim() == 2 else value
            continue
        if not name.startswith("mixer.levels."):
            naive[name] = _shuffled(value, FOURTH_MIXED[name], joined) if name in FOURTH_MIXED else value
            continue
        level, part, *_ = path = name.removeprefix("mixer.levels.").split(".")
        if part in JOINED:
            value = _shuffled(value, JOINED[part], joined)
        if part in ("channel_query", "channel_value"):
            naive[f"mixer.{level}.{part}.bias"] = value.new_zeros(len(value))
        name = ".".join(("mixer", *path) if len(path) == 3 else ("mixer", *path, "weight"))
        naive[name] = value[:, :, None, None] if value.dim() == 2 else value
    return naive


def _shuffled(value: Tensor, dim: int, joined: int) -> Tensor:
    """The last channels, as many as joined, in the order after the channel shuffle."""
    first = value.shape[dim] - joined
    order = torch.arange(joined).reshape(-1, SHUFFLE_GROUPS).T.flatten()
    return value.index_select(dim, torch.cat((torch.arange(first), first + order)))


def naive_loss(output: UmlOutput, mask: Tensor, label: Tensor, kl_weight: float) -> Tensor:
    """The total loss of section 2, of masks (B, H, W) and labels (B,) that are all there."""
    classification = _evidential(evidence_of(_precise(output.class_logits)), label, kl_weight)
    levels = [resize(logits, 2**i) if i else logits for i, logits in enumerate(output.segmentation)]
    segmentation = torch.stack([_dice(logits, mask) for logits in levels]).mean()
    evidence = evidence_of(_precise(output.mutual_logits))
    mutual = _dice(evidence, mask) + _evidential(evidence, mask, kl_weight)
    terms = {"classification": classification, "segmentation": segmentation, "mutual": mutual}
    return sum((WEIGHTS[name] * term for name, term in terms.items()), torch.zeros(()))


def _one_hot(target: Tensor, like: Tensor) -> Tensor:
    return functional.one_hot(target.long(), like.shape[1]).movedim(-1, 1).to(like.dtype)


def _evidential(evidence: Tensor, target: Tensor, kl_weight: float) -> Tensor:
    evidence = _precise(evidence)
    classes, own, alpha = evidence.shape[1], _one_hot(target, evidence), evidence + 1
    error = (own * (torch.digamma(alpha.sum(1, keepdim=True)) - torch.digamma(alpha))).sum(1)
    alpha = own + (1 - own) * alpha
    strength = alpha.sum(1, keepdim=True)
    kl = torch.lgamma(strength).squeeze(1) - math.lgamma(classes) - torch.lgamma(alpha).sum(1)
    kl = kl + ((alpha - 1) * (torch.digamma(alpha) - torch.digamma(strength))).sum(1)
    return (error + kl_weight * kl).mean()


def _dice(scores: Tensor, mask: Tensor) -> Tensor:
    probability = _precise(scores).softmax(1)
    own, places = _one_hot(mask, probability), (0, 2, 3)
    overlap = 2 * (probability * own).sum(places) + SMOOTH
    return -torch.log(overlap / (probability.sum(places) + own.sum(places) + SMOOTH)).mean()


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
