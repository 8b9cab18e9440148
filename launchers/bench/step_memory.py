"""Measures the peak memory of one variant's training steps in a separate process.

The parent starts it with `CHILD_ENVIRONMENT`, with which glibc returns freed tensors to the system at once, so that
resident memory follows the tensors. The peak is the kernel's VmHWM, which is reset before the second step.
"""

import argparse
import gc
import json
import math
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from step_variants import Setting, Variant, make_network, make_optimizer, make_step

CHILD_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
GIBI = 2**30
RESET = Path("/proc/self/clear_refs")
"""Resets VmHWM on Linux; without it memory is not measured."""


def peak_memory(variant: Variant, setting: Setting, threads: int) -> dict[str, float]:
    """Return GiB at the peak of a step: "peak" excludes imported libraries, "step" also parameters and moments."""
    if not RESET.exists():
        return {"peak": math.nan, "step": math.nan}
    task = json.dumps({"variant": asdict(variant), "setting": asdict(setting), "threads": threads})
    command = [sys.executable, __file__, task]
    done = subprocess.run(command, env=os.environ | CHILD_ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _status(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024 / GIBI


def _measure(variant: Variant, setting: Setting, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    libraries = _status("VmRSS")
    batch = setting.data()
    network = make_network(setting, variant.kind, variant.checkpointing)
    step = make_step(network, make_optimizer(network), batch, variant.bf16)
    step()  # creates the moments, and any one-time allocations of the libraries
    gc.collect()
    rest = _status("VmRSS")
    RESET.write_text("5")
    step()
    peak = _status("VmHWM")
    return {"peak": peak - libraries, "step": peak - rest}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure one variant's peak memory; started by step.py.")
    parser.add_argument("task", type=json.loads)
    task = parser.parse_args().task
    print(json.dumps(_measure(Variant(**task["variant"]), Setting(**task["setting"]), task["threads"])))
