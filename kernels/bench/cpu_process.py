"""Measures peak memory and first call of one variant on the CPU in a separate process.

There glibc returns freed tensors to the system immediately, so that resident memory follows the tensors. The peak is
that of the kernel (VmHWM), reset before the measured step.
"""

import argparse
import gc
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TypedDict

import torch

from workloads import WORKLOADS, Inputs, Setting, make_inputs

VARIANTS = ("eager", "eager compiled", "cpu", "cpu compiled")
CHILD_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
RESET = Path("/proc/self/clear_refs")
"""File on Linux that resets the peak; without it memory is not measured."""


class Measured(TypedDict):
    """Peak MiB of a step above the idle process; seconds that the first step takes longer than a later one."""

    mebibytes: float
    first: float


def can_compile(variant: str) -> bool:
    """Return whether the variant exists: older versions of the library cannot compile their CPU implementations."""
    return variant != "cpu compiled" or importlib.util.find_spec("uml_kernels.cpu.compiled") is not None


def choose(variant: str) -> None:
    """Switch compilation of the CPU implementations on or off; call it before each step of another variant."""
    if can_compile("cpu compiled"):
        from uml_kernels.cpu.compiled import use_compiled

        use_compiled(variant == "cpu compiled")


def step_of(variant: str, setting: Setting, inputs: Inputs) -> Callable[[], None]:
    """Return a function that runs a forward and backward pass."""
    workload = WORKLOADS[setting.workload]
    function = workload.eager if variant.startswith("eager") else workload.ours
    if variant == "eager compiled":
        function = torch.compile(function, dynamic=False)

    def step() -> None:
        for each in inputs.maps:
            each.grad = None
        result = function(inputs)
        assert isinstance(result, torch.Tensor)
        result.backward()

    return step


def measure(variant: str, setting: Setting, threads: int, cache: Path) -> Measured:
    """Run this file for one variant and return its results.

    Args:
        variant: one of `VARIANTS`.
        setting: shapes and dtypes of the maps.
        threads: number of torch's threads.
        cache: folder of compiled code.
    """
    task = json.dumps({"variant": variant, "setting": setting, "threads": threads})
    paths = os.pathsep.join([os.environ.get("PYTHONPATH", ""), *sys.path])
    environment = os.environ | CHILD_ENVIRONMENT | {"TORCHINDUCTOR_CACHE_DIR": str(cache), "PYTHONPATH": paths}
    command = [sys.executable, __file__, task]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _status(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def _seconds(step: Callable[[], None]) -> float:
    start = perf_counter()
    step()
    return perf_counter() - start


def _measure(variant: str, setting: Setting, threads: int) -> Measured:
    torch.set_num_threads(threads)
    inputs = make_inputs(setting, torch.device("cpu"))
    choose(variant)
    step = step_of(variant, setting, inputs)
    first = max(0.0, _seconds(step) - _seconds(step))
    for each in inputs.maps:
        each.grad = None
    gc.collect()
    if not RESET.exists():
        return {"mebibytes": math.nan, "first": first}
    rest = _status("VmRSS")
    RESET.write_text("5")
    step()
    return {"mebibytes": _status("VmHWM") - rest, "first": first}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure memory and first call of one variant; started by cpu.py.")
    parser.add_argument("task", type=json.loads)
    task = parser.parse_args().task
    print(json.dumps(_measure(task["variant"], Setting(*task["setting"]), task["threads"])))
