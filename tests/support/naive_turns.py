"""Flips and turns of volumes by NumPy, one volume at a time: the reference for those on the device."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from uml_dist.batch import Batch
from uml_shards.keyed import keyed_uniform


def moved(batch: Batch, name: str, seed: int, stream: str) -> Batch:
    """Return a batch of volumes of a stream with an augmentation, its draws by position."""
    if name == "none":
        return batch
    images, masks = [], []
    for number, position in enumerate(batch.position.tolist()):
        height, width = batch.image.shape[2:4]
        axes, turns = draws(name, height == width, seed, stream, position)
        images.append(turn(batch.image[number].numpy(), axes, turns))
        masks.append(turn(batch.mask[number].numpy(), axes, turns))
    return replace(batch, image=torch.from_numpy(np.stack(images)), mask=torch.from_numpy(np.stack(masks)))


def draws(name: str, square: bool, *key: str | int) -> tuple[tuple[int, ...], int]:
    """Return the axes to flip, of the last three, and the quarter turns after that."""
    uniform = float(keyed_uniform(*key, "turn"))
    turns = int(uniform * 4) if square else 2 * int(uniform * 2)
    if name == "axial":
        return (-3 if float(keyed_uniform(*key, "flip axis")) < 0.5 else -2,), turns
    return tuple(axis - 3 for axis in range(3) if float(keyed_uniform(*key, f"flip {axis}")) < 0.5), turns


def turn(values: NDArray, axes: tuple[int, ...], turns: int) -> NDArray:
    """Flip values (..., H, W, D) along axes, then turn them in the plane of H and W."""
    return np.ascontiguousarray(np.rot90(np.flip(values, axes), turns, (-3, -2)))
