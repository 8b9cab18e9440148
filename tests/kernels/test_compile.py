"""Tests that every kernel compiles for its GPU architectures without register spills and float64; they need no GPU."""

import os
import re

import pytest

if os.environ.get("TRITON_INTERPRET", "") == "1":
    pytest.skip("the interpreter does not compile kernels", allow_module_level=True)
pytest.importorskip("triton")

from builds import Build, built, few
from compile import AMD, NVIDIA, compile_kernel
from sass import Instruction, executed

BUILDS = list(few())


def name(build: Build) -> str:
    return f"{build.operation}, {build.classes} classes, {build.dtype}, channels {build.layout}"


@pytest.mark.parametrize("build", BUILDS, ids=name)
def test_kernels_compile_without_spills_and_float64(build):
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


def test_kernels_of_a_call_have_distinct_names():
    names = [launch.name for launch in Build("evidential_sums", 3).launches()]
    assert names == ["evidential forward", "evidential backward"]


def test_few_classes_use_128_bit_loads():
    for classes in (2, 3):
        for _, launch, compiled in built(Build("evidential_sums", classes), "sm_90"):
            assert compiled.wide_loads >= classes, launch.name
    for _, launch, compiled in built(Build("evidential_sums", 3, "bfloat16"), "sm_90"):
        assert compiled.wide_loads >= 3, launch.name


def test_argument_without_a_type_is_named_in_the_error():
    launch = Build("evidential_sums", 2).launches()[0]
    pointers = {name: kind for name, kind in launch.pointers.items() if name != "partial"}
    with pytest.raises(ValueError, match="partial"):
        compile_kernel(launch.kernel, pointers, launch.integers, launch.constants, "sm_90", 4)


def test_loop_bodies_are_counted_by_their_trip_count():
    code = [
        Instruction(0x00, "MUFU.EX2", " R1, R1"),
        Instruction(0x10, "FADD", " R1, R1, R2"),
        Instruction(0x20, "MUFU.RSQ", " R1, R1"),
        Instruction(0x30, "BRA", " 0x10"),
        Instruction(0x40, "EXIT", ""),
    ]
    counts = executed(code, trips=4)
    assert counts == {"MUFU": 1 + 4, "FADD": 4, "BRA": 4, "EXIT": 1}
