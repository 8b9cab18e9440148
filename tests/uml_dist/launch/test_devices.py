"""What the driver shows, what torch can use, and what `CUDA_VISIBLE_DEVICES` leaves of it."""

import pynvml
import pytest

from uml_dist.errors import UmlError
from uml_dist.launch.devices import Devices, Driver, TorchBuild, find_devices, read_driver, visible_ids

UUIDS = ("GPU-aa11", "GPU-ab22", "GPU-bb33", "GPU-cc44")


def found(gpus: int = 4, *, cpu: bool = False, usable: int | None = None, cuda: str | None = "13.0", **environment):
    uuids = tuple(f"GPU-{index:04d}" for index in range(gpus))
    return find_devices(
        cpu,
        environment=environment,
        driver=lambda: Driver("470.82.01", "11.4", uuids) if gpus else None,
        build=lambda: TorchBuild("2.13.0", cuda, gpus if usable is None else usable),
    )


@pytest.mark.parametrize("gpus", [1, 4, 8])
def test_all_gpus_without_a_restriction(gpus: int):
    assert found(gpus) == Devices("cuda", tuple(map(str, range(gpus))))


def test_no_driver_is_the_cpu():
    assert found(0) == Devices("cpu")
    assert found(0).count == 0


@pytest.mark.parametrize("hidden", ["", "-1", " ", "-1,0"])
def test_hidden_gpus_are_the_cpu(hidden: str):
    assert found(4, CUDA_VISIBLE_DEVICES=hidden) == Devices("cpu")


def test_the_cpu_is_asked_for_by_flag_or_by_deepspeeds_switch():
    def unasked():
        raise AssertionError("nobody needs the driver")

    assert find_devices(True, environment={}, driver=unasked) == Devices("cpu")
    assert find_devices(False, environment={"DS_ACCELERATOR": "cpu"}, driver=unasked) == Devices("cpu")


@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        (None, ("0", "1", "2", "3")),
        ("2,0", ("2", "0")),
        (" 3 , 1 ", ("3", "1")),
        ("0,9,1", ("0",)),  # CUDA stops at the first that it does not know
        ("0,-1,1", ("0",)),
        ("GPU-bb33,GPU-aa11", ("GPU-bb33", "GPU-aa11")),
        ("GPU-c", ("GPU-c",)),
        ("GPU-a", ()),  # two begin so
        ("GPU-dd", ()),
        ("1,1", ("1",)),
        ("MIG-77", ("MIG-77",)),
        ("", ()),
        ("-1", ()),
    ],
)
def test_visible_devices_are_read_as_cuda_reads_them(visible: str | None, ids: tuple[str, ...]):
    assert visible_ids(visible, UUIDS) == ids


def test_an_old_driver_is_an_error_that_names_both_versions():
    with pytest.raises(UmlError) as error:
        found(4, usable=0)
    line = str(error.value)
    assert all(part in line for part in ("470.82.01", "11.4", "2.13.0", "13.0", "4 GPUs", "--cpu"))
    assert "\n" not in line


def test_a_cpu_build_of_torch_beside_gpus_is_an_error():
    with pytest.raises(UmlError, match=r"torch 2\.13\.0 \(built without CUDA\) cannot use them"):
        found(4, usable=0, cuda=None)


def test_an_old_driver_does_not_matter_on_the_cpu():
    assert found(4, usable=0, cpu=True) == Devices("cpu")


def test_a_restriction_that_names_no_gpu_is_an_error_and_no_fall_to_the_cpu():
    with pytest.raises(UmlError, match="CUDA_VISIBLE_DEVICES=9 names none of the 4 GPUs"):
        found(4, CUDA_VISIBLE_DEVICES="9")


def test_torchs_count_bounds_the_drivers():
    assert found(4, usable=1) == Devices("cuda", ("0",))


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_a_library_without_a_driver_is_no_driver(monkeypatch: pytest.MonkeyPatch, code: int):
    def absent():
        raise pynvml.NVMLError(code)

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    assert read_driver() is None


def test_a_driver_that_does_not_answer_is_no_fall_to_the_cpu(monkeypatch: pytest.MonkeyPatch):
    def mismatched():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)

    monkeypatch.setattr(pynvml, "nvmlInit", mismatched)
    with pytest.raises(UmlError, match="the NVIDIA driver does not answer"):
        find_devices(False, environment={})


def test_this_machine_can_be_asked():
    devices = find_devices(False)
    assert devices.kind == ("cuda" if devices.count else "cpu")
