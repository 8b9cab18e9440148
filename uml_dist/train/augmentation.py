"""Augmentation of volumes on the device: flips and turns, keyed by sample, which lose nothing and add no voxel."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..batch import Batch
from ..nn.keyed_dropout import keyed_uniform
from ..telemetry import span

Move = tuple[Tensor, Tensor]
"""Axes along which each volume is flipped, (B, 3) bool, and the quarter turns after that, (B,) int64 in 0 to 3."""


def augment(batch: Batch, name: str) -> Batch:
    """Return a batch of volumes, each flipped and turned in the plane of its first two axes, mask and image alike.

    Both are functions of `Batch.rng_key` alone, so they do not depend on ranks, micro batches or restarts. The host
    does not wait for the device.

    Args:
        batch: the batch, on its device; it is not modified.
        name: one of `VOLUME_AUGMENTATIONS`.
    """
    draw = VOLUME_AUGMENTATIONS[name]
    if draw is None:
        return batch
    with span("augment"):
        shape = batch.image.shape[2:]
        source = _source(shape, *draw(batch.rng_key, shape[0] == shape[1]))
        return replace(batch, image=_take(batch.image, source), mask=_take(batch.mask, source))


def light(rng_key: Tensor, quarter: bool) -> Move:
    """Draw a flip along each axis, and a turn: any of the 16 orientations that keep the third axis upright.

    Args:
        rng_key: (B,) int64, the keys of the samples.
        quarter: whether quarter turns fit; otherwise there are half turns only.
    """
    flips = torch.stack([keyed_uniform(rng_key, f"flip {axis}") < 0.5 for axis in range(3)], dim=1)
    return flips, _turns(rng_key, quarter)


def axial(rng_key: Tensor, quarter: bool) -> Move:
    """Draw a flip along one of the first two axes, and a turn, as the published 3-D methods do.

    Every volume is mirrored: its 4 orientations are those of the mirror image. For the arguments see `light`.
    """
    first = keyed_uniform(rng_key, "flip axis") < 0.5
    return torch.stack([first, ~first, torch.zeros_like(first)], dim=1), _turns(rng_key, quarter)


VOLUME_AUGMENTATIONS: dict[str, Callable[[Tensor, bool], Move] | None] = {"none": None, "light": light, "axial": axial}
"""Values of `data.augment` for volumes."""


def _turns(rng_key: Tensor, quarter: bool) -> Tensor:
    uniform = keyed_uniform(rng_key, "turn")
    return (4 * uniform).long() if quarter else 2 * (2 * uniform).long()


def _source(shape: torch.Size, flips: Tensor, turns: Tensor) -> Tensor:
    """Return the voxel that each voxel of the result comes from, (B, H * W * D) int64."""
    height, width, depth = shape
    row, column, level = (torch.arange(side, device=turns.device) for side in shape)
    odd = (turns % 2 == 1)[:, None, None]
    rows = torch.where(odd, column[None, None, :], row[None, :, None])
    columns = torch.where(odd, row[None, :, None], column[None, None, :])
    # A turn by one quarter reverses the columns, by three the rows, and by two both; flips come before it.
    rows = _reversed(rows, height, (turns >= 2) ^ flips[:, 0])
    columns = _reversed(columns, width, (turns == 1) ^ (turns == 2) ^ flips[:, 1])
    levels = _reversed(level.expand(1, 1, -1), depth, flips[:, 2])
    return ((rows * width + columns)[..., None] * depth + levels[:, :, None]).flatten(1)


def _reversed(index: Tensor, side: int, reverse: Tensor) -> Tensor:
    """Return indices (B or 1, ...) that run backwards where `reverse` (B,) is true."""
    return torch.where(reverse[:, None, None], side - 1 - index, index)


def _take(values: Tensor, source: Tensor) -> Tensor:
    """Return values (B, ..., H, W, D) with each voxel from its source."""
    flat = values.reshape(len(values), -1, source.shape[1])
    return flat.gather(2, source[:, None].expand_as(flat)).reshape(values.shape)
