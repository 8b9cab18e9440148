"""Memory of the rank: of its process, and on its GPU as torch's allocator counts it."""

from collections.abc import Iterator

import psutil
import torch
from prometheus_client.core import Metric

from .table import gauge_family

_ALLOCATOR = {
    "uml_gpu_memory_allocated_bytes": "allocated_bytes.all.current",
    "uml_gpu_memory_reserved_bytes": "reserved_bytes.all.current",
    "uml_gpu_memory_peak_bytes": "allocated_bytes.all.peak",
}
"""Metrics of the GPU's memory, and names of torch's figures."""


class MemoryCollector:
    """Reads memory at each scrape, without waiting for the device.

    Args:
        device: the rank's device.
    """

    names = ("uml_resident_memory_bytes", *_ALLOCATOR)

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()

    def collect(self) -> Iterator[Metric]:
        """Read the resident memory, and that of the GPU if the rank has one."""
        yield gauge_family("uml_resident_memory_bytes", [((), self._process.memory_info().rss)])
        if self._device.type == "cuda":
            figures = torch.cuda.memory_stats(self._device)
            for name, figure in _ALLOCATOR.items():
                if figure in figures:
                    yield gauge_family(name, [((), figures[figure])])
