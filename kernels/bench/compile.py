"""Compiles a kernel for an architecture, without a GPU, and analyses the code."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple
from unittest.mock import patch

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sass import executed, instructions, loops, usage
from uml_kernels import special
from uml_kernels.gpu.launch import OPTIONS

NVIDIA = ("sm_80", "sm_90", "sm_100")
AMD = "gfx942"
ALIGNMENT = 16
"""Alignment of pointers and integers for which Triton's launch specialises a kernel."""


class Compiled(NamedTuple):
    """Properties of a compiled kernel.

    Attributes:
        architecture: name of the architecture, such as "sm_90".
        registers: registers per thread.
        local_bytes: stack and local memory per thread; 0 without spills.
        spills: number of loads and stores of local memory in the code.
        wide_loads: number of 128-bit loads in the code.
        executed: instructions that a thread executes, with loop bodies multiplied by their trip count; NaN if the
            trip counts are unknown.
        special: the special-function instructions (MUFU) among them.
        loops: number of loops in the code.
        text: PTX, or AMD assembly.
    """

    architecture: str
    registers: int
    local_bytes: int
    spills: int
    wide_loads: int
    executed: float
    special: float
    loops: int
    text: str


def _target(architecture: str) -> GPUTarget:
    if architecture.startswith("sm_"):
        return GPUTarget("cuda", int(architecture[3:]), 32)
    return GPUTarget("hip", architecture, 64)


def compile_kernel(
    kernel: Any,
    pointers: Mapping[str, str | None],
    integers: Mapping[str, Any],
    constants: Mapping[str, Any],
    architecture: str,
    warps: int,
    registers: int | None = None,
) -> Compiled:
    """Compile a kernel as a launch on a GPU of the architecture would.

    Args:
        kernel: function under `triton.jit`.
        pointers: Triton's element type of each pointer, such as "fp32"; None for an absent tensor.
        integers: values of the integers, of which 1 and multiples of 16 are specialised as in a launch, and of floats
            and tuples of floats.
        constants: values of the constexpr arguments. ITERATIONS is the trip count of a kernel's only loop.
        architecture: name of the architecture, such as "sm_90" or "gfx942".
        warps: warps per program.
        registers: maximum registers per thread; by default the compiler chooses.

    Raises:
        ValueError: an argument of the kernel is in none of the three.
    """
    signature: dict[str, str] = {}
    values, attributes = dict(constants), {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in pointers and pointers[name] is not None:
            signature[name] = f"*{pointers[name]}"
            attributes[(place,)] = [["tt.divisibility", ALIGNMENT]]
        elif name in pointers or integers.get(name) == 1:
            signature[name], values[name] = "constexpr", integers.get(name)
        elif isinstance(integers.get(name), (float, tuple)):
            given = integers[name]
            signature[name] = "fp32" if isinstance(given, float) else ("fp32",) * len(given)
        elif name in integers:
            signature[name] = "i32" if abs(integers[name]) < 2**31 else "i64"
            if integers[name] % ALIGNMENT == 0:
                attributes[(place,)] = [["tt.divisibility", ALIGNMENT]]
        else:
            raise ValueError(
                f"{kernel.__name__} has an argument {name} without a type: add it to pointers, integers or constants"
            )
    source = ASTSource(kernel, signature=signature, constexprs=values, attrs=attributes)
    options = {**OPTIONS, "num_warps": warps}
    if registers is not None and architecture != AMD:
        options["maxnreg"] = registers
    # The kernels choose their assembly by torch's build, which may be for another architecture
    with patch.object(special, "NVIDIA", tl.constexpr(architecture != AMD)):
        done = triton.compile(source, target=_target(architecture), options=options)
    return _read(done.asm, architecture, constants.get("ITERATIONS"))


def _read(built: Mapping[str, Any], architecture: str, trips: int | None) -> Compiled:
    if "cubin" not in built:
        return _read_amd(built["amdgcn"])
    code, taken = instructions(built["cubin"]), usage(built["cubin"])
    bodies = loops(code)
    known = not bodies or (len(bodies) == 1 and trips is not None)
    counts = executed(code, trips or 1)
    return Compiled(
        architecture=architecture,
        registers=taken.registers,
        local_bytes=taken.stack + taken.local,
        spills=sum(line.name.startswith(("LDL", "STL")) for line in code),
        wide_loads=sum(line.name.startswith("LDG") and ".128" in line.name for line in code),
        executed=counts.total() if known else math.nan,
        special=counts["MUFU"] if known else math.nan,
        loops=len(bodies),
        text=built["ptx"],
    )


def _read_amd(text: str) -> Compiled:
    def number(key: str) -> int:
        line = next((line for line in text.splitlines() if line.strip().startswith(f"{key}:")), f"{key}: 0")
        return int(line.partition(":")[2])

    wide = sum("_load_dwordx4" in line for line in text.splitlines())
    local = number(".private_segment_fixed_size")
    return Compiled(AMD, number(".vgpr_count"), local, number(".vgpr_spill_count"), wide, math.nan, math.nan, 0, text)
