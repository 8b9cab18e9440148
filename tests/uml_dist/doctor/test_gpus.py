"""Driver, torch and GPUs: what agrees, what does not, and what hides them."""

import pytest

from uml_dist.doctor.gpus import (
    Gpu,
    check_driver,
    check_gpus,
    check_hidden,
    check_torch,
    count_shown,
    has_code,
    silent_gpus,
    usable_gpus,
)
from uml_dist.errors import UmlError
from uml_dist.launch.devices import Driver, TorchBuild

DRIVER = Driver("550.54", "12.4", ("GPU-aa", "GPU-bb"))
GOOD, OLD = TorchBuild("2.13.0", "12.4", 2), TorchBuild("2.13.0", "13.0", 0)
GPUS = [Gpu("H200", "GPU-aa", (9, 0), 140 * 2**30, 139 * 2**30), Gpu("H200", "GPU-bb", (9, 0), 140 * 2**30, 3 * 2**30)]


def driver(build=GOOD, shown: Driver | None = DRIVER, on_bus=0, **environment):
    return check_driver(environment, lambda: shown, lambda: build, lambda: on_bus)


def raising(error):
    def ask():
        raise error

    return ask


def test_torch_is_told_and_a_torch_that_cannot_be_imported_is_a_problem():
    assert check_torch(lambda: GOOD).says == "2.13.0, built for CUDA 12.4"
    assert check_torch(lambda: TorchBuild("2.13.0+cpu", None, 0)).says.endswith("built without CUDA")
    found = check_torch(raising(OSError("libcudart.so.12: cannot open shared object file")))
    assert (found.state, "libcudart" in found.says) == ("problem", True)


def test_a_driver_and_a_torch_that_agree_are_ok():
    found = driver()
    assert found.state == "ok"
    assert "uses 2 of 2 GPUs" in found.says


def test_a_torch_for_a_newer_cuda_than_the_driver_runs_is_a_problem():
    found = driver(OLD)
    assert found.state == "problem"
    assert found.says.endswith("(built for CUDA 13.0) cannot use them")
    assert found.todo == "install a torch for CUDA 12.4, or a newer driver, or pass --cpu"
    assert driver(OLD, DS_ACCELERATOR="cpu").state == "problem"  # the variable does not hide what is wrong


def test_a_driver_that_does_not_answer_is_a_problem():
    error = UmlError("the NVIDIA driver does not answer (mismatch): fix it, or pass --cpu")
    found = check_driver({}, raising(error), lambda: GOOD)
    assert (found.state, found.todo) == ("problem", "fix it, or pass --cpu")
    assert (count_shown(raising(error)), usable_gpus({}, raising(error), lambda: GOOD)) == (1, 1)


def test_no_gpu_is_a_note_and_one_without_a_driver_says_more():
    assert driver(shown=None).says == "no NVIDIA GPU: training runs on CPU processes"
    found = driver(shown=None, on_bus=1)
    assert (found.state, "no driver" in found.says) == ("note", True)
    assert driver(CUDA_VISIBLE_DEVICES="-1").state == "note"


def test_gpus_on_the_bus_are_counted_by_vendor_and_class(tmp_path):
    for name, vendor, kind in (("0", "0x10de", "0x030200"), ("1", "0x10de", "0x040300"), ("2", "0x1234", "0x030000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    assert silent_gpus(tmp_path) == 1
    assert silent_gpus(tmp_path / "nowhere") == 0


@pytest.mark.parametrize(
    ("environment", "build", "count"),
    [
        ({}, GOOD, 2),
        ({"CUDA_VISIBLE_DEVICES": "1"}, GOOD, 1),
        ({"CUDA_VISIBLE_DEVICES": ""}, GOOD, 0),
        ({"DS_ACCELERATOR": "cpu"}, GOOD, 0),
        ({}, OLD, 2),  # those it cannot use are meant all the same
    ],
)
def test_gpus_that_training_is_meant_to_use(environment, build, count):
    assert usable_gpus(environment, lambda: DRIVER, lambda: build) == count


def test_without_pynvml_no_gpu_is_counted():
    assert (count_shown(raising(ImportError("pynvml"))), usable_gpus({}, raising(ImportError("pynvml")))) == (0, 0)


def test_gpus_are_told_with_their_memory_and_those_in_use_are_a_note():
    assert check_gpus([], [], {}).says == "none"
    assert check_gpus(GPUS[:1], ["sm_90"], {}).says == "0: H200, 139 of 140 GiB free"
    assert check_gpus(GPUS, ["sm_90"], {}).state == "note"


@pytest.mark.parametrize("visible", ["0", "GPU-aa"])
def test_gpus_that_are_hidden_do_not_count(visible):
    assert check_gpus(GPUS, ["sm_90"], {"CUDA_VISIBLE_DEVICES": visible}).says == "0: H200, 139 of 140 GiB free"


def test_a_gpu_that_torch_has_no_code_for_is_a_problem():
    found = check_gpus([Gpu("GTX 1080", "GPU-cc", (6, 1), 8 * 2**30, 8 * 2**30)], ["sm_75", "sm_90"], {})
    assert found.state == "problem"
    assert "GPU 0, GTX 1080, capability 6.1: it has sm_75 sm_90" in found.says


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((8, 6), ["sm_80"], True),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["sm_80", "compute_80"], True),
        ((8, 0), ["sm_86"], False),
        ((12, 0), ["sm_120"], True),
        ((9, 0), ["sm_90a"], True),
        ((10, 3), ["sm_100a"], False),
        ((9, 0), ["gfx90a"], False),
    ],
)
def test_code_runs_on_its_own_major_and_portable_code_on_all_newer_ones(capability, architectures, runs):
    assert has_code(capability, architectures) == runs


@pytest.mark.parametrize(
    ("environment", "gpus", "state"),
    [
        ({"DS_ACCELERATOR": "cpu"}, 2, "note"),
        ({"CUDA_VISIBLE_DEVICES": ""}, 2, "note"),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 2, "note"),
        ({"CUDA_VISIBLE_DEVICES": "1"}, 2, "ok"),
        ({"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}, 0, "ok"),
    ],
)
def test_variables_that_hide_gpus_are_a_note_where_there_are_some(environment, gpus, state):
    assert check_hidden(environment, gpus).state == state
