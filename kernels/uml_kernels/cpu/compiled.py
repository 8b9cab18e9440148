"""Switch between eager tensor operations and one loop compiled by torch.compile's C++ backend."""

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

ONE_LOOP: dict[str, Any] = {"realize_opcount_threshold": 10_000, "realize_reads_threshold": 1_000}
"""Inductor options that keep every intermediate plane out of memory, however large the fused expression."""
_chosen = os.environ.get("UML_KERNELS_COMPILE", "") not in ("", "0")


def use_compiled(compiled: bool) -> None:
    """Switch compilation of the CPU's evidential objective on or off; UML_KERNELS_COMPILE=1 switches it on at start.

    With compilation, the first step for each number of classes and shape is slow (kernels/README.md); torch caches the
    compiled code on disk for later runs.

    Raises:
        RuntimeError: no C++ compiler is installed.
    """
    global _chosen
    if compiled:
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except Exception as error:
            raise RuntimeError(
                f"no C++ compiler is installed ({error}): install one, or stay with use_compiled(False)"
            ) from error
    _chosen = compiled


def is_compiled() -> bool:
    """Return whether the CPU implementations are compiled."""
    return _chosen


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function to one C++ loop: for the first shape only, and from the second shape on for all shapes."""
    return torch.compile(function, fullgraph=True, options=ONE_LOOP)
