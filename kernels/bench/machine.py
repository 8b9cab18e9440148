"""Description of the machine in a few lines, to document where results come from."""

import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version

import torch

from processes import cores


def describe() -> str:
    """Return versions, GPU, cores, free disk space and the C compiler, which Triton needs to launch kernels."""
    names = ("torch", "triton", "numpy", "pytest", "hypothesis", "mpmath", "matplotlib", "deepspeed")
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, ("gcc", "clang", "cc"))), "NO C COMPILER")
    return "\n".join(
        [
            f"Python {sys.version.split()[0]} on {platform.platform()}",
            ", ".join(f"{name} {_version(name)}" for name in names),
            _gpu(),
            f"{cores()} cores, {_free()} in {tempfile.gettempdir()}, {compiler}",
        ]
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "no GPU"
    properties = torch.cuda.get_device_properties(0)
    size = f"{properties.total_memory / 2**30:.0f} GiB, {properties.multi_processor_count} multiprocessors"
    return f"{properties.name}, {size}, sm_{properties.major}{properties.minor}, CUDA {torch.version.cuda}"


def _free() -> str:
    return f"{shutil.disk_usage(tempfile.gettempdir()).free / 2**30:.0f} GiB free"
