"""The GPUs that the driver reports, that torch can use, and that `CUDA_VISIBLE_DEVICES` leaves visible."""

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
def test_all_gpus_are_used_without_a_restriction(gpus: int):
    assert found(gpus) == Devices("cuda", tuple(map(str, range(gpus))))


def test_cpu_is_used_without_a_driver():
    assert found(0) == Devices("cpu")
    assert found(0).count == 0


@pytest.mark.parametrize("hidden", ["", "-1", " ", "-1,0"])
def test_cpu_is_used_if_all_gpus_are_hidden(hidden: str):
    assert found(4, CUDA_VISIBLE_DEVICES=hidden) == Devices("cpu")


def test_cpu_is_requested_by_option_or_by_deepspeeds_variable():
    def must_not_be_called():
        raise AssertionError("the driver is not needed")

    assert find_devices(True, environment={}, driver=must_not_be_called) == Devices("cpu")
    assert find_devices(False, environment={"DS_ACCELERATOR": "cpu"}, driver=must_not_be_called) == Devices("cpu")


@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        (None, ("0", "1", "2", "3")),
        ("2,0", ("2", "0")),
        (" 3 , 1 ", ("3", "1")),
        ("0,9,1", ("0",)),  # CUDA stops at the first unknown entry
        ("0,-1,1", ("0",)),
        ("GPU-bb33,GPU-aa11", ("GPU-bb33", "GPU-aa11")),
        ("GPU-c", ("GPU-c",)),
        ("GPU-a", ()),  # an ambiguous prefix
        ("GPU-dd", ()),
        ("1,1", ("1",)),
        ("MIG-77", ("MIG-77",)),
        ("", ()),
        ("-1", ()),
    ],
)
def test_visible_devices_are_parsed_as_by_cuda(visible: str | None, ids: tuple[str, ...]):
    assert visible_ids(visible, UUIDS) == ids


def test_too_old_driver_is_an_error_with_both_versions():
    with pytest.raises(UmlError) as error:
        found(4, usable=0)
    line = str(error.value)
    assert all(part in line for part in ("470.82.01", "11.4", "2.13.0", "13.0", "4 GPUs", "--cpu"))
    assert "\n" not in line


def test_cpu_build_of_torch_with_gpus_present_is_an_error():
    with pytest.raises(UmlError, match=r"torch 2\.13\.0 \(built without CUDA\) cannot use them"):
        found(4, usable=0, cuda=None)


def test_too_old_driver_is_ignored_on_the_cpu():
    assert found(4, usable=0, cpu=True) == Devices("cpu")


def test_visible_devices_without_a_match_are_an_error_not_a_fallback_to_the_cpu():
    with pytest.raises(UmlError, match="CUDA_VISIBLE_DEVICES=9 names none of the 4 GPUs"):
        found(4, CUDA_VISIBLE_DEVICES="9")


def test_torchs_gpu_count_limits_the_drivers():
    assert found(4, usable=1) == Devices("cuda", ("0",))


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_nvml_without_a_driver_counts_as_no_driver(monkeypatch: pytest.MonkeyPatch, code: int):
    def absent():
        raise pynvml.NVMLError(code)

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    assert read_driver() is None


def test_unresponsive_driver_is_an_error_not_a_fallback_to_the_cpu(monkeypatch: pytest.MonkeyPatch):
    def mismatched():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)

    monkeypatch.setattr(pynvml, "nvmlInit", mismatched)
    with pytest.raises(UmlError, match="the NVIDIA driver does not respond"):
        find_devices(False, environment={})


def test_devices_of_this_machine_can_be_found():
    devices = find_devices(False)
    assert devices.kind == ("cuda" if devices.count else "cpu")
