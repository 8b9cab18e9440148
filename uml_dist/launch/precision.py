"""In which precision networks compute on a device, and which instructions a processor has for it."""

import os
import platform
from collections.abc import Callable
from time import perf_counter
from typing import Literal

import torch
from torch import nn

Precision = Literal["auto", "fp32", "bf16"]
ORDER = ("DEFAULT", "SSE41", "AVX", "AVX2", "AVX512")
"""Instruction sets of x86, each of which has the ones before."""


def computes_in_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether networks run in bf16 autocast on a device; `auto` asks for it where there are instructions for it."""
    return has_bf16(device) if precision == "auto" else precision == "bf16"


def has_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for bf16, so that they save time."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # What torch asks before it hands bf16 to oneDNN, which obeys ONEDNN_MAX_CPU_ISA; and it may emulate.
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def instruction_set() -> str:
    """The instructions that torch and oneDNN use on this processor, such as AVX2; tables of times name it."""
    own = torch.backends.cpu.get_cpu_capability()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper().partition("_")[0]
    if own in ORDER and limit in ORDER and ORDER.index(limit) < ORDER.index(own):
        return f"{own}, oneDNN {limit}"
    return own


def bf16_factor() -> float:
    """How many times as long a convolution takes in bf16 as in float32, forward and backward, measured in a moment."""

    def convolve(dtype: torch.dtype) -> Callable[[], object]:
        image = torch.randn(2, 64, 32, 32, dtype=dtype).contiguous(memory_format=torch.channels_last)
        layer = nn.Conv2d(64, 64, 3, padding=1, dtype=dtype)
        return lambda: layer(image.detach().requires_grad_()).sum().backward()

    return _seconds(convolve(torch.bfloat16)) / _seconds(convolve(torch.float32))


def describe_bf16(precision: Precision, device: torch.device) -> str | None:
    """A line for the user where bf16 was asked for and only costs time; else None."""
    if precision != "bf16" or has_bf16(device):
        return None
    if device.type == "cuda":
        return 'train.precision = "bf16": this GPU has no bf16 instructions: set it to fp32 or auto'
    return (
        f'train.precision = "bf16": this processor ({instruction_set()}) has no bf16 instructions: a convolution takes '
        f"{bf16_factor():.1f} times as long as in fp32: set it to fp32 or auto"
    )


def _seconds(work: Callable[[], object], rounds: int = 5) -> float:
    """The shortest of a few runs, after one to warm up."""
    times = []
    for _ in range(1 + rounds):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return min(times[1:])
