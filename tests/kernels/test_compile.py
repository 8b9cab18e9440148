"""Every kernel compiles for the GPUs that it is meant for, without spilled registers or float64; no GPU is needed."""

import os
import re

import pytest

if os.environ.get("TRITON_INTERPRET", "") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)
pytest.importorskip("triton")

from builds import Build, built, few
from compile import AMD, NVIDIA, compile_kernel
from sass import Instruction, executed

BUILDS = list(few())


def name(build: Build) -> str:
    return f"{build.operation}, {build.classes} classes, {build.dtype}, channels {build.layout}"


@pytest.mark.parametrize("build", BUILDS, ids=name)
def test_kernels_compile_without_spilling_and_without_float64(build):
    for architecture in NVIDIA if build.everywhere else ("sm_90",):
        kernels = built(build, architecture)
        assert kernels, "the call launched no kernel"
        for _, launch, compiled in kernels:
            where = f"{launch.name} for {architecture}"
            assert (compiled.spills, compiled.local_bytes) == (0, 0), where
            assert not re.search(r"\.f64\b", compiled.text), where


def test_kernels_compile_for_amd_without_ptx():
    for operation in ("evidential_sums", "predictive_maps"):
        for _, launch, compiled in built(Build(operation, 2), AMD):
            assert compiled.spills == 0, launch.name
            assert "v_log_f32" in compiled.text or "v_rcp_f32" in compiled.text, launch.name


def test_kernels_of_a_call_are_told_apart_and_named():
    names = [launch.name for launch in Build("evidential_sums", 3).launches()]
    assert names == ["evidential forward", "evidential backward"]


def test_few_classes_are_loaded_128_bits_at_a_time():
    for classes in (2, 3):
        for _, launch, compiled in built(Build("evidential_sums", classes), "sm_90"):
            assert compiled.wide_loads >= classes, launch.name
    for _, launch, compiled in built(Build("evidential_sums", 3, "bfloat16"), "sm_90"):
        assert compiled.wide_loads >= 3, launch.name


def test_an_argument_without_a_type_is_named():
    launch = Build("evidential_sums", 2).launches()[0]
    pointers = {name: kind for name, kind in launch.pointers.items() if name != "partial"}
    with pytest.raises(ValueError, match="partial"):
        compile_kernel(launch.kernel, pointers, launch.integers, launch.constants, "sm_90", 4)


def test_bodies_of_loops_count_by_their_trips():
    code = [
        Instruction(0x00, "MUFU.EX2", " R1, R1"),
        Instruction(0x10, "FADD", " R1, R1, R2"),
        Instruction(0x20, "MUFU.RSQ", " R1, R1"),
        Instruction(0x30, "BRA", " 0x10"),
        Instruction(0x40, "EXIT", ""),
    ]
    counts = executed(code, trips=4)
    assert counts == {"MUFU": 1 + 4, "FADD": 4, "BRA": 4, "EXIT": 1}
