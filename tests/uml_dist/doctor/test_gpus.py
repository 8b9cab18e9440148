"""Driver, torch and GPUs: whether they fit together, and variables that hide GPUs."""

import pytest

from uml_dist.doctor.gpus import (
    Gpu,
    check_driver,
    check_gpus,
    check_hidden,
    check_torch,
    count_driver_gpus,
    gpus_on_bus,
    has_code,
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
    def query():
        raise error

    return query


def test_torch_is_reported_and_a_failing_import_is_a_problem():
    assert check_torch(lambda: GOOD).message == "2.13.0, built for CUDA 12.4"
    assert check_torch(lambda: TorchBuild("2.13.0+cpu", None, 0)).message.endswith("built without CUDA")
    found = check_torch(raising(OSError("libcudart.so.12: cannot open shared object file")))
    assert (found.state, "libcudart" in found.message) == ("problem", True)


def test_matching_driver_and_torch_are_ok():
    found = driver()
    assert found.state == "ok"
    assert "uses 2 of 2 GPUs" in found.message


def test_torch_for_a_newer_cuda_than_the_driver_supports_is_a_problem():
    found = driver(OLD)
    assert found.state == "problem"
    assert found.message.endswith("(built for CUDA 13.0) cannot use them")
    assert found.remedy == "install a torch for CUDA 12.4, or a newer driver, or pass --cpu"
    assert driver(OLD, DS_ACCELERATOR="cpu").state == "problem"  # the variable does not hide the problem


def test_unresponsive_driver_is_a_problem():
    error = UmlError("the NVIDIA driver does not respond (mismatch): fix it, or pass --cpu")
    found = check_driver({}, raising(error), lambda: GOOD)
    assert (found.state, found.remedy) == ("problem", "fix it, or pass --cpu")
    assert (count_driver_gpus(raising(error)), usable_gpus({}, raising(error), lambda: GOOD)) == (1, 1)


def test_missing_gpu_or_driver_is_a_note():
    assert driver(shown=None).message == "no NVIDIA GPU: training runs on CPU processes"
    found = driver(shown=None, on_bus=1)
    assert (found.state, "no driver" in found.message) == ("note", True)
    assert driver(CUDA_VISIBLE_DEVICES="-1").state == "note"


def test_gpus_on_the_bus_are_counted_by_vendor_and_class(tmp_path):
    for name, vendor, kind in (("0", "0x10de", "0x030200"), ("1", "0x10de", "0x040300"), ("2", "0x1234", "0x030000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    assert gpus_on_bus(tmp_path) == 1
    assert gpus_on_bus(tmp_path / "nowhere") == 0


@pytest.mark.parametrize(
    ("environment", "build", "count"),
    [
        ({}, GOOD, 2),
        ({"CUDA_VISIBLE_DEVICES": "1"}, GOOD, 1),
        ({"CUDA_VISIBLE_DEVICES": ""}, GOOD, 0),
        ({"DS_ACCELERATOR": "cpu"}, GOOD, 0),
        ({}, OLD, 2),  # GPUs that torch cannot use are counted too
    ],
)
def test_gpus_that_training_would_use_are_counted(environment, build, count):
    assert usable_gpus(environment, lambda: DRIVER, lambda: build) == count


def test_without_pynvml_no_gpu_is_counted():
    assert (count_driver_gpus(raising(ImportError("pynvml"))), usable_gpus({}, raising(ImportError("pynvml")))) == (
        0,
        0,
    )


def test_gpus_are_reported_with_their_memory_and_gpus_in_use_are_a_note():
    assert check_gpus([], [], {}).message == "none"
    assert check_gpus(GPUS[:1], ["sm_90"], {}).message == "0: H200, 139 of 140 GiB free"
    assert check_gpus(GPUS, ["sm_90"], {}).state == "note"


@pytest.mark.parametrize("visible", ["0", "GPU-aa"])
def test_hidden_gpus_are_not_reported(visible):
    assert check_gpus(GPUS, ["sm_90"], {"CUDA_VISIBLE_DEVICES": visible}).message == "0: H200, 139 of 140 GiB free"


def test_gpu_without_code_in_torch_is_a_problem():
    found = check_gpus([Gpu("GTX 1080", "GPU-cc", (6, 1), 8 * 2**30, 8 * 2**30)], ["sm_75", "sm_90"], {})
    assert found.state == "problem"
    assert "GPU 0, GTX 1080, capability 6.1: it has sm_75 sm_90" in found.message


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
def test_machine_code_runs_on_its_major_version_and_portable_code_on_all_newer_ones(capability, architectures, runs):
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
def test_variables_that_hide_existing_gpus_are_a_note(environment, gpus, state):
    assert check_hidden(environment, gpus).state == state
