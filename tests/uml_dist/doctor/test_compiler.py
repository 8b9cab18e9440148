"""The compiler for Triton's kernel launchers."""

from pathlib import Path

import pytest

from uml_dist.doctor.compiler import check_compiler, check_toolkit, python_header


@pytest.fixture
def header(tmp_path) -> Path:
    path = tmp_path / "Python.h"
    path.touch()
    return path


def programs(*names):
    return lambda name: f"/usr/bin/{name}" if name in names else None


@pytest.mark.parametrize("gpus", [0, 1])
def test_compiler_and_header_are_ok(gpus, header):
    assert check_compiler(gpus, {}, header, programs("clang")).message.startswith("/usr/bin/clang and ")
    assert check_compiler(gpus, {"CC": "icx"}, header, programs("icx")).state == "ok"


@pytest.mark.parametrize(("gpus", "state"), [(0, "note"), (1, "problem")])
def test_missing_compiler_or_header_is_a_problem_only_with_a_gpu(gpus, state, header, tmp_path):
    found = check_compiler(gpus, {}, header, programs())
    assert (found.state, found.remedy) == (state, "apt install gcc")
    found = check_compiler(gpus, {"CC": "ccache gcc"}, header, programs("ccache", "gcc"))
    assert (found.state, "CC=ccache gcc is not a program" in found.message) == (state, True)
    found = check_compiler(gpus, {}, tmp_path / "none" / "Python.h", programs("gcc"))
    assert (found.state, "-dev" in found.remedy) == (state, True)


def test_header_is_expected_in_pythons_include_folder():
    assert python_header().name == "Python.h"
    assert "include" in python_header().parts


def test_toolkit_is_not_needed_but_a_missing_cuda_home_is_a_note(tmp_path):
    assert "not needed" in check_toolkit({}).message
    assert check_toolkit({"CUDA_HOME": str(tmp_path)}).state == "ok"
    assert check_toolkit({"CUDA_HOME": str(tmp_path / "none")}).state == "note"
