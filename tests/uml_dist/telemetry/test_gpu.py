"""A GPU's values have base units, what it does not support is absent, and no state of the driver is an error."""

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pynvml
import pytest
import torch
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import nvml_library
from nvml_library import Card, NvmlLibrary
from uml_dist.launch.devices import visible_ids
from uml_dist.telemetry import devices as devices_module
from uml_dist.telemetry import serve_metrics
from uml_dist.telemetry import xid as xid_module
from uml_dist.telemetry.devices import Guarded
from uml_dist.telemetry.gpu import Gpu, GpuCollector, find_gpu
from uml_dist.telemetry.xid import XidCollector

ONE = "GPU-11111111-2222-3333-4444-555555555555"
TWO = "GPU-11112222-aaaa-bbbb-cccc-dddddddddddd"
INSTANCE = "MIG-99999999-8888-7777-6666-555555555555"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xid_module, "WAIT_MILLISECONDS", 20)


def found(library: NvmlLibrary, name: str = "0") -> Gpu:
    assert pynvml.nvmlLib is library
    gpu = find_gpu([name])
    assert gpu is not None
    return gpu


def values(collector: GpuCollector | XidCollector) -> dict[str, float]:
    """Scrape a collector: name and labels -> value."""
    registry = CollectorRegistry()
    registry.register(Guarded(collector))
    text = generate_latest(registry).decode()
    list(text_string_to_metric_families(text))
    samples = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name.replace(f'gpu="{ONE}"', "one"): float(value) for name, value in samples}


def names(exported: dict[str, float]) -> set[str]:
    return {name.partition("{")[0] for name in exported}


def test_values_have_base_units(monkeypatch: pytest.MonkeyPatch):
    reasons = pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonGpuIdle
    library = NvmlLibrary(Card(ONE, {"nvmlDeviceGetCurrentClocksEventReasons": reasons})).install(monkeypatch)
    exported = values(GpuCollector(found(library)))
    throttled = {name: exported.pop(name) for name in [*exported] if name.startswith("uml_gpu_throttled")}
    assert exported == {
        "uml_gpu_utilization_ratio{one}": 0.87,
        "uml_gpu_memory_total_bytes{one}": 80 * 2**30,
        "uml_gpu_memory_used_bytes{one}": 20 * 2**30,
        "uml_gpu_power_watts{one}": 312.5,
        "uml_gpu_energy_joules_total{one}": 7.2e6,
        "uml_gpu_temperature_celsius{one}": 64,
        "uml_gpu_sm_clock_hertz{one}": 1.41e9,
        'uml_gpu_ecc_errors_total{one,kind="corrected"}': 12,
        'uml_gpu_ecc_errors_total{one,kind="uncorrected"}': 1,
    }
    assert len(throttled) == 8
    assert [name for name, value in throttled.items() if value] == ['uml_gpu_throttled{one,reason="sw_power_cap"}']


@pytest.mark.parametrize(
    ("function", "absent"),
    [
        ("nvmlDeviceGetUtilizationRates", {"uml_gpu_utilization_ratio"}),
        ("nvmlDeviceGetMemoryInfo", {"uml_gpu_memory_total_bytes", "uml_gpu_memory_used_bytes"}),
        ("nvmlDeviceGetPowerUsage", {"uml_gpu_power_watts"}),
        ("nvmlDeviceGetTotalEnergyConsumption", {"uml_gpu_energy_joules_total"}),
        ("nvmlDeviceGetTemperature", {"uml_gpu_temperature_celsius"}),
        ("nvmlDeviceGetClockInfo", {"uml_gpu_sm_clock_hertz"}),
        ("nvmlDeviceGetCurrentClocksEventReasons", {"uml_gpu_throttled"}),
        ("nvmlDeviceGetTotalEccErrors", {"uml_gpu_ecc_errors_total"}),
    ],
)
@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_NO_PERMISSION])
def test_unsupported_fields_are_absent(function, absent, code, monkeypatch, caplog):
    library = NvmlLibrary(Card(ONE, codes={function: code})).install(monkeypatch)
    exported = names(values(GpuCollector(found(library))))
    assert exported == set(GpuCollector.names) - absent
    assert not caplog.records


def test_reasons_that_a_gpu_cannot_have_are_absent(monkeypatch):
    answers = {"nvmlDeviceGetSupportedClocksEventReasons": pynvml.nvmlClocksEventReasonHwThermalSlowdown}
    exported = values(GpuCollector(found(NvmlLibrary(Card(ONE, answers)).install(monkeypatch))))
    assert [name for name in exported if "throttled" in name] == ['uml_gpu_throttled{one,reason="hw_thermal"}']


def test_old_drivers_have_other_functions(monkeypatch):
    missing = (
        *("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetSupportedClocksEventReasons"),
        *("nvmlDeviceIsMigDeviceHandle", "nvmlDeviceGetTotalEnergyConsumption"),
    )
    answers = {"nvmlDeviceGetCurrentClocksThrottleReasons": pynvml.nvmlClocksThrottleReasonHwSlowdown}
    exported = values(GpuCollector(found(NvmlLibrary(Card(ONE, answers), missing=missing).install(monkeypatch))))
    assert exported['uml_gpu_throttled{one,reason="hw_slowdown"}'] == 1
    assert "uml_gpu_energy_joules_total{one}" not in exported


def test_newer_drivers_have_another_temperature(monkeypatch):
    library = NvmlLibrary(Card(ONE, {"nvmlDeviceGetTemperatureV": 71}), missing=("nvmlDeviceGetTemperature",))
    exported = values(GpuCollector(found(library.install(monkeypatch))))
    assert exported["uml_gpu_temperature_celsius{one}"] == 71


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [
        (None, [ONE, TWO]),
        ("1,0", [TWO, ONE]),
        (f"{TWO}", [TWO]),
        ("GPU-11112,GPU-11111", [TWO, ONE]),
        (f"1,{INSTANCE}", [TWO, INSTANCE]),
        ("", []),
        ("-1", []),
        ("1,7,0", [TWO]),
    ],
)
def test_each_rank_has_the_gpu_that_its_entry_denotes(visible, uuids, monkeypatch):
    NvmlLibrary(Card(ONE, instances=(INSTANCE,)), Card(TWO)).install(monkeypatch)
    entries = visible_ids(visible, (ONE, TWO))
    assert [gpu.part_uuid for entry in entries if (gpu := find_gpu([entry]))] == uuids


def test_instance_of_mig_has_its_own_memory_and_the_gpus_other_values(monkeypatch):
    codes = {"nvmlDeviceGetUtilizationRates": pynvml.NVML_ERROR_NOT_SUPPORTED}
    library = NvmlLibrary(Card(TWO), Card(ONE, codes=codes, instances=("MIG-other", INSTANCE)))
    exported = values(GpuCollector(found(library.install(monkeypatch), INSTANCE)))
    assert f'uml_gpu_memory_used_bytes{{gpu="{INSTANCE}"}}' in exported
    assert exported["uml_gpu_power_watts{one}"] == 312.5
    assert "uml_gpu_utilization_ratio" not in names(exported)
    assert not any(TWO in name for name in exported)


def test_names_of_instances_before_driver_470_denote_the_gpu(monkeypatch):
    NvmlLibrary(Card(ONE), Card(TWO)).install(monkeypatch)
    gpu = find_gpu([f"MIG-{TWO}/1/0"])
    assert gpu is not None
    assert gpu.board_uuid == TWO


def test_uuid_of_torch_comes_before_the_index(monkeypatch):
    NvmlLibrary(Card(ONE), Card(TWO)).install(monkeypatch)
    gpu = find_gpu([TWO, f"MIG-{TWO}", "0"])
    assert gpu is not None
    assert gpu.board_uuid == TWO


def test_ambiguous_and_unknown_names_are_a_warning(monkeypatch, caplog):
    NvmlLibrary(Card(ONE), Card(TWO)).install(monkeypatch)
    assert find_gpu(["GPU-1111", "5"]) is None
    (entry,) = caplog.records
    assert "GPU-1111 or 5" in entry.getMessage()


def test_gpus_of_others_are_passed_over(monkeypatch):
    codes = {"nvmlDeviceGetHandleByIndex_v2": pynvml.NVML_ERROR_NO_PERMISSION}
    NvmlLibrary(Card(ONE, codes=codes), Card(TWO)).install(monkeypatch)
    gpu = find_gpu(["GPU-1111"])
    assert gpu is not None
    assert gpu.board_uuid == TWO


def test_without_a_driver_there_is_nothing_and_no_error(monkeypatch, caplog):
    library = NvmlLibrary().install(monkeypatch)
    library.initialised = False
    assert find_gpu(["0"]) is None

    def absent() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "_LoadNvmlLibrary", absent)
    assert find_gpu(["0"]) is None
    assert not caplog.records


def test_driver_that_does_not_respond_is_a_warning(monkeypatch, caplog):
    library = NvmlLibrary(Card(ONE)).install(monkeypatch)
    monkeypatch.setattr(library, "_nvmlInitWithFlags", None, raising=False)
    monkeypatch.setattr(
        nvml_library.NvmlLibrary, "_nvmlInitWithFlags", lambda *_: pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
    )
    assert find_gpu(["0"]) is None
    (entry,) = caplog.records
    assert "mismatch" in entry.getMessage()


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_UNKNOWN])
def test_lost_gpu_is_one_warning_and_its_metrics_return_with_it(code, monkeypatch, caplog):
    card = Card(ONE)
    collector = GpuCollector(found(NvmlLibrary(card).install(monkeypatch)))
    before = values(collector)
    card.everywhere = code
    assert [values(collector) for _ in range(3)] == [{}, {}, {}]
    (entry,) = caplog.records
    assert ONE in entry.getMessage()
    card.everywhere = None
    assert values(collector) == before


def test_lost_gpu_is_asked_once_in_a_scrape(monkeypatch):
    card = Card(ONE)
    library = NvmlLibrary(card).install(monkeypatch)
    collector = GpuCollector(found(library))
    card.everywhere = pynvml.NVML_ERROR_GPU_IS_LOST
    library.calls.clear()
    assert values(collector) == {}
    assert len([name for name in library.calls if name.startswith("nvmlDevice")]) == 1


def test_lost_driver_makes_the_metrics_disappear(monkeypatch, caplog):
    library = NvmlLibrary(Card(ONE)).install(monkeypatch)
    collector = GpuCollector(found(library))
    library.initialised = False
    assert [values(collector), values(collector)] == [{}, {}]
    assert len(caplog.records) == 1


def test_nothing_is_read_between_scrapes(monkeypatch):
    library = NvmlLibrary(Card(ONE)).install(monkeypatch)
    collector = GpuCollector(found(library))
    library.calls.clear()
    registry = CollectorRegistry()
    registry.register(Guarded(collector))
    assert library.calls == []
    generate_latest(registry)
    assert "nvmlDeviceGetPowerUsage" in library.calls


@pytest.fixture
def hanging(monkeypatch) -> Iterator[NvmlLibrary]:
    library = NvmlLibrary(Card(ONE)).install(monkeypatch)
    library.hold = threading.Event()
    yield library
    library.hold.set()


def test_hanging_driver_does_not_hang_later_scrapes(hanging, monkeypatch, caplog):
    monkeypatch.setattr(devices_module, "WAIT_SECONDS", 0.05)
    registry = CollectorRegistry()
    registry.register(Guarded(GpuCollector(found(hanging))))
    server = serve_metrics(registry, 0)
    assert server is not None
    first = threading.Thread(target=generate_latest, args=(registry,))
    first.start()
    with urlopen(server.address, timeout=10) as answer:
        assert b"uml_gpu" not in answer.read()
    assert "not ended" in caplog.records[0].getMessage()
    assert hanging.hold is not None
    hanging.hold.set()
    first.join()
    with urlopen(server.address, timeout=10) as answer:
        assert b"uml_gpu_power_watts" in answer.read()
    server.stop()


def wait_twice(library: NvmlLibrary) -> None:
    """Wait until the thread has dealt with the events that there were."""
    while library.waits.acquire(blocking=False):
        pass
    for _ in range(2):
        assert library.waits.acquire(timeout=10)


def test_xid_errors_are_counted_and_each_kind_is_logged_once(monkeypatch, caplog):
    library = NvmlLibrary(Card(ONE)).install(monkeypatch)
    collector = XidCollector(found(library))
    assert values(collector) == {"uml_gpu_xid_errors_total{one}": 0}
    for number in (79, 79, 31):
        library.events.put(number)
    wait_twice(library)
    while not library.events.empty():
        wait_twice(library)
    wait_twice(library)
    assert values(collector) == {"uml_gpu_xid_errors_total{one}": 3}
    assert [entry.getMessage().split(": ")[0][-2:] for entry in caplog.records] == ["79", "31"]
    collector.stop()
    assert library.freed.wait(10)


def test_gpu_without_xid_events_has_no_such_metric_and_no_thread(monkeypatch):
    codes = {"nvmlDeviceRegisterEvents": pynvml.NVML_ERROR_NOT_SUPPORTED}
    library = NvmlLibrary(Card(ONE, codes=codes)).install(monkeypatch)
    collector = XidCollector(found(library))
    assert values(collector) == {}
    assert library.freed.is_set()
    assert not library.waits.acquire(blocking=False)


def test_xid_errors_of_a_lost_gpu_are_no_longer_exported(monkeypatch, caplog):
    library = NvmlLibrary(Card(ONE)).install(monkeypatch)
    collector = XidCollector(found(library))
    library.events.put(-pynvml.NVML_ERROR_GPU_IS_LOST)
    assert library.freed.wait(10)
    assert values(collector) == {}
    assert "counted no longer" in caplog.records[0].getMessage()


EXITS = """
import ctypes, sys, threading, types
package = types.ModuleType("uml_dist.telemetry")
package.__path__ = [sys.argv[1]]
sys.modules["uml_dist.telemetry"] = package  # without torch, which takes seconds to import
import pynvml
from nvml_library import Card, NvmlLibrary
from uml_dist.telemetry.gpu import find_gpu
from uml_dist.telemetry.xid import XidCollector

class Sleeping(NvmlLibrary):
    def _nvmlEventSetWait_v2(self, *arguments):
        self.waits.release()
        return ctypes.CDLL(None).sleep(3600)  # in C, as the driver's library waits

pynvml.nvmlLib = library = Sleeping(Card("GPU-1"))
collector = XidCollector(find_gpu(["0"]))
assert library.waits.acquire(timeout=10)
collector.stop()
print("waiting", threading.active_count())
"""


def test_waiting_for_xid_errors_does_not_keep_a_process_from_ending():
    root = Path(__file__).parents[3]
    paths = [str(root / part) for part in ("tests/support", ".", "kernels", "shards")]
    code = f"import sys; sys.path[:0] = {paths!r}\n{EXITS}"
    command = [sys.executable, "-c", code, str(root / "uml_dist" / "telemetry")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "waiting 2\n", "")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_real_gpu_has_plausible_values():
    gpu = find_gpu(["0"])
    assert gpu is not None
    exported = {name.partition("{")[0]: value for name, value in values(GpuCollector(gpu)).items()}
    assert 10 < exported["uml_gpu_temperature_celsius"] < 110
    assert 0 <= exported["uml_gpu_utilization_ratio"] <= 1
    assert 1e9 < exported["uml_gpu_memory_total_bytes"] < 1e12
    assert 1e8 < exported["uml_gpu_sm_clock_hertz"] < 5e9
    logging.getLogger(__name__).info("%s", exported)
