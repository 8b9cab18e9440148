"""The least time of a workload's kernels: by memory, by the special-function units, and by the issue of instructions.

A kernel cannot be faster than the slowest of the three; which one that is, is its limit.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch

from compile import compile_kernel
from launches import recorded
from timing import clock, in_turns
from workloads import WORKLOADS, Setting, make_inputs

SPECIAL_PER_CLOCK, ISSUED_PER_CLOCK = 16, 128
"""MUFU instructions, and instructions of any kind, that the threads of a multiprocessor finish in a clock."""

COPIED = 2**30
LIMITS = ("memory", "MUFU", "issue")
MEMORY_ONLY = "memory only"
"""The limit of a kernel whose instructions the compiler's output cannot tell: its loops have no known length."""


class Machine(NamedTuple):
    """A GPU's speeds.

    Attributes:
        bytes: read and written in a second by a copy of 1 GiB.
        special: MUFU instructions in a second.
        issued: instructions in a second.
    """

    bytes: float
    special: float
    issued: float


REHEARSED = Machine(3e12, 132 * SPECIAL_PER_CLOCK * 1.8e9, 132 * ISSUED_PER_CLOCK * 1.8e9)
"""About an H100, for rehearsals, which measure no GPU."""


class Demand(NamedTuple):
    """Of one launch.

    Attributes:
        kernel: its name.
        backward: whether it belongs to the backward pass.
        bytes: of its tensors, each once.
        special: MUFU instructions of all threads; NaN where the kernel's loops are not known.
        issued: instructions of all threads; likewise.
    """

    kernel: str
    backward: bool
    bytes: float
    special: float
    issued: float

    def times(self, machine: Machine) -> dict[str, float]:
        """The least milliseconds by limit; NaN where it is not known."""
        amounts = zip(LIMITS, (self.bytes, self.special, self.issued), machine, strict=True)
        return {name: 1e3 * amount / speed for name, amount, speed in amounts}


class Least(NamedTuple):
    """Of several launches, one after the other.

    Attributes:
        milliseconds: the sum of each launch's slowest limit.
        limit: the one that takes the largest part of that.
        by_limit: the sum of each limit alone; NaN where it is not known of a launch.
    """

    milliseconds: float
    limit: str
    by_limit: dict[str, float]


def least(demands: Sequence[Demand], machine: Machine) -> Least:
    """The least time of launches that follow each other."""
    parts: dict[str, float] = {}
    sums = dict.fromkeys(LIMITS, 0.0)
    for one in demands:
        times = one.times(machine)
        sums = {name: sums[name] + time for name, time in times.items()}
        known = {name: time for name, time in times.items() if not math.isnan(time)}
        limit = max(known, key=lambda name: known[name]) if len(known) == len(LIMITS) else MEMORY_ONLY
        parts[limit] = parts.get(limit, 0.0) + max(known.values())
    limit = max(parts, key=lambda name: parts[name]) if parts else ""
    return Least(sum(parts.values()), limit, sums)


def by_mode(demands: Sequence[Demand]) -> dict[str, list[Demand]]:
    """The launches of "forward", "backward" and "full"."""
    forward = [one for one in demands if not one.backward]
    backward = [one for one in demands if one.backward]
    return {"forward": forward, "backward": backward, "full": forward + backward}


def machine(device: torch.device) -> Machine:
    """Measured: by a copy, and by a kernel that counts cycles."""
    source = torch.empty(COPIED // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    times = in_turns({"copy": lambda: target.copy_(source)}, 20, 3, device)["copy"]
    cycles = clock(device) * torch.cuda.get_device_properties(device).multi_processor_count
    copied = 2 * COPIED / (1e-3 * sorted(times)[10])
    return Machine(copied, SPECIAL_PER_CLOCK * cycles, ISSUED_PER_CLOCK * cycles)


def demands(setting: Setting, architecture: str) -> list[Demand]:
    """Of the launches of a workload's call, forward and backward; compiles them."""
    inputs = make_inputs(setting, torch.device("meta"))
    found = []
    for one in recorded(partial(WORKLOADS[setting.workload].ours, inputs), architecture):
        compiled = compile_kernel(
            one.kernel, one.pointers, one.integers, one.constants, architecture, one.warps, one.registers
        )
        threads = one.programs * one.warps * 32
        found.append(Demand(one.name, one.backward, one.bytes, compiled.special * threads, compiled.executed * threads))
    return found
