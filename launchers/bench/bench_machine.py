"""Describes the machine and the versions on which a benchmark's results depend."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from uml_dist.launch.precision import instruction_set
from uml_dist.run.folder import versions


def processor() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def facts() -> dict[str, str]:
    """Return processor, instruction set, cores, GPU, date and versions, for the rows of a CSV."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {
        "processor": processor(),
        "cpu_capability": instruction_set(),
        "cores": str(cores),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "date": time.strftime("%Y-%m-%d"),
        **versions(),
    }
    try:
        return {**found, "monai": version("monai")}
    except PackageNotFoundError:
        return found
