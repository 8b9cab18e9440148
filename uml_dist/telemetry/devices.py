"""Metrics of what a rank uses: its GPU, memory, disks and floating-point operations.

All but the last and the GPU's Xid errors are read when Prometheus asks, and nothing between. A collector that fails
lacks metrics, and one that hangs, in a driver or a network file system, does not keep others from answering.
"""

import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from .disk import DiskCollector
from .flops import FlopCollector
from .gpu import Gpu, GpuCollector, find_gpu
from .memory import MemoryCollector
from .peaks import data_type_of, peak_flops
from .table import counter_family, gauge_family, metric
from .xid import XidCollector

logger = logging.getLogger(__name__)

WAIT_SECONDS = 1.0
"""How long a scrape waits for an earlier one that is still reading."""


@dataclass(frozen=True)
class DeviceCollectors:
    """The registered collectors.

    Attributes:
        flops: counts operations; the training reports its steps to it.
        driver: version of the GPU's driver; "" without one.
    """

    flops: FlopCollector
    driver: str = ""
    xid: XidCollector | None = None

    def stop(self) -> None:
        """Stop waiting for Xid errors; the metrics that were read on demand go on."""
        if self.xid is not None:
            self.xid.stop()


def register_device_collectors(
    registry: CollectorRegistry,
    device: torch.device,
    *,
    bf16: bool = False,
    gpu: str | None = None,
    folders: Mapping[str, Path] | None = None,
) -> DeviceCollectors:
    """Register collectors of what a rank uses. Never raises.

    Args:
        registry: registry of the rank.
        device: device of the rank.
        bf16: whether networks run in bf16 autocast.
        gpu: the device's entry in `CUDA_VISIBLE_DEVICES`, for when torch does not tell its UUID.
        folders: "run" and "cache" -> folder, for the space of its file system.
    """
    flops = FlopCollector(_quietly(_peak, device, bf16))
    found = _quietly(_find, device, gpu)
    xid = _quietly(XidCollector, found) if found else None
    collectors = [flops, MemoryCollector(device), DiskCollector(folders or {})]
    for collector in (*collectors, *([GpuCollector(found)] if found else []), *([xid] if xid else [])):
        _quietly(registry.register, Guarded(collector))
    return DeviceCollectors(flops, found.driver if found else "", xid)


class _Source(Protocol):
    """A collector, and the names of its metrics."""

    names: tuple[str, ...]

    def collect(self) -> Iterable[Metric]: ...


class Guarded(Collector):
    """Keeps the failure of a collector from failing the scrape, and its hanging from hanging all later ones.

    Args:
        source: the collector.
    """

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._reading = threading.Lock()
        self._warned = False

    def describe(self) -> list[Metric]:
        """Return the metrics without values, by which the registry finds those that a request names."""
        families = {"counter": counter_family, "gauge": gauge_family}
        return [families[metric(name).kind](name, []) for name in self._source.names]

    def collect(self) -> list[Metric]:
        """Return what the collector reads until it fails; nothing while it is still busy with an earlier scrape."""
        if not self._reading.acquire(timeout=WAIT_SECONDS):
            self._warn("an earlier reading has not ended")
            return []
        found: list[Metric] = []
        try:
            found.extend(self._source.collect())
        except Exception as error:
            self._warn(error)
        finally:
            self._reading.release()
        return found

    def _warn(self, reason: object) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("some metrics like %s are missing: %s", self._source.names[-1], reason)


def _find(device: torch.device, entry: str | None) -> Gpu | None:
    """Find the rank's GPU by the UUID that torch tells, else by its entry in `CUDA_VISIBLE_DEVICES`.

    The entry may be an index, which CUDA and NVML count alike only if CUDA_DEVICE_ORDER is PCI_BUS_ID.
    """
    if device.type != "cuda":
        return None
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    told = [] if uuid is None else [f"GPU-{uuid}", f"MIG-{uuid}"]
    return find_gpu([*told, *([entry] if entry else [])])


def _peak(device: torch.device, bf16: bool) -> float | None:
    if device.type != "cuda":
        return None
    return peak_flops(torch.cuda.get_device_name(device), data_type_of(device, bf16))


def _quietly(call: Any, *arguments: Any) -> Any:
    """Return a call's result, or None after a warning: no metric is worth a training."""
    try:
        return call(*arguments)
    except Exception as error:
        logger.warning("some metrics of the device are missing: %s", error)
        return None
