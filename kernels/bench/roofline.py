"""Roofline model of a workload's kernels: memory, special-function units, and instruction issue.

A kernel cannot be faster than the slowest of the three resources, which is its limit.
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
"""MUFU instructions, and instructions of any kind, that the threads of a multiprocessor complete per clock."""

COPIED = 2**30
LIMITS = ("memory", "MUFU", "issue")
MEMORY_ONLY = "memory only"
"""Limit of a kernel whose instruction count is unknown, because the length of its loops is."""


class Machine(NamedTuple):
    """A GPU's speeds.

    Attributes:
        bytes: bytes that a copy of 1 GiB reads and writes per second.
        special: MUFU instructions per second.
        issued: instructions per second.
    """

    bytes: float
    special: float
    issued: float


REHEARSED = Machine(3e12, 132 * SPECIAL_PER_CLOCK * 1.8e9, 132 * ISSUED_PER_CLOCK * 1.8e9)
"""Approximate speeds of an H100, for rehearsals without a GPU."""


class Demand(NamedTuple):
    """Resource demand of one launch.

    Attributes:
        kernel: name of the kernel.
        backward: whether it belongs to the backward pass.
        bytes: total size of its tensors, counting each tensor once.
        special: MUFU instructions of all threads; NaN if the kernel's trip counts are unknown.
        issued: instructions of all threads; NaN if the kernel's trip counts are unknown.
    """

    kernel: str
    backward: bool
    bytes: float
    special: float
    issued: float

    def times(self, machine: Machine) -> dict[str, float]:
        """Return the minimum milliseconds by limit; NaN if unknown."""
        amounts = zip(LIMITS, (self.bytes, self.special, self.issued), machine, strict=True)
        return {name: 1e3 * amount / speed for name, amount, speed in amounts}


class Least(NamedTuple):
    """Minimum time of several consecutive launches.

    Attributes:
        milliseconds: sum of the slowest limit of each launch.
        limit: the limit with the largest part of this sum.
        by_limit: sum over the launches for each limit alone; NaN if unknown for a launch.
    """

    milliseconds: float
    limit: str
    by_limit: dict[str, float]


def least(demands: Sequence[Demand], machine: Machine) -> Least:
    """Return the minimum time of consecutive launches."""
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
    """Group the launches by mode: "forward", "backward" and "full"."""
    forward = [one for one in demands if not one.backward]
    backward = [one for one in demands if one.backward]
    return {"forward": forward, "backward": backward, "full": forward + backward}


def machine(device: torch.device) -> Machine:
    """Measure the speeds of a GPU by a copy and by a kernel that counts cycles."""
    source = torch.empty(COPIED // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    times = in_turns({"copy": lambda: target.copy_(source)}, 20, 3, device)["copy"]
    cycles = clock(device) * torch.cuda.get_device_properties(device).multi_processor_count
    copied = 2 * COPIED / (1e-3 * sorted(times)[10])
    return Machine(copied, SPECIAL_PER_CLOCK * cycles, ISSUED_PER_CLOCK * cycles)


def demands(setting: Setting, architecture: str) -> list[Demand]:
    """Compile the launches of a workload's call, forward and backward, and return their demands."""
    inputs = make_inputs(setting, torch.device("meta"))
    found = []
    for one in recorded(partial(WORKLOADS[setting.workload].ours, inputs), architecture):
        compiled = compile_kernel(
            one.kernel, one.pointers, one.integers, one.constants, architecture, one.warps, one.registers
        )
        threads = one.programs * one.warps * 32
        found.append(Demand(one.name, one.backward, one.bytes, compiled.special * threads, compiled.executed * threads))
    return found
