"""What a workload takes at least: its bytes at the speed of a copy, its instructions at that of the units."""

import subprocess
from functools import partial
from typing import NamedTuple

import torch

from compile import compile_kernel
from launches import recorded
from timing import in_turns
from workloads import WORKLOADS, Setting, make_inputs

SPECIAL_PER_CLOCK, ISSUED_PER_CLOCK = 16, 128
"""MUFU instructions, and instructions of any kind, that the threads of a multiprocessor finish in a clock."""

COPIED = 2**30
BOUNDS = ("share of bandwidth", "share of MUFU", "share of issue")


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


class Demand(NamedTuple):
    """Of a workload's kernels, forward or backward.

    Attributes:
        bytes: of the tensors of each launch, each tensor once.
        special: MUFU instructions of all threads; NaN where a kernel's loops are not known.
        issued: instructions of all threads; likewise.
    """

    bytes: float
    special: float
    issued: float

    def milliseconds(self, machine: Machine) -> dict[str, float]:
        """The least time by memory, by special functions and by all instructions; by metric of the results."""
        bounds = zip(BOUNDS, self, machine, strict=True)
        return {name: 1e3 * amount / speed for name, amount, speed in bounds}


def machine(device: torch.device) -> Machine:
    """Measured by a copy, and computed of the highest clock that nvidia-smi names."""
    source = torch.empty(COPIED // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    times = in_turns({"copy": lambda: target.copy_(source)}, 20, 3, device)["copy"]
    command = ["nvidia-smi", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits", "-i", "0"]
    clock = 1e6 * float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])
    units = torch.cuda.get_device_properties(device).multi_processor_count
    copied = 2 * COPIED / (1e-3 * sorted(times)[10])
    return Machine(copied, SPECIAL_PER_CLOCK * units * clock, ISSUED_PER_CLOCK * units * clock)


def demands(setting: Setting, architecture: str) -> dict[str, Demand]:
    """By mode: "forward", "backward" and "full"."""
    inputs = make_inputs(setting, torch.device("meta"))
    launches = recorded(partial(WORKLOADS[setting.workload].ours, inputs), architecture)
    sums = {"forward": Demand(0, 0, 0), "backward": Demand(0, 0, 0)}
    for one in launches:
        compiled = compile_kernel(one.kernel, one.pointers, one.integers, one.constants, architecture, one.warps)
        threads, mode = one.programs * one.warps * 32, "backward" if one.backward else "forward"
        sums[mode] = _sum(sums[mode], Demand(one.bytes, compiled.special * threads, compiled.executed * threads))
    return {**sums, "full": _sum(sums["forward"], sums["backward"])}


def _sum(one: Demand, other: Demand) -> Demand:
    return Demand(*(a + b for a, b in zip(one, other, strict=True)))
