"""One call registers the collectors of what a rank uses; a failing one does not fail a scrape."""

import math
import os
import shutil
from typing import Any

import psutil
import pytest
import torch
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric

from nvml_library import Card, NvmlLibrary
from uml_dist.telemetry import METRICS, peaks
from uml_dist.telemetry.devices import Guarded, register_device_collectors
from uml_dist.telemetry.disk import DiskCollector
from uml_dist.telemetry.flops import FlopCollector
from uml_dist.telemetry.gpu import GpuCollector
from uml_dist.telemetry.memory import MemoryCollector
from uml_dist.telemetry.peaks import peak_flops
from uml_dist.telemetry.table import COMPUTING, DEVICES
from uml_dist.telemetry.xid import XidCollector

CPU = torch.device("cpu")
UUID = "11111111-2222-3333-4444-555555555555"
ALLOCATOR = {
    "allocated_bytes.all.current": 100,
    "reserved_bytes.all.current": 300,
    "allocated_bytes.all.peak": 200,
}


class Properties:
    uuid = UUID


@pytest.fixture
def cuda(monkeypatch) -> torch.device:
    """What torch would tell of one GPU."""
    told: dict[str, Any] = {
        "get_device_properties": lambda _: Properties(),
        "get_device_name": lambda _: "NVIDIA A100-SXM4-80GB",
        "get_device_capability": lambda _: (8, 0),
        "memory_stats": lambda _: ALLOCATOR,
    }
    for name, function in told.items():
        monkeypatch.setattr(torch.cuda, name, function)
    return torch.device("cuda", 0)


def scrape(registry: CollectorRegistry) -> dict[str, float]:
    lines = generate_latest(registry).decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def test_process_without_a_gpu_has_memory_and_disks_only(tmp_path):
    registry = CollectorRegistry()
    collectors = register_device_collectors(registry, CPU, folders={"run": tmp_path, "cache": tmp_path / "unused"})
    values = scrape(registry)
    assert set(values) == {
        "uml_resident_memory_bytes",
        'uml_disk_free_bytes{folder="run"}',
        'uml_disk_size_bytes{folder="run"}',
    }
    assert values["uml_resident_memory_bytes"] == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert values['uml_disk_size_bytes{folder="run"}'] == shutil.disk_usage(tmp_path).total
    status = os.statvfs(tmp_path)
    free = values['uml_disk_free_bytes{folder="run"}']
    assert math.isclose(free, status.f_bavail * status.f_frsize, rel_tol=0.1)
    assert collectors.driver == ""
    collectors.stop()


def test_rank_exports_the_gpu_that_torch_tells(cuda, monkeypatch):
    other, own = Card("GPU-0"), Card(f"GPU-{UUID}")
    library = NvmlLibrary(other, own).install(monkeypatch)
    registry = CollectorRegistry()
    collectors = register_device_collectors(registry, cuda, bf16=True, gpu="0")
    values = scrape(registry)
    assert {name.split('gpu="')[1].split('"')[0] for name in values if 'gpu="' in name} == {f"GPU-{UUID}"}
    assert values["uml_gpu_memory_allocated_bytes"] == 100
    assert values["uml_gpu_memory_reserved_bytes"] == 300
    assert values["uml_gpu_memory_peak_bytes"] == 200
    assert values["uml_peak_flops_per_second"] == 312e12
    assert collectors.driver == "550.54.15"
    collectors.stop()
    assert library.freed.wait(10)


def test_all_metrics_of_devices_are_those_of_the_table(cuda, monkeypatch, tmp_path):
    NvmlLibrary(Card(f"GPU-{UUID}")).install(monkeypatch)
    registry = CollectorRegistry()
    collectors = register_device_collectors(registry, cuda, bf16=True, folders={"run": tmp_path})
    collectors.flops.begin_step("shape")
    torch.ones(2, 2) @ torch.ones(2, 2)
    collectors.flops.end_step(["network"])
    collectors.flops.end_window(1.0)
    lines = generate_latest(registry).decode().splitlines()
    exported = {tuple(line.split()[2:4]) for line in lines if line.startswith("# TYPE")}
    assert exported == {(metric.name, metric.kind) for metric in (*COMPUTING, *DEVICES)}
    helped = {line.split(maxsplit=3)[2]: line.split(maxsplit=3)[3] for line in lines if line.startswith("# HELP")}
    assert helped.items() <= {metric.name: metric.help for metric in METRICS}.items()
    collectors.stop()


def test_collectors_name_all_their_metrics_for_requests_of_some(tmp_path):
    sources = (FlopCollector, MemoryCollector, DiskCollector, GpuCollector, XidCollector)
    named = [name for source in sources for name in source.names]
    assert sorted(named) == sorted(metric.name for metric in (*COMPUTING, *DEVICES))
    registry = CollectorRegistry()
    register_device_collectors(registry, CPU, folders={"run": tmp_path})
    some = registry.restricted_registry(["uml_resident_memory_bytes"])
    assert [family.name for family in some.collect()] == ["uml_resident_memory_bytes"]


def test_gpu_that_torch_cannot_describe_is_no_error(cuda, monkeypatch, caplog):
    def fails(_: torch.device) -> None:
        raise RuntimeError("no CUDA")

    for name in ("get_device_properties", "get_device_name", "memory_stats"):
        monkeypatch.setattr(torch.cuda, name, fails)
    registry = CollectorRegistry()
    register_device_collectors(registry, cuda)
    assert set(scrape(registry)) == {"uml_resident_memory_bytes"}
    assert caplog.records


def test_registering_twice_is_a_warning(caplog):
    registry = CollectorRegistry()
    register_device_collectors(registry, CPU)
    register_device_collectors(registry, CPU)
    assert "uml_resident_memory_bytes" in scrape(registry)
    assert caplog.records


def test_collector_that_fails_is_one_warning_and_the_others_answer(caplog, tmp_path):
    class Broken:
        names = ("uml_gpu_power_watts",)

        def collect(self) -> list[Metric]:
            raise OSError("no such sensor")

    registry = CollectorRegistry()
    registry.register(Guarded(Broken()))
    registry.register(Guarded(DiskCollector({"run": tmp_path})))
    assert [len(scrape(registry)) for _ in range(2)] == [2, 2]
    (entry,) = caplog.records
    assert "uml_gpu_power_watts" in entry.getMessage()


def test_names_of_folders_cannot_break_a_line(tmp_path):
    registry = CollectorRegistry()
    registry.register(Guarded(DiskCollector({'a"\numl_steps_total 7\n': tmp_path})))
    assert len(scrape(registry)) == 2
    assert not any(line.startswith("uml_steps_total") for line in generate_latest(registry).decode().splitlines())


@pytest.mark.parametrize(
    ("name", "data_type", "tera"),
    [
        ("Tesla V100-SXM2-32GB", "fp32", 15.7),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("A100-PCIE-40GB", "tf32", 156),
        ("NVIDIA A100 80GB PCIe", "fp32", 19.5),
        ("NVIDIA H100 80GB HBM3", "bf16", 989.5),
        ("NVIDIA H100 PCIe", "bf16", 756.5),
        ("NVIDIA H100 NVL", "bf16", 835.5),
        ("NVIDIA H200", "bf16", 989.5),
        ("NVIDIA GH200 480GB", "tf32", 494.5),
        ("NVIDIA B200", "bf16", 2250),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA L40", "bf16", 181.05),
        ("NVIDIA L40S", "tf32", 183),
        ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
    ],
)
def test_peaks_are_dense_figures_of_the_data_sheets(name, data_type, tera):
    assert peak_flops(name, data_type) == pytest.approx(tera * 1e12)


@pytest.mark.parametrize(
    ("name", "data_type"),
    [
        ("Tesla V100-SXM2-32GB", "bf16"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16"),
        ("NVIDIA GeForce RTX 4090 D", "bf16"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16"),
        ("NVIDIA A100-SXM-64GB", "bf16"),
        ("NVIDIA GH200 something", "bf16"),
        ("NVIDIA B200", "fp32"),
        ("Radeon", "fp32"),
        ("", "bf16"),
    ],
)
def test_peak_of_another_device_is_not_guessed(name, data_type):
    assert peak_flops(name, data_type) is None


def test_faster_data_types_are_faster():
    for _, rates in peaks._PEAKS:
        ordered = [rates[kind] for kind in ("fp32", "tf32", "bf16") if kind in rates]
        assert ordered == sorted(ordered)


@pytest.mark.parametrize(
    ("bf16", "capability", "setting", "expected"),
    [
        (True, (8, 0), "tf32", "bf16"),
        (False, (8, 0), "tf32", "tf32"),
        (False, (8, 0), "ieee", "fp32"),
        (False, (7, 0), "tf32", "fp32"),
    ],
)
def test_data_type_is_that_of_the_convolutions(cuda, bf16, capability, setting, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = setting
    try:
        assert peaks.data_type_of(cuda, bf16) == expected
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
