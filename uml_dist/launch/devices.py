"""Detects the devices to train on, by comparing the GPUs that the driver reports with those that torch can use.

A GPU that is present but unusable is an error, never a silent fallback to the CPU. Nothing here creates a CUDA context,
so the process can still replace itself with a launcher.
"""

import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ..errors import UmlError

VISIBLE = "CUDA_VISIBLE_DEVICES"
ACCELERATOR = "DS_ACCELERATOR"  # DeepSpeed's own switch, read when it is imported


@dataclass(frozen=True)
class Devices:
    """The devices on which the ranks of this node train.

    Attributes:
        kind: "cuda", or "cpu" for CPU processes.
        ids: values for `CUDA_VISIBLE_DEVICES`, in order: indices or UUIDs; empty on the CPU.
    """

    kind: Literal["cuda", "cpu"]
    ids: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """The number of usable GPUs, 0 on the CPU."""
        return len(self.ids)


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver's version, the newest CUDA version that it supports ("12.4") and the UUIDs of all its GPUs."""

    version: str
    cuda: str
    uuids: tuple[str, ...]


@dataclass(frozen=True)
class TorchBuild:
    """The version of torch, the CUDA version it was built for (None for a CPU build) and the number of usable GPUs."""

    version: str
    cuda: str | None
    count: int


def read_driver() -> Driver | None:
    """Query the NVIDIA driver through NVML; return None on a machine without one.

    Raises:
        UmlError: there is a driver, but it does not respond (for example after an update without a reboot).
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        absent = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
        if getattr(error, "value", None) in absent:
            return None
        raise UmlError(f"the NVIDIA driver does not respond ({error}): fix it, or pass --cpu") from None
    try:
        cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        uuids = tuple(str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles)
        version = str(pynvml.nvmlSystemGetDriverVersion())
        return Driver(version, f"{cuda // 1000}.{cuda % 1000 // 10}", uuids)
    except pynvml.NVMLError as error:
        raise UmlError(f"the NVIDIA driver fails ({error}): see nvidia-smi, or pass --cpu") from None
    finally:
        pynvml.nvmlShutdown()


def read_torch() -> TorchBuild:
    """Query torch for the GPUs that it can use, as `CUDA_VISIBLE_DEVICES` allows, without creating a CUDA context."""
    import torch

    with warnings.catch_warnings():
        # Our own error reports an old driver; torch's warning about it would only repeat that.
        warnings.simplefilter("ignore")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return TorchBuild(str(torch.__version__), torch.version.cuda, count)


def visible_ids(visible: str | None, uuids: tuple[str, ...]) -> tuple[str, ...]:
    """Return the GPUs that a value of `CUDA_VISIBLE_DEVICES` leaves visible, as the entries of that value.

    Entries are interpreted as CUDA does: an entry is an index, a UUID or a UUID prefix, and the first entry that
    matches no GPU (-1, an index that is too large) ends the list. The entry of a MIG instance is not checked, because
    the driver lists physical GPUs only.

    Args:
        visible: the value of the variable; None if it is not set.
        uuids: UUIDs of all GPUs, by index.
    """
    if visible is None:
        return tuple(str(index) for index in range(len(uuids)))
    ids: list[str] = []
    for entry in (part.strip() for part in visible.split(",")):
        if entry.isdecimal():
            known = int(entry) < len(uuids)
        elif entry.startswith("GPU-"):
            known = sum(uuid.startswith(entry) for uuid in uuids) == 1
        else:
            known = entry.startswith("MIG-")
        if not known or entry in ids:
            break
        ids.append(entry)
    return tuple(ids)


def find_devices(
    cpu: bool,
    *,
    environment: Mapping[str, str] | None = None,
    driver: Callable[[], Driver | None] = read_driver,
    build: Callable[[], TorchBuild] = read_torch,
) -> Devices:
    """Find the devices to train on.

    Args:
        cpu: use the CPU even if there are GPUs; `DS_ACCELERATOR=cpu` has the same effect.
        environment: environment variables; by default those of this process.
        driver: queries the driver.
        build: queries torch; called only if the driver reports a GPU.

    Raises:
        UmlError: there are GPUs but they cannot be used, or `CUDA_VISIBLE_DEVICES` names none of them.
    """
    environment = os.environ if environment is None else environment
    if cpu or environment.get(ACCELERATOR) == "cpu":
        return Devices("cpu")
    shown = driver()
    if shown is None or not shown.uuids:
        return Devices("cpu")
    visible = environment.get(VISIBLE)
    ids = visible_ids(visible, shown.uuids)
    if not ids:
        if visible is not None and visible.strip() and not visible.strip().startswith("-1"):
            raise UmlError(f"{VISIBLE}={visible} names none of the {len(shown.uuids)} GPUs here: fix it or pass --cpu")
        return Devices("cpu")
    torch = build()
    if torch.count == 0:
        built = f"built for CUDA {torch.cuda}" if torch.cuda else "built without CUDA"
        raise UmlError(
            f"the driver {shown.version} (CUDA {shown.cuda} at most) shows {len(ids)} GPUs, but torch {torch.version} "
            f"({built}) cannot use them: install a torch for CUDA {shown.cuda}, or a newer driver, or pass --cpu"
        )
    # If MIG splits a GPU, torch counts fewer devices than the driver.
    return Devices("cuda", ids[: torch.count])
