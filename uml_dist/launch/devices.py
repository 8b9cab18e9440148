"""How many devices there are to train on: what the driver shows, held against what torch can use.

A GPU that is there and cannot be used is an error, never a silent fall to the CPU. Nothing here creates a CUDA context,
so the process may still replace itself by a launcher.
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
    """What a world on this node trains on.

    Attributes:
        kind: "cuda", or "cpu" for processes.
        ids: what `CUDA_VISIBLE_DEVICES` may name, in order: indices or UUIDs; empty on the CPU.
    """

    kind: Literal["cuda", "cpu"]
    ids: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """The number of usable GPUs, 0 on the CPU."""
        return len(self.ids)


@dataclass(frozen=True)
class Driver:
    """What the NVIDIA driver says: its version, the newest CUDA it runs ("12.4") and the UUIDs of all its GPUs."""

    version: str
    cuda: str
    uuids: tuple[str, ...]


@dataclass(frozen=True)
class TorchBuild:
    """What torch says: its version, the CUDA that it was built for (None: a CPU build) and how many GPUs it can use."""

    version: str
    cuda: str | None
    count: int


def read_driver() -> Driver | None:
    """Ask the NVIDIA driver through NVML; None on a machine without one.

    Raises:
        UmlError: there is a driver, but it does not answer (such as after an update without a reboot).
    """
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        absent = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
        if getattr(error, "value", None) in absent:
            return None
        raise UmlError(f"the NVIDIA driver does not answer ({error}): fix it, or pass --cpu") from None
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
    """Ask torch which GPUs it can use, within `CUDA_VISIBLE_DEVICES` of this process and without a CUDA context."""
    import torch

    with warnings.catch_warnings():
        # The warning about an old driver would stand above our own line, which says the same.
        warnings.simplefilter("ignore")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return TorchBuild(str(torch.__version__), torch.version.cuda, count)


def visible_ids(visible: str | None, uuids: tuple[str, ...]) -> tuple[str, ...]:
    """The GPUs that a value of `CUDA_VISIBLE_DEVICES` leaves, named as it names them.

    As CUDA reads it: an entry is an index or a UUID (or the beginning of one), and the first entry that names no GPU
    (-1, an index too large) ends the list. A MIG instance is taken at its word, since the driver lists whole GPUs.

    Args:
        visible: the variable; None where it is not set.
        uuids: of all GPUs, by index.
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
    """Find what there is to train on.

    Args:
        cpu: the user asks for the CPU, whatever GPUs there are; `DS_ACCELERATOR=cpu` asks for it too.
        environment: of this process, unless given.
        driver: how the driver is asked.
        build: how torch is asked; only where the driver shows a GPU.

    Raises:
        UmlError: there are GPUs and they cannot be used, or `CUDA_VISIBLE_DEVICES` names none of them.
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
    # Torch counts fewer than the driver where MIG splits a GPU.
    return Devices("cuda", ids[: torch.count])
