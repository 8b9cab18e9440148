"""What is measured: the library's calls, and beside each the same of torch's own operations."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

import uml_kernels
from eager_losses import eager_dice, eager_evidence, eager_mutual_loss, eager_terms
from uml_kernels import TermWeights

KL_WEIGHT, SMOOTH, LEVELS, CHANNELS = 0.3, 1e-5, 4, 64
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Setting(NamedTuple):
    """One point of the measurements.

    Attributes:
        workload: a key of `WORKLOADS`.
        classes: C.
        dtype: of the logits, such as "float32".
        layout: "first" or "last", where the channels are.
        batch: samples.
        side: height and width of the target.
    """

    workload: str
    classes: int = 3
    dtype: str = "float32"
    layout: str = "first"
    batch: int = 8
    side: int = 512


class Inputs(NamedTuple):
    """Maps that ask for a gradient, and class numbers (B, H, W)."""

    maps: tuple[Tensor, ...]
    target: Tensor


Function = Callable[[Inputs], Tensor | tuple[Tensor, ...]]


class Workload(NamedTuple):
    """One function in two forms.

    Attributes:
        needs: names that the library must have.
        channels: of each map, and by what its sides are divided; no number: C.
        ours: of the library.
        eager: of torch's operations, as anyone would compose them.
    """

    needs: tuple[str, ...]
    channels: tuple[tuple[int | None, int], ...]
    ours: Function
    eager: Function


WHOLE = TermWeights(cross_entropy=1.0, kl=1.0, dice=1.0)


def _mutual(maps: Sequence[Tensor], target: Tensor) -> Tensor:
    """UML's mutual loss of each map, added."""
    sums = uml_kernels.evidential_sums(maps, target)
    return uml_kernels.combined_loss(sums, term_weights=[WHOLE] * len(maps), kl_weight=KL_WEIGHT, smooth=SMOOTH).loss


def _paper(maps: Sequence[Tensor], target: Tensor) -> Tensor:
    """UML's mutual loss of the first map, and its segmentation loss of the other maps as levels."""
    sums, levels = uml_kernels.evidential_sums(maps[:1], target), uml_kernels.level_sums(maps[1:], target)
    weights = [WHOLE, *[TermWeights(dice=1 / LEVELS)] * LEVELS]
    return uml_kernels.combined_loss(sums, levels, term_weights=weights, kl_weight=KL_WEIGHT, smooth=SMOOTH).loss


def _eager_mutual(logits: Tensor, target: Tensor) -> Tensor:
    return eager_mutual_loss(logits.float(), target, KL_WEIGHT)


def _loss(inputs: Inputs) -> tuple[Tensor, ...]:
    return uml_kernels.evidential_loss(inputs.maps[0], inputs.target, KL_WEIGHT, return_vacuity=True)


def _eager_loss(inputs: Inputs) -> tuple[Tensor, ...]:
    logits = inputs.maps[0].float()
    hot = functional.one_hot(inputs.target.long(), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    cross_entropy, kl, vacuity = eager_terms(logits, hot)
    return (cross_entropy + KL_WEIGHT * kl).mean(), vacuity.detach()


def _maps(inputs: Inputs) -> tuple[Tensor, ...]:
    maps = uml_kernels.predictive_maps(inputs.maps[0])
    assert maps.probability is not None
    return maps.probability, maps.vacuity, maps.entropy


@torch.no_grad()
def _eager_maps(inputs: Inputs) -> tuple[Tensor, ...]:
    alpha = eager_evidence(inputs.maps[0].float()) + 1
    strength = alpha.sum(1, keepdim=True)
    probability = alpha / strength
    return probability, alpha.shape[1] / strength.squeeze(1), -(probability * probability.log()).sum(1)


def _levels(levels: Sequence[Tensor], target: Tensor) -> Tensor:
    """UML's segmentation loss: the mean over the levels of -ln Dice."""
    sums = uml_kernels.level_sums(levels, target)
    return uml_kernels.combined_loss(
        levels=sums, term_weights=[TermWeights(dice=1 / LEVELS)] * LEVELS, smooth=SMOOTH
    ).loss


def _eager_objective(dice: Sequence[Tensor]) -> Tensor:
    """-ln Dice, mean over classes, of sums (B, C)."""
    intersection, predicted, own = (each.sum(-2) for each in dice)
    return -((2 * intersection + SMOOTH) / (predicted + own + SMOOTH)).log().mean()


def _eager_levels(levels: Sequence[Tensor], target: Tensor) -> Tensor:
    hot = functional.one_hot(target.long(), levels[0].shape[1]).movedim(-1, 1).float()
    counted, losses = torch.ones_like(hot[:, 0]), []
    for level in levels:
        whole = functional.interpolate(level.float(), target.shape[1:], mode="bilinear", align_corners=True)
        losses.append(_eager_objective(eager_dice(whole.softmax(1), hot, counted)))
    return torch.stack(losses).mean()


def _opinion(inputs: Inputs) -> tuple[Tensor, ...]:
    opinion = uml_kernels.opinion(inputs.maps[0])
    return opinion.evidence, opinion.vacuity, opinion.gate


def _eager_opinion(inputs: Inputs) -> tuple[Tensor, ...]:
    evidence = eager_evidence(inputs.maps[0].float())
    vacuity = evidence.shape[1] / (evidence + 1).sum(1)
    return evidence, vacuity, (-vacuity).exp()


def _gated(inputs: Inputs) -> Tensor:
    feature, gate = inputs.maps
    return uml_kernels.gated(feature, gate.squeeze(1))


def _eager_gated(inputs: Inputs) -> Tensor:
    feature, gate = inputs.maps
    return feature * gate


def _resized(inputs: Inputs) -> Tensor:
    size = inputs.target.shape[1], inputs.target.shape[2]
    return uml_kernels.resized(inputs.maps[0], size)


def _eager_resized(inputs: Inputs) -> Tensor:
    size = inputs.target.shape[1], inputs.target.shape[2]
    return functional.interpolate(inputs.maps[0].float(), size, mode="bilinear", align_corners=True)


ONE, ALL_LEVELS = ((None, 1),), tuple((None, 2**level) for level in range(LEVELS))

WORKLOADS: dict[str, Workload] = {
    "uml-paper": Workload(
        ("evidential_sums", "level_sums", "combined_loss"),
        ONE + ALL_LEVELS,
        lambda x: _paper(x.maps, x.target),
        lambda x: _eager_mutual(x.maps[0], x.target) + _eager_levels(x.maps[1:], x.target),
    ),
    "uml-v2": Workload(
        ("evidential_sums", "combined_loss"),
        ONE * LEVELS,
        lambda x: _mutual(x.maps, x.target),
        lambda x: torch.stack([_eager_mutual(each, x.target) for each in x.maps]).sum(),
    ),
    "mutual": Workload(
        ("evidential_sums", "combined_loss"),
        ONE,
        lambda x: _mutual(x.maps, x.target),
        lambda x: _eager_mutual(x.maps[0], x.target),
    ),
    "levels": Workload(
        ("level_sums", "combined_loss"),
        ALL_LEVELS,
        lambda x: _levels(x.maps, x.target),
        lambda x: _eager_levels(x.maps, x.target),
    ),
    "loss": Workload(("evidential_loss",), ONE, _loss, _eager_loss),
    "maps": Workload(("predictive_maps",), ONE, _maps, _eager_maps),
    "opinion": Workload(("opinion",), ONE, _opinion, _eager_opinion),
    "gated": Workload(("gated",), ((CHANNELS, 1), (1, 1)), _gated, _eager_gated),
    "resized": Workload(("resized",), ((None, 2),), _resized, _eager_resized),
}
"""`uml-paper`: one evidential map and four levels of Dice; `uml-v2`: four evidential maps; `maps`, of inference, have
no backward."""


def available() -> list[str]:
    """Workloads of which the library has all parts."""
    return [name for name, one in WORKLOADS.items() if all(hasattr(uml_kernels, need) for need in one.needs)]


def make_inputs(setting: Setting, device: torch.device, seed: int = 0) -> Inputs:
    """Random maps of standard deviation 2, and a random target."""
    torch.manual_seed(seed)
    maps = []
    for channels, divisor in WORKLOADS[setting.workload].channels:
        count, side = channels or setting.classes, setting.side // divisor
        x = 2 * torch.randn(setting.batch, count, side, side, device=device)
        x = x.to(DTYPES[setting.dtype])
        if setting.layout == "last":
            x = x.contiguous(memory_format=torch.channels_last)
        maps.append(x.requires_grad_())
    shape = (setting.batch, setting.side, setting.side)
    return Inputs(tuple(maps), torch.randint(0, setting.classes, shape, device=device).to(torch.uint8))
