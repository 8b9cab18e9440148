"""The choice between tensor operations one by one and a loop that torch.compile's C++ back end makes of them."""

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

ONE_LOOP: dict[str, Any] = {"realize_opcount_threshold": 10_000, "realize_reads_threshold": 1_000}
"""For the inductor: write no intermediate plane to memory, however much is computed of it."""
_chosen = os.environ.get("UML_KERNELS_COMPILE", "") not in ("", "0")


def use_compiled(compiled: bool) -> None:
    """Switch compilation of the CPU's evidential objective on or off; UML_KERNELS_COMPILE=1 switches it on at start.

    The first step of each number of classes and shape then takes the compiler a while (kernels/README.md); torch keeps
    what it compiled on disk for later runs.

    Raises:
        RuntimeError: no C++ compiler is installed.
    """
    global _chosen
    if compiled:
        from torch._inductor.cpp_builder import get_cpp_compiler

        try:
            get_cpp_compiler()
        except Exception as error:
            raise RuntimeError(f"no C++ compiler is installed ({error}): stay with use_compiled(False)") from error
    _chosen = compiled


def is_compiled() -> bool:
    """Whether the CPU implementations are compiled."""
    return _chosen


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one C++ loop, of the first shape alone; from a second shape on for all shapes."""
    return torch.compile(function, fullgraph=True, options=ONE_LOOP)
