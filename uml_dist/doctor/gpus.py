"""The NVIDIA driver against torch's CUDA, and the GPUs themselves."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UmlError
from ..launch.devices import (
    ACCELERATOR,
    VISIBLE,
    Devices,
    Driver,
    TorchBuild,
    find_devices,
    read_driver,
    read_torch,
    visible_ids,
)
from .finding import Finding, note, ok, problem

GIBIBYTE = 2**30
NVIDIA, DISPLAY = "0x10de", "0x03"  # PCI vendor, and class of display controllers


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver shows it: name, UUID, compute capability (8, 0), and its memory in bytes."""

    name: str
    uuid: str
    capability: tuple[int, int]
    memory: int
    free: int


def read_gpus() -> list[Gpu]:
    """All GPUs of the driver, by index.

    Raises:
        pynvml.NVMLError: the driver does not answer.
    """
    import pynvml

    pynvml.nvmlInit()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        found = []
        for handle in handles:
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
            names = str(pynvml.nvmlDeviceGetName(handle)), str(pynvml.nvmlDeviceGetUUID(handle))
            found.append(Gpu(*names, (int(major), int(minor)), int(memory.total), int(memory.free)))
        return found
    finally:
        pynvml.nvmlShutdown()


def read_architectures() -> list[str]:
    """What torch has machine code (sm_90) or portable code (compute_90) for; empty without CUDA."""
    import torch

    return torch.cuda.get_arch_list()


def silent_gpus(devices: Path = Path("/sys/bus/pci/devices")) -> int:
    """NVIDIA GPUs on the PCI bus, with or without a driver."""
    count = 0
    for device in devices.glob("*") if devices.is_dir() else ():
        vendor, kind = device / "vendor", device / "class"
        if vendor.is_file() and vendor.read_text().strip() == NVIDIA:
            count += kind.is_file() and kind.read_text().startswith(DISPLAY)
    return count


def count_shown(driver: Callable[[], Driver | None] = read_driver) -> int:
    """The GPUs that the driver shows; one where it does not answer, as it drives something."""
    try:
        shown = driver()
    except UmlError:
        return 1
    except Exception:  # no pynvml, say: a check of its own tells
        return 0
    return len(shown.uuids) if shown else 0


def usable_gpus(
    environment: Mapping[str, str],
    driver: Callable[[], Driver | None] = read_driver,
    build: Callable[[], TorchBuild] = read_torch,
) -> int:
    """The GPUs on which training is meant to run: those it finds, or all where it cannot use those that are there."""
    try:
        return find_devices(False, environment=environment, driver=driver, build=build).count
    except Exception:
        return count_shown(driver)


def check_torch(build: Callable[[], TorchBuild] = read_torch) -> Finding:
    """Whether torch can be imported, and what it was built for."""
    try:
        torch = build()
    except (ImportError, OSError) as error:
        return problem("torch", f"cannot be imported: {error}", "make install, in an environment of its own")
    return ok("torch", f"{torch.version}, built {f'for CUDA {torch.cuda}' if torch.cuda else 'without CUDA'}")


def check_driver(
    environment: Mapping[str, str],
    driver: Callable[[], Driver | None] = read_driver,
    build: Callable[[], TorchBuild] = read_torch,
    on_bus: Callable[[], int] = silent_gpus,
) -> Finding:
    """The driver against torch, as training sees them.

    Args:
        environment: of this process.
        driver: how the driver is asked.
        build: how torch is asked.
        on_bus: how GPUs are counted where there is no driver.
    """
    try:
        shown = driver()
        if shown is None or not shown.uuids:
            count = on_bus()
            if count:
                says = f"{count} NVIDIA GPUs are on the bus, and there is no driver: training runs on CPU processes"
                return note("driver", says, "install the NVIDIA driver; start a container with --gpus all")
            return note("driver", "no NVIDIA GPU: training runs on CPU processes")
        # What hides GPUs on purpose has a line of its own.
        open_environment = {name: value for name, value in environment.items() if name != ACCELERATOR}
        found = find_devices(False, environment=open_environment, driver=lambda: shown, build=build)
    except UmlError as error:
        says, _, todo = str(error).rpartition(": ")
        return problem("driver", says, todo)
    return _agreement(shown, found, build)


def check_gpus(gpus: Sequence[Gpu], architectures: Sequence[str], environment: Mapping[str, str]) -> Finding:
    """Names, memory, and whether torch has code for them.

    Args:
        gpus: of the driver.
        architectures: of torch; where it tells none, they are not compared.
        environment: of this process: GPUs that it hides are left out.
    """
    ids = visible_ids(environment.get(VISIBLE), tuple(gpu.uuid for gpu in gpus))
    seen = [
        (index, gpu)
        for index, gpu in enumerate(gpus)
        if str(index) in ids or any(one.startswith("GPU-") and gpu.uuid.startswith(one) for one in ids)
    ]
    if not seen:
        return ok("GPUs", f"{len(gpus)}, all hidden" if gpus else "none")
    for index, gpu in seen:
        if architectures and not has_code(gpu.capability, architectures):
            says = f"torch has no code for GPU {index}, {gpu.name}, capability {gpu.capability[0]}.{gpu.capability[1]}"
            return problem("GPUs", f"{says}: it has {' '.join(architectures)}", f"hide it by {VISIBLE}, or pass --cpu")
    says = "; ".join(
        f"{index}: {gpu.name}, {gpu.free / GIBIBYTE:.0f} of {gpu.memory / GIBIBYTE:.0f} GiB free" for index, gpu in seen
    )
    if any(gpu.free < gpu.memory / 2 for _, gpu in seen):
        return note("GPUs", f"in use by others: {says}", f"see nvidia-smi; choose others by {VISIBLE}")
    return ok("GPUs", says)


def check_hidden(environment: Mapping[str, str], gpus: int) -> Finding:
    """Variables by which training leaves GPUs alone.

    Args:
        environment: of this process.
        gpus: that the driver shows.
    """
    visible = environment.get(VISIBLE)
    if gpus and environment.get(ACCELERATOR) == "cpu":
        says = f"{ACCELERATOR}=cpu: training leaves {gpus} GPUs alone and runs on CPU processes"
        return note("GPU variables", says, f"unset {ACCELERATOR}, unless that is meant")
    if gpus and visible is not None and (not visible.strip() or visible.strip().startswith("-1")):
        says = f"{VISIBLE} is {visible.strip() or 'empty'}: training leaves {gpus} GPUs alone and runs on CPU processes"
        return note("GPU variables", says, f"unset {VISIBLE}, unless that is meant")
    return ok("GPU variables", f"{VISIBLE}={visible}" if gpus and visible is not None else "none hides a GPU")


def has_code(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Whether code for these architectures runs on a GPU: same major and no newer minor, or portable and no newer."""
    for architecture in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", architecture)
        if match is None:
            continue
        built = (int(match[2]), int(match[3]))
        # Code of an "a" architecture runs on that one alone.
        if architecture.endswith("a") and built != capability:
            continue
        if built <= capability and (match[1] == "compute" or built[0] == capability[0]):
            return True
    return False


def _agreement(shown: Driver, found: Devices, build: Callable[[], TorchBuild]) -> Finding:
    driver = f"driver {shown.version} runs CUDA {shown.cuda} at most"
    if found.kind == "cpu":
        return note("driver", f"{driver}; its {len(shown.uuids)} GPUs are hidden: see GPU variables")
    torch = build()
    return ok("driver", f"{driver}, torch is built for {torch.cuda} and uses {found.count} of {len(shown.uuids)} GPUs")
