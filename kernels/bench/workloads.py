"""Workloads of the benchmarks: each library call with an equivalent composition of torch's own operations."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

import uml_kernels
from eager_losses import eager_dice, eager_evidence, eager_mutual_loss, eager_terms
from uml_kernels import TermWeights

KL_WEIGHT, SMOOTH, LEVELS, CHANNELS = 0.3, 1e-5, 4, 64
PASSES, LIMIT, SLOPE = 8, 0.75, 4.0
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Setting(NamedTuple):
    """One configuration to measure.

    Attributes:
        workload: a key of `WORKLOADS`.
        classes: number of classes C.
        dtype: dtype of the logits, such as "float32".
        layout: position of the channels, "first" or "last".
        batch: number of samples.
        side: height and width of the target.
    """

    workload: str
    classes: int = 3
    dtype: str = "float32"
    layout: str = "first"
    batch: int = 8
    side: int = 512


class Inputs(NamedTuple):
    """Inputs of a workload.

    Attributes:
        maps: maps that require a gradient.
        target: class indices (B, H, W).
        fixed: maps without gradient.
        mask: one blob per sample (B, H, W), bool.
    """

    maps: tuple[Tensor, ...]
    target: Tensor
    fixed: tuple[Tensor, ...] = ()
    mask: Tensor | None = None


Function = Callable[[Inputs], Tensor | tuple[Tensor, ...]]


class Workload(NamedTuple):
    """One function in two implementations.

    Attributes:
        needs: functions that the library must have.
        channels: number of channels (None for C) and divisor of the sides, for each map.
        ours: implementation by the library.
        eager: composition of torch's operations.
        fixed: channels and divisors of the maps without gradient.
    """

    needs: tuple[str, ...]
    channels: tuple[tuple[int | None, int], ...]
    ours: Function
    eager: Function
    fixed: tuple[tuple[int | None, int], ...] = ()


FULL = TermWeights(cross_entropy=1.0, kl=1.0, dice=1.0)


def _mutual(maps: Sequence[Tensor], target: Tensor) -> Tensor:
    """Return the sum of UML's mutual losses of the maps."""
    sums = uml_kernels.evidential_sums(maps, target)
    return uml_kernels.combined_loss(sums, term_weights=[FULL] * len(maps), kl_weight=KL_WEIGHT, smooth=SMOOTH).loss


def _paper(maps: Sequence[Tensor], target: Tensor) -> Tensor:
    """Return UML's mutual loss of the first map plus its segmentation loss of the other maps as levels."""
    sums, levels = uml_kernels.evidential_sums(maps[:1], target), uml_kernels.level_sums(maps[1:], target)
    weights = [FULL, *[TermWeights(dice=1 / LEVELS)] * LEVELS]
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
    """Return UML's segmentation loss: the mean of -ln Dice over the levels."""
    sums = uml_kernels.level_sums(levels, target)
    return uml_kernels.combined_loss(
        levels=sums, term_weights=[TermWeights(dice=1 / LEVELS)] * LEVELS, smooth=SMOOTH
    ).loss


def _eager_objective(dice: Sequence[Tensor]) -> Tensor:
    """Return the mean over the classes of -ln Dice for sums (B, C)."""
    intersection, predicted, own = (each.sum(-2) for each in dice)
    return -((2 * intersection + SMOOTH) / (predicted + own + SMOOTH)).log().mean()


def _eager_levels(levels: Sequence[Tensor], target: Tensor) -> Tensor:
    hot = functional.one_hot(target.long(), levels[0].shape[1]).movedim(-1, 1).float()
    counted, losses = torch.ones_like(hot[:, 0]), []
    for level in levels:
        upsampled = functional.interpolate(level.float(), target.shape[1:], mode="bilinear", align_corners=True)
        losses.append(_eager_objective(eager_dice(upsampled.softmax(1), hot, counted)))
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


def _signed_distance(inputs: Inputs) -> Tensor:
    assert inputs.mask is not None
    return uml_kernels.signed_distance(inputs.mask)


def _eager_signed_distance(inputs: Inputs) -> Tensor:
    """Take the minimum over every offset along each axis, for inside and outside."""
    assert inputs.mask is not None
    foreground, roots = inputs.mask, []
    for sites in (foreground, ~foreground):
        squares = torch.zeros(sites.shape, device=sites.device).masked_fill_(~sites, torch.inf)
        for axis in (2, 1):
            lowered, side = squares.clone(), sites.shape[axis]
            for offset in range(1, side):
                moved = squares + offset * offset
                for first, second in ((0, offset), (offset, 0)):
                    part = lowered.narrow(axis, first, side - offset)
                    torch.minimum(part, moved.narrow(axis, second, side - offset), out=part)
            squares = lowered
        roots.append(squares.sqrt_())
    outside, inside = (each / each.amax((1, 2), keepdim=True) for each in roots)
    padded = functional.pad(foreground[:, None].float(), (1, 1, 1, 1), value=1.0)
    across, along = functional.max_pool2d(-padded, (3, 1), 1), functional.max_pool2d(-padded, (1, 3), 1)
    touching = (torch.maximum(across[..., 1:-1], along[:, :, 1:-1]) == 0).squeeze(1)
    return (outside - inside).masked_fill_(touching & foreground, 0)


def _passes(inputs: Inputs) -> Tensor:
    (logits,) = inputs.fixed
    total = torch.zeros_like(logits, dtype=torch.float32)
    for _ in range(PASSES):
        uml_kernels.add_probability(total, logits)
    return uml_kernels.passes_entropy(total, PASSES, LIMIT)[0]


def _eager_passes(inputs: Inputs) -> Tensor:
    (logits,) = inputs.fixed
    total = torch.zeros_like(logits, dtype=torch.float32)
    for _ in range(PASSES):
        total += logits.float().softmax(1)
    probability = total / PASSES
    return -(probability * probability.log()).sum(1) / math.log(probability.shape[1])


def _consistency(inputs: Inputs) -> Tensor:
    assert inputs.mask is not None
    (logits, distance), teacher = inputs.maps, inputs.fixed
    return torch.stack(uml_kernels.consistency_sums(logits, distance, teacher[0], teacher[1], inputs.mask, SLOPE)).sum()


def _eager_consistency(inputs: Inputs) -> Tensor:
    assert inputs.mask is not None
    (logits, distance), (teacher, teacher_distance), mask = inputs.maps, inputs.fixed, inputs.mask
    probability, z = logits.float().softmax(1), distance.float()
    cross = (torch.sigmoid(-SLOPE * z) - probability).square().mean(1)
    segmentation = mask * (probability - teacher.float()).square().mean(1)
    between = mask * (z - teacher_distance.float()).square().mean(1)
    return segmentation.sum() + between.sum() + cross.sum() + (mask * cross).sum()


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
    "consistency": Workload(("consistency_sums",), ONE * 2, _consistency, _eager_consistency, ONE * 2),
    "signed distance": Workload(("signed_distance",), (), _signed_distance, _eager_signed_distance),
    "passes": Workload(("add_probability", "passes_entropy"), (), _passes, _eager_passes, ONE),
}
"""`uml-paper` is one evidential map and four Dice levels, `uml-v2` four evidential maps. `maps` are the inference maps,
`passes` the entropy of 8 stochastic passes; these and `signed distance` have no backward pass."""


def available() -> list[str]:
    """Return the workloads for which the library has all functions."""
    return [name for name, one in WORKLOADS.items() if all(hasattr(uml_kernels, need) for need in one.needs)]


def make_inputs(setting: Setting, device: torch.device, seed: int = 0) -> Inputs:
    """Draw random maps of standard deviation 2 and a random target."""
    torch.manual_seed(seed)
    workload, maps = WORKLOADS[setting.workload], []
    for channels, divisor in (*workload.channels, *workload.fixed):
        count, side = channels or setting.classes, setting.side // divisor
        x = 2 * torch.randn(setting.batch, count, side, side, device=device)
        x = x.to(DTYPES[setting.dtype])
        if setting.layout == "last":
            x = x.contiguous(memory_format=torch.channels_last)
        maps.append(x.requires_grad_(len(maps) < len(workload.channels)))
    shape = (setting.batch, setting.side, setting.side)
    target = torch.randint(0, setting.classes, shape, device=device).to(torch.uint8)
    count = len(workload.channels)
    return Inputs(tuple(maps[:count]), target, tuple(maps[count:]), blobs(shape, device))


def blobs(shape: Sequence[int], device: torch.device) -> Tensor:
    """Return masks (B, *S) of one blob with an uneven surface, a tenth of a volume's voxels, like a left atrium."""
    places = [torch.linspace(-1, 1, side, device=device) for side in shape[1:]]
    grid = torch.meshgrid(*places, indexing="ij")
    radii = (0.62, 0.5, 0.5)
    squares = torch.stack([(x / radius).square() for x, radius in zip(grid, radii, strict=False)]).sum(0)
    waves = [1 + 0.3 * torch.sin(9 * grid[0] + sample) * torch.cos(7 * grid[1]) for sample in range(shape[0])]
    return squares < torch.stack(waves)
