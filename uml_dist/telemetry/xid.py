"""Counts Xid errors of a GPU: what its driver reports about faults of hardware, driver or programs.

NVML keeps no number of them; it only wakes up who waits at the time. So a thread waits, which is never waited for.
"""

import logging
import threading
from collections.abc import Iterator
from typing import Any

from prometheus_client.core import Metric

from .gpu import Gpu
from .table import counter_family

logger = logging.getLogger(__name__)

WAIT_MILLISECONDS = 1000
"""How long the thread waits in the driver before it looks whether it should end."""


class XidCollector:
    """Counts the Xid errors of a GPU since it was made.

    There is no metric if the GPU does not report them, or once waiting for them fails.

    Args:
        gpu: the GPU.
    """

    names = ("uml_gpu_xid_errors_total",)

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._count: int | None = None
        self._logged: set[int] = set()
        self._stopping = threading.Event()
        events = self._subscribe()
        if events is not None:
            self._count = 0
            # A daemon: at the end of the process it may be inside the driver.
            threading.Thread(target=self._wait, args=(events,), name="xid", daemon=True).start()

    def collect(self) -> Iterator[Metric]:
        """Return the number of errors."""
        if self._count is not None:
            yield counter_family("uml_gpu_xid_errors_total", [((self._gpu.board_uuid,), self._count)])

    def stop(self) -> None:
        """Let the thread end at its next look, without waiting for it."""
        self._stopping.set()

    def _subscribe(self) -> Any:
        """Return a set of events to wait for, None if the GPU reports none."""
        nvml, events = self._gpu.nvml, None
        try:
            events = nvml.nvmlEventSetCreate()
            nvml.nvmlDeviceRegisterEvents(self._gpu.board, nvml.nvmlEventTypeXidCriticalError, events)
        except nvml.NVMLError as error:
            logger.debug("GPU %s does not report Xid errors: %s", self._gpu.board_uuid, error)
            if events is not None:
                self._free(events)
            return None
        return events

    def _wait(self, events: Any) -> None:
        nvml = self._gpu.nvml
        while not self._stopping.is_set():
            try:
                self._note(nvml.nvmlEventSetWait_v2(events, WAIT_MILLISECONDS))
            except nvml.NVMLError as error:
                if error.value != nvml.NVML_ERROR_TIMEOUT:
                    logger.warning("GPU %s: Xid errors are counted no longer: %s", self._gpu.board_uuid, error)
                    self._count = None
                    break
        self._free(events)

    def _note(self, event: Any) -> None:
        """Count an event, and log each kind of error once."""
        if not event.eventType & self._gpu.nvml.nvmlEventTypeXidCriticalError:
            return
        self._count = (self._count or 0) + 1
        if event.eventData not in self._logged:
            self._logged.add(event.eventData)
            logger.warning("GPU %s reports Xid error %d: see dmesg", self._gpu.board_uuid, event.eventData)

    def _free(self, events: Any) -> None:
        try:
            self._gpu.nvml.nvmlEventSetFree(events)
        except self._gpu.nvml.NVMLError as error:
            logger.debug("cannot free a set of events: %s", error)
