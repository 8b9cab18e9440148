"""What Triton's launchers are compiled with."""

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
def test_a_compiler_and_the_header_are_ok(gpus, header):
    assert check_compiler(gpus, {}, header, programs("clang")).says.startswith("/usr/bin/clang and ")
    assert check_compiler(gpus, {"CC": "icx"}, header, programs("icx")).state == "ok"


@pytest.mark.parametrize(("gpus", "state"), [(0, "note"), (1, "problem")])
def test_what_is_missing_is_a_problem_beside_a_gpu_alone(gpus, state, header, tmp_path):
    found = check_compiler(gpus, {}, header, programs())
    assert (found.state, found.todo) == (state, "apt install gcc")
    found = check_compiler(gpus, {"CC": "ccache gcc"}, header, programs("ccache", "gcc"))
    assert (found.state, "CC=ccache gcc is no program" in found.says) == (state, True)
    found = check_compiler(gpus, {}, tmp_path / "none" / "Python.h", programs("gcc"))
    assert (found.state, "-dev" in found.todo) == (state, True)


def test_the_header_is_looked_for_where_python_says():
    assert python_header().name == "Python.h"
    assert "include" in python_header().parts


def test_no_toolkit_is_needed_but_a_cuda_home_that_leads_nowhere_is_a_note(tmp_path):
    assert "not needed" in check_toolkit({}).says
    assert check_toolkit({"CUDA_HOME": str(tmp_path)}).state == "ok"
    assert check_toolkit({"CUDA_HOME": str(tmp_path / "none")}).state == "note"
