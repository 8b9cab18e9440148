"""Table of launch parameters by kernel, architecture, layout, bytes per logit and classes, used instead of autotuning.

kernels/bench/tune.py measures the candidates on a GPU and prints rows. Cases without a measured row use the rows of
architecture "any". These were chosen from the compiled code alone: 128-bit loads for few classes, no register spills.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor


class Tiles(NamedTuple):
    """Launch parameters of a kernel.

    Attributes:
        block: pixels per block.
        iterations: blocks per program.
        warps: warps per program.
        registers: maximum registers per thread; None lets the compiler choose. For some kernels it then spills 8 bytes
            far below its limit, and a slightly larger maximum avoids that.
    """

    block: int
    iterations: int
    warps: int
    registers: int | None = None


class Row(NamedTuple):
    """Tiles for up to `classes` classes; `channels_last` and `bytes` per logit restrict the row unless None."""

    classes: int
    tiles: Tiles
    channels_last: bool | None = None
    bytes: int | None = None


MANY = 1 << 30
BUSY = 1024
"""Programs that keep a large GPU busy; for smaller maps a program processes fewer blocks."""
# The first matching row is used.
TABLE: dict[str, dict[str, tuple[Row, ...]]] = {
    "evidential_forward": {
        "any": (
            Row(4, Tiles(1024, 8, 4), False, 2), Row(4, Tiles(512, 8, 4)), Row(8, Tiles(256, 8, 8)),
            Row(16, Tiles(128, 8, 4)),
        ),
    },
    "evidential_backward": {
        "any": (
            Row(4, Tiles(1024, 1, 4), False, 2), Row(4, Tiles(512, 1, 4)), Row(8, Tiles(256, 1, 4)),
            Row(16, Tiles(128, 1, 4)),
        ),
    },
    "opinion_forward": {
        "any": (Row(4, Tiles(1024, 1, 4), False, 2), Row(8, Tiles(512, 1, 4)), Row(16, Tiles(256, 1, 4))),
    },
    "opinion_backward": {
        "any": (Row(4, Tiles(1024, 1, 4), False, 2), Row(8, Tiles(512, 1, 4)), Row(16, Tiles(256, 1, 4))),
    },
    "predictive_maps": {
        "any": (Row(4, Tiles(512, 1, 4)), Row(8, Tiles(256, 1, 4)), Row(16, Tiles(128, 1, 4))),
    },
    # For features, `classes` is the number of channels, and `iterations` the number of channels in a tile.
    "gated_forward": {
        "any": (
            Row(2, Tiles(512, 2, 4), False), Row(4, Tiles(512, 4, 4), False), Row(MANY, Tiles(128, 16, 4), False),
            Row(4, Tiles(256, 4, 4)), Row(16, Tiles(128, 16, 4)), Row(MANY, Tiles(32, 64, 4)),
        ),
    },
    "gated_backward": {
        "any": (
            Row(2, Tiles(512, 2, 4), False), Row(4, Tiles(512, 4, 4), False), Row(256, Tiles(128, 8, 4), False),
            Row(MANY, Tiles(32, 32, 4), False), Row(4, Tiles(256, 4, 4)), Row(16, Tiles(64, 16, 4)),
            Row(MANY, Tiles(16, 64, 4)),
        ),
    },
    "resized_forward": {
        "any": (
            Row(MANY, Tiles(512, 1, 4), False), Row(4, Tiles(256, 1, 4)), Row(16, Tiles(64, 1, 4)),
            Row(MANY, Tiles(32, 1, 4)),
        ),
    },
    "resized_backward": {
        "any": (
            Row(MANY, Tiles(512, 1, 4), False), Row(4, Tiles(256, 1, 4)), Row(16, Tiles(64, 1, 4)),
            Row(MANY, Tiles(32, 1, 4)),
        ),
    },
    # `block` is the number of columns, `iterations` the number of rows.
    "level_forward": {"any": (Row(16, Tiles(32, 16, 1)),)},
    "level_backward": {"any": (Row(4, Tiles(128, 1, 4, 80)), Row(16, Tiles(128, 1, 4)))},
    "add_probability": {
        "any": (Row(4, Tiles(1024, 1, 4), False, 2), Row(8, Tiles(512, 1, 4)), Row(16, Tiles(256, 1, 4))),
    },
    "passes_entropy": {"any": (Row(4, Tiles(512, 1, 4)), Row(8, Tiles(256, 1, 4)), Row(16, Tiles(128, 1, 4)))},
    "consistency_forward": {"any": (Row(4, Tiles(512, 8, 4)), Row(8, Tiles(256, 8, 4)), Row(16, Tiles(128, 8, 4)))},
    "consistency_backward": {"any": (Row(4, Tiles(512, 1, 4)), Row(8, Tiles(256, 1, 4)), Row(16, Tiles(128, 1, 4)))},
    # One warp: the search ends when the largest square of a block is found, without waiting for other warps.
    "distance_axis": {"any": (Row(MANY, Tiles(128, 1, 1)),)},
    "distance_map": {"any": (Row(MANY, Tiles(512, 1, 4)),)},
}  # fmt: skip


@cache
def architecture(device: torch.device) -> str:
    """Return the architecture of a GPU, such as "sm_90", or "any" for a CPU, where only the interpreter runs."""
    if device.type != "cuda":
        return "any"
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def tiles(kernel: str, logits: Tensor) -> Tiles:
    """Return the tiles of a kernel for logits (B, C, P).

    Raises:
        ValueError: there are too many classes.
    """
    rows = TABLE[kernel]
    last = logits.stride(1) == 1 and logits.shape[2] > 1
    for row in (*rows.get(architecture(logits.device), ()), *rows["any"]):
        if (
            logits.shape[1] <= row.classes
            and row.channels_last in (None, last)
            and row.bytes in (None, logits.element_size())
        ):
            return row.tiles
    raise ValueError(f"{logits.shape[1]} classes: the kernels take at most {max(row.classes for row in rows['any'])}")


def fewer_blocks(chosen: Tiles, batch: int, pixels: int) -> Tiles:
    """Reduce the blocks per program until there are at least `BUSY` programs, if the map is large enough."""
    iterations = chosen.iterations
    while iterations > 1 and batch * pixels < BUSY * chosen.block * iterations:
        iterations //= 2
    return chosen._replace(iterations=iterations)
