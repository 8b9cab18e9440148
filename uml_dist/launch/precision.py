"""The precision in which networks compute on a device, and the processor's instructions for it."""

import os
import platform
from collections.abc import Callable
from time import perf_counter
from typing import Literal

import torch
from torch import nn

Precision = Literal["auto", "fp32", "bf16"]
ORDER = ("DEFAULT", "SSE41", "AVX", "AVX2", "AVX512")
"""Instruction sets of x86; each includes the previous ones."""


def computes_in_bf16(precision: Precision, device: torch.device) -> bool:
    """Return whether networks run in bf16 autocast; `auto` uses bf16 if the device has instructions for it."""
    return has_bf16(device) if precision == "auto" else precision == "bf16"


def has_bf16(device: torch.device) -> bool:
    """Return whether a device has bf16 instructions, so that bf16 saves time."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Torch checks this before it passes bf16 to oneDNN, which respects ONEDNN_MAX_CPU_ISA but may emulate bf16.
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def instruction_set() -> str:
    """Return the instruction set that torch and oneDNN use here, such as AVX2; benchmark tables include it."""
    own = torch.backends.cpu.get_cpu_capability()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper().partition("_")[0]
    if own in ORDER and limit in ORDER and ORDER.index(limit) < ORDER.index(own):
        return f"{own}, oneDNN {limit}"
    return own


def bf16_factor() -> float:
    """Measure how many times as long a convolution takes in bf16 as in float32, forward and backward."""

    def convolve(dtype: torch.dtype) -> Callable[[], object]:
        image = torch.randn(2, 64, 32, 32, dtype=dtype).contiguous(memory_format=torch.channels_last)
        layer = nn.Conv2d(64, 64, 3, padding=1, dtype=dtype)
        return lambda: layer(image.detach().requires_grad_()).sum().backward()

    return _seconds(convolve(torch.bfloat16)) / _seconds(convolve(torch.float32))


def describe_bf16(precision: Precision, device: torch.device) -> str | None:
    """Return a one-line note if the user requested bf16 and it only costs time; else None."""
    if precision != "bf16" or has_bf16(device):
        return None
    if device.type == "cuda":
        return 'train.precision = "bf16": this GPU has no bf16 instructions: set it to fp32 or auto'
    return (
        f'train.precision = "bf16": this processor ({instruction_set()}) has no bf16 instructions: a convolution takes '
        f"{bf16_factor():.1f} times as long as in fp32: set it to fp32 or auto"
    )


def _seconds(work: Callable[[], object], rounds: int = 5) -> float:
    """Return the shortest time of a few runs after a warm-up run."""
    times = []
    for _ in range(1 + rounds):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return min(times[1:])
