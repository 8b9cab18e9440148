"""Checks the NVIDIA driver against torch's CUDA version, and the GPUs themselves."""

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
    """A GPU as reported by the driver: name, UUID, compute capability such as (8, 0), total and free in bytes."""

    name: str
    uuid: str
    capability: tuple[int, int]
    memory: int
    free: int


def read_gpus() -> list[Gpu]:
    """Return all GPUs that the driver reports, by index.

    Raises:
        pynvml.NVMLError: the driver does not respond.
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
    """Return the architectures that torch was built for: machine code (sm_90) and portable code (compute_90)."""
    import torch

    return torch.cuda.get_arch_list()


def gpus_on_bus(devices: Path = Path("/sys/bus/pci/devices")) -> int:
    """Count the NVIDIA GPUs on the PCI bus, with or without a driver."""
    count = 0
    for device in devices.glob("*") if devices.is_dir() else ():
        vendor, kind = device / "vendor", device / "class"
        if vendor.is_file() and vendor.read_text().strip() == NVIDIA:
            count += kind.is_file() and kind.read_text().startswith(DISPLAY)
    return count


def count_driver_gpus(driver: Callable[[], Driver | None] = read_driver) -> int:
    """Count the GPUs that the driver reports; 1 if there is a driver that does not respond."""
    try:
        shown = driver()
    except UmlError:
        return 1
    except Exception:  # for example a missing pynvml, which another check reports
        return 0
    return len(shown.uuids) if shown else 0


def usable_gpus(
    environment: Mapping[str, str],
    driver: Callable[[], Driver | None] = read_driver,
    build: Callable[[], TorchBuild] = read_torch,
) -> int:
    """Count the GPUs that training would use; if those present cannot be used, count all of them."""
    try:
        return find_devices(False, environment=environment, driver=driver, build=build).count
    except Exception:
        return count_driver_gpus(driver)


def check_torch(build: Callable[[], TorchBuild] = read_torch) -> Finding:
    """Check whether torch can be imported, and report the CUDA version it was built for."""
    try:
        torch = build()
    except (ImportError, OSError) as error:
        return problem("torch", f"cannot be imported: {error}", "make install, in a separate environment")
    return ok("torch", f"{torch.version}, built {f'for CUDA {torch.cuda}' if torch.cuda else 'without CUDA'}")


def check_driver(
    environment: Mapping[str, str],
    driver: Callable[[], Driver | None] = read_driver,
    build: Callable[[], TorchBuild] = read_torch,
    on_bus: Callable[[], int] = gpus_on_bus,
) -> Finding:
    """Check that the driver and torch fit together, in the same way as training does.

    Args:
        environment: environment variables of this process.
        driver: queries the driver.
        build: queries torch.
        on_bus: counts GPUs on the bus if there is no driver.
    """
    try:
        shown = driver()
        if shown is None or not shown.uuids:
            count = on_bus()
            if count:
                message = f"{count} NVIDIA GPUs are on the bus, but there is no driver: training runs on CPU processes"
                return note("driver", message, "install the NVIDIA driver; start a container with --gpus all")
            return note("driver", "no NVIDIA GPU: training runs on CPU processes")
        # Another check reports variables that hide GPUs on purpose.
        open_environment = {name: value for name, value in environment.items() if name != ACCELERATOR}
        found = find_devices(False, environment=open_environment, driver=lambda: shown, build=build)
    except UmlError as error:
        message, _, remedy = str(error).rpartition(": ")
        return problem("driver", message, remedy)
    return _agreement(shown, found, build)


def check_gpus(gpus: Sequence[Gpu], architectures: Sequence[str], environment: Mapping[str, str]) -> Finding:
    """Report names and memory of the GPUs, and check that torch has code for them.

    Args:
        gpus: the GPUs that the driver reports.
        architectures: torch's architectures; not compared if empty.
        environment: environment variables of this process; GPUs that they hide are left out.
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
            capability = ".".join(map(str, gpu.capability))
            message = f"torch has no code for GPU {index}, {gpu.name}, capability {capability}"
            remedy = f"hide it with {VISIBLE}, or pass --cpu"
            return problem("GPUs", f"{message}: it has {' '.join(architectures)}", remedy)
    message = "; ".join(
        f"{index}: {gpu.name}, {gpu.free / GIBIBYTE:.0f} of {gpu.memory / GIBIBYTE:.0f} GiB free" for index, gpu in seen
    )
    if any(gpu.free < gpu.memory / 2 for _, gpu in seen):
        return note("GPUs", f"in use by others: {message}", f"see nvidia-smi; choose others with {VISIBLE}")
    return ok("GPUs", message)


def check_hidden(environment: Mapping[str, str], gpus: int) -> Finding:
    """Check for variables that keep training from using GPUs.

    Args:
        environment: environment variables of this process.
        gpus: number of GPUs that the driver reports.
    """
    visible = environment.get(VISIBLE)
    if gpus and environment.get(ACCELERATOR) == "cpu":
        message = f"{ACCELERATOR}=cpu: training ignores {gpus} GPUs and runs on CPU processes"
        return note("GPU variables", message, f"unset {ACCELERATOR}, unless this is intended")
    if gpus and visible is not None and (not visible.strip() or visible.strip().startswith("-1")):
        message = f"{VISIBLE} is {visible.strip() or 'empty'}: training ignores {gpus} GPUs and runs on CPU processes"
        return note("GPU variables", message, f"unset {VISIBLE}, unless this is intended")
    return ok("GPU variables", f"{VISIBLE}={visible}" if gpus and visible is not None else "no variable hides a GPU")


def has_code(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Return whether code for these architectures runs on a GPU.

    Machine code needs the same major version and at most the GPU's minor version; portable code at most its version.
    """
    for architecture in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", architecture)
        if match is None:
            continue
        built = (int(match[2]), int(match[3]))
        # Code for an "a" architecture runs on that architecture only.
        if architecture.endswith("a") and built != capability:
            continue
        if built <= capability and (match[1] == "compute" or built[0] == capability[0]):
            return True
    return False


def _agreement(shown: Driver, found: Devices, build: Callable[[], TorchBuild]) -> Finding:
    driver = f"driver {shown.version} supports CUDA {shown.cuda}"
    if found.kind == "cpu":
        return note("driver", f"{driver}; its {len(shown.uuids)} GPUs are hidden: see GPU variables")
    torch = build()
    used = f"uses {found.count} of {len(shown.uuids)} GPUs"
    return ok("driver", f"{driver}, torch is built for CUDA {torch.cuda} and {used}")
