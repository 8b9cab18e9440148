"""Launch parameters by kernel, architecture, layout, bytes of a logit and classes: a table, and no autotuning.

kernels/bench/tune.py measures the candidates on a GPU and prints rows. What no row was measured for takes the rows of
architecture "any", which the compiler alone has chosen: 128-bit loads where the classes are few, no spilled register.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor


class Tiles(NamedTuple):
    """Pixels of a block, blocks that a program takes, its warps, and the registers that a thread may take.

    Without a number of registers the compiler chooses. For some kernels it then spills 8 bytes far below its limit, and
    a slightly larger number of registers avoids that.
    """

    block: int
    iterations: int
    warps: int
    registers: int | None = None


class Row(NamedTuple):
    """Tiles for up to so many classes; of one layout and of one number of bytes, or of any where that is None."""

    classes: int
    tiles: Tiles
    channels_last: bool | None = None
    bytes: int | None = None


MANY = 1 << 30
BUSY = 1024
"""Programs that keep a large GPU busy; a program of a smaller map takes fewer blocks."""
# The first row that fits is taken.
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
    # Of features, `classes` are channels, and the blocks of a tile are as many channels at once.
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
    # A block is columns, its iterations rows.
    "level_forward": {"any": (Row(16, Tiles(32, 16, 1)),)},
    "level_backward": {"any": (Row(4, Tiles(128, 1, 4, 80)), Row(16, Tiles(128, 1, 4)))},
}  # fmt: skip


@cache
def architecture(device: torch.device) -> str:
    """Such as "sm_90" of a GPU; "any" of a CPU, where only the interpreter runs."""
    if device.type != "cuda":
        return "any"
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def tiles(kernel: str, logits: Tensor) -> Tiles:
    """The tiles of a kernel for logits (B, C, P)."""
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
    """The tiles with so few blocks for a program that there are enough programs, where the map is large enough."""
    iterations = chosen.iterations
    while iterations > 1 and batch * pixels < BUSY * chosen.block * iterations:
        iterations //= 2
    return chosen._replace(iterations=iterations)
