"""The rank's GPU as its driver sees it, read through NVML when Prometheus asks.

What a GPU or a driver does not support is absent, never 0. On an instance of MIG, memory is the instance's, and all
else is of the GPU that it is a part of, under that GPU's UUID.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from prometheus_client.core import Metric

from .table import counter_family, gauge_family

logger = logging.getLogger(__name__)

GAUGES: dict[str, Callable[[ModuleType, Any], float]] = {
    "uml_gpu_utilization_ratio": lambda nvml, gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
    "uml_gpu_power_watts": lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
    "uml_gpu_temperature_celsius": lambda nvml, gpu: _temperature(nvml, gpu),
    "uml_gpu_sm_clock_hertz": lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM) * 1e6,
}
"""Values of a GPU; NVML reports percent, milliwatts and megahertz."""

REASONS = {
    "applications_clocks": "nvmlClocksEventReasonApplicationsClocksSetting",
    "sw_power_cap": "nvmlClocksEventReasonSwPowerCap",
    "hw_slowdown": "nvmlClocksEventReasonHwSlowdown",
    "sync_boost": "nvmlClocksEventReasonSyncBoost",
    "sw_thermal": "nvmlClocksEventReasonSwThermalSlowdown",
    "hw_thermal": "nvmlClocksEventReasonHwThermalSlowdown",
    "hw_power_brake": "nvmlClocksEventReasonHwPowerBrakeSlowdown",
    "display_clocks": "nvmlClocksEventReasonDisplayClockSetting",
}
"""Reasons for lower clocks, and NVML's names of their bits. Idleness is left out: nothing is slowed down by it."""

ECC_KINDS = {
    "corrected": "NVML_MEMORY_ERROR_TYPE_CORRECTED",
    "uncorrected": "NVML_MEMORY_ERROR_TYPE_UNCORRECTED",
}

_UNSUPPORTED = (
    *("NVML_ERROR_NOT_SUPPORTED", "NVML_ERROR_FUNCTION_NOT_FOUND", "NVML_ERROR_NO_PERMISSION", "NVML_ERROR_NO_DATA"),
    *("NVML_ERROR_INVALID_ARGUMENT", "NVML_ERROR_NOT_FOUND", "NVML_ERROR_VGPU_ECC_NOT_SUPPORTED"),
)
"""Errors of a field that this GPU does not have, or that this user may not read."""

_LOST = (
    *("NVML_ERROR_GPU_IS_LOST", "NVML_ERROR_UNINITIALIZED", "NVML_ERROR_DRIVER_NOT_LOADED"),
    *("NVML_ERROR_LIBRARY_NOT_FOUND", "NVML_ERROR_RESET_REQUIRED"),
)
"""Errors after which other fields are not worth a call; on a GPU that is off the bus, each can take long."""


@dataclass(frozen=True)
class Gpu:
    """The GPU of a rank.

    Attributes:
        nvml: the module pynvml, initialised.
        board: handle of the physical GPU.
        board_uuid: its UUID.
        part: handle of what the rank computes on: the GPU, or an instance of MIG.
        part_uuid: its UUID.
        driver: version of the driver.
    """

    nvml: ModuleType
    board: Any
    board_uuid: str
    part: Any
    part_uuid: str
    driver: str


def find_gpu(names: Sequence[str]) -> Gpu | None:
    """Return the GPU that the first matching name denotes; None without a driver, or if no name matches.

    A driver that fails is a warning, never an error.

    Args:
        names: entries of `CUDA_VISIBLE_DEVICES`: index, UUID, unambiguous beginning of a UUID, or name of an instance
            of MIG.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if not _is(pynvml, error, ("NVML_ERROR_LIBRARY_NOT_FOUND", "NVML_ERROR_DRIVER_NOT_LOADED")):
            logger.warning("no metrics of the GPU: the NVIDIA driver does not respond: %s", error)
        return None
    failure: Exception | None = None
    for name in names:
        try:
            return _describe(pynvml, _handle(pynvml, name))
        except pynvml.NVMLError as error:
            failure = error
    if failure is not None:
        logger.warning("no metrics of the GPU: the driver does not know %s: %s", " or ".join(names), failure)
    return None


class GpuCollector:
    """Reads a GPU at each scrape.

    If the driver or the GPU is lost, its metrics disappear after one warning, and return with it.

    Args:
        gpu: the GPU.
    """

    names = (
        *GAUGES,
        *("uml_gpu_memory_used_bytes", "uml_gpu_memory_total_bytes", "uml_gpu_energy_joules_total"),
        *("uml_gpu_throttled", "uml_gpu_ecc_errors_total"),
    )

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self._warned = False

    def collect(self) -> Iterator[Metric]:
        """Read the fields that the GPU supports."""
        nvml, gpu = self._gpu.nvml, self._gpu
        try:
            yield from [*self._fields()]
        except nvml.NVMLError as error:  # one after which there is nothing to read
            self._warn(f"GPU {gpu.board_uuid} does not respond, so its metrics are missing: {error}")

    def _fields(self) -> Iterator[Metric]:
        nvml, gpu = self._gpu.nvml, self._gpu
        board, uuid = gpu.board, (gpu.board_uuid,)
        for name, read in GAUGES.items():
            value = self._read(name, read, nvml, board)
            if value is not None:
                yield gauge_family(name, [(uuid, value)])
        memory = self._read("memory", nvml.nvmlDeviceGetMemoryInfo, gpu.part)
        if memory is not None:
            yield gauge_family("uml_gpu_memory_used_bytes", [((gpu.part_uuid,), memory.used)])
            yield gauge_family("uml_gpu_memory_total_bytes", [((gpu.part_uuid,), memory.total)])
        millijoules = self._read("energy", nvml.nvmlDeviceGetTotalEnergyConsumption, board)
        if millijoules is not None:
            yield counter_family("uml_gpu_energy_joules_total", [(uuid, millijoules / 1000)])
        reasons = self._read("clocks", _current_reasons, nvml, board)
        if reasons is not None:
            supported = self._read("clocks", nvml.nvmlDeviceGetSupportedClocksEventReasons, board)
            bits = {reason: getattr(nvml, constant) for reason, constant in REASONS.items()}
            known = {reason: bit for reason, bit in bits.items() if supported is None or supported & bit}
            values = [((*uuid, reason), float(bool(reasons & bit))) for reason, bit in known.items()]
            yield gauge_family("uml_gpu_throttled", values)
        errors = {kind: self._read("ECC", _ecc_errors, nvml, board, constant) for kind, constant in ECC_KINDS.items()}
        counted = [((*uuid, kind), float(count)) for kind, count in errors.items() if count is not None]
        if counted:
            yield counter_family("uml_gpu_ecc_errors_total", counted)

    def _read(self, field: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """Return what a call reads, or None.

        Raises:
            NVMLError: nothing can be read.
        """
        nvml = self._gpu.nvml
        try:
            return call(*arguments)
        except nvml.NVMLError as error:
            if _is(nvml, error, _LOST):
                raise
            if not _is(nvml, error, _UNSUPPORTED):
                self._warn(f"{field} of GPU {self._gpu.board_uuid} cannot be read: {error}")
            return None

    def _warn(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("%s", message)


def _handle(nvml: ModuleType, name: str) -> Any:
    """Return the handle of the GPU, or of the instance of MIG, that an entry of `CUDA_VISIBLE_DEVICES` denotes.

    Raises:
        NVMLError: there is none.
    """
    if name.isdecimal():
        return nvml.nvmlDeviceGetHandleByIndex(int(name))
    try:
        return nvml.nvmlDeviceGetHandleByUUID(name)
    except nvml.NVMLError as error:
        # Before driver 470: MIG-GPU-<UUID>/<GPU instance>/<compute instance>.
        start = name.removeprefix("MIG-").partition("/")[0]
        if not start.startswith("GPU-"):
            raise
        found = [handle for handle, uuid in _all_gpus(nvml) if uuid.startswith(start)]
        if len(found) != 1:
            raise error
        return found[0]


def _all_gpus(nvml: ModuleType) -> Iterator[tuple[Any, str]]:
    """Yield handle and UUID of all GPUs of the machine that this process may access."""
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            yield handle, str(nvml.nvmlDeviceGetUUID(handle))
        except nvml.NVMLError:
            continue


def _describe(nvml: ModuleType, part: Any) -> Gpu:
    try:
        in_mig = bool(nvml.nvmlDeviceIsMigDeviceHandle(part))
    except nvml.NVMLError:  # a driver without MIG
        in_mig = False
    board = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(part) if in_mig else part
    uuids = [str(nvml.nvmlDeviceGetUUID(handle)) for handle in (board, part)]
    return Gpu(nvml, board, uuids[0], part, uuids[1], str(nvml.nvmlSystemGetDriverVersion()))


def _temperature(nvml: ModuleType, gpu: Any) -> float:
    """Return degrees Celsius, by the function that the driver's library has."""
    try:
        return nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU)
    except nvml.NVMLError as error:
        # Announced to be removed from the library of CUDA 14; its successor is not in pynvml before 12.570.
        if not _is(nvml, error, ("NVML_ERROR_FUNCTION_NOT_FOUND",)) or not hasattr(nvml, "nvmlDeviceGetTemperatureV"):
            raise
        return nvml.nvmlDeviceGetTemperatureV(gpu, nvml.NVML_TEMPERATURE_GPU)


def _current_reasons(nvml: ModuleType, gpu: Any) -> int:
    """Return the bits of reasons for lower clocks."""
    try:
        return nvml.nvmlDeviceGetCurrentClocksEventReasons(gpu)
    except nvml.NVMLError as error:
        if not _is(nvml, error, ("NVML_ERROR_FUNCTION_NOT_FOUND",)):
            raise
        return nvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu)  # its name before driver 535


def _ecc_errors(nvml: ModuleType, gpu: Any, kind: str) -> int:
    """Return the number of memory errors since the driver was loaded."""
    return nvml.nvmlDeviceGetTotalEccErrors(gpu, getattr(nvml, kind), nvml.NVML_VOLATILE_ECC)


def _is(nvml: ModuleType, error: Any, names: Sequence[str]) -> bool:
    """Return whether an NVMLError has one of these codes; older modules lack the newest codes."""
    return error.value in [getattr(nvml, name, None) for name in names]
