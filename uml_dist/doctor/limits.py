"""Checks the limits of the process: open files, memory and cores."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from ..launch.resources import UNLIMITED_FILES
from .finding import Finding, note, ok, problem

OPEN_FILES = 1024
WORKER = 2 * 10**9  # bytes per worker with its readers, from launchers/README.md
LEAST = 10**9  # bytes of the smallest training: a process on the CPU, compact profile
SYSTEM = Path("/")


@dataclass(frozen=True)
class Memory:
    """Bytes that this process may still allocate, and what limits them: "the machine" or "its cgroup"."""

    available: int
    bound: str


def check_open_files(soft: int, hard: int) -> Finding:
    """Check how many files and sockets a process may hold open; a negative value means no limit.

    Args:
        soft: the limit that processes start with; training raises it to the hard one.
        hard: the largest limit that a process can set itself.
    """
    if 0 <= hard < OPEN_FILES:
        remedy = f"request a hard limit of {OPEN_FILES} (limits.conf, docker --ulimit nofile=4096)"
        return problem("open files", f"limit is {hard}, {OPEN_FILES} are needed", remedy)
    raised = "" if soft == hard or soft < 0 else f", which training raises to {hard if hard >= 0 else UNLIMITED_FILES}"
    return ok("open files", "no limit" if soft < 0 else f"limit is {soft}{raised}")


def read_memory(system: Path = SYSTEM) -> Memory:
    """Return the memory available on the machine or within the cgroups of this process, whichever is less.

    Args:
        system: root folder of proc and sys/fs/cgroup.

    Raises:
        OSError: there is no /proc/meminfo.
    """
    lines = (system / "proc/meminfo").read_text().splitlines()
    values = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    least = Memory(values["MemAvailable"], "the machine")
    kinds = (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    )
    for group in _groups(system, "memory"):
        for limit_name, usage_name, cached_name in kinds:
            limit, usage = _number(group / limit_name), _number(group / usage_name)
            if math.isfinite(limit) and math.isfinite(usage):
                # The kernel reclaims cached pages of files when memory is short.
                left = int(limit - usage + _field(group / "memory.stat", cached_name))
                if left < least.available:
                    least = Memory(max(left, 0), "its cgroup")
    return least


def check_memory(memory: Memory, workers: int) -> Finding:
    """Check whether the memory suffices for a worker on each GPU, or for two on the CPU.

    Args:
        memory: available memory.
        workers: number of workers that training would start.
    """
    message = f"{memory.available / 1e9:.1f} GB available (limited by {memory.bound})"
    remedy = "close other programs, request more from the scheduler or container, or use fewer workers (--num_gpus)"
    if memory.available < LEAST:
        return problem("memory", f"{message}: less than the {LEAST / 1e9:.0f} GB of a single worker", remedy)
    if memory.available < workers * WORKER:
        return note("memory", f"{message}: {workers} workers take up to {workers * WORKER / 1e9:.0f} GB", remedy)
    return ok("memory", f"{message}: enough for {memory.available // WORKER} workers of {WORKER / 1e9:.0f} GB")


def read_quota(system: Path = SYSTEM) -> float:
    """Return the CPU quota of this process's cgroups, in cores; infinite without a quota."""
    quota = math.inf
    for group in _groups(system, "cpu"):
        new = group / "cpu.max"
        if new.is_file():
            amount, _, period = new.read_text().partition(" ")
            quota = min(quota, math.inf if amount == "max" else int(amount) / int(period))
        amount, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
        if math.isfinite(amount) and math.isfinite(period) and amount > 0:
            quota = min(quota, amount / period)
    return quota


def usable_cores(allowed: int, quota: float) -> int:
    """Return the number of cores that can be busy at the same time, at least 1."""
    return max(1, math.floor(min(allowed, quota)))


def check_cores(allowed: int, quota: float, total: int, gpus: int) -> Finding:
    """Compare the cores that this process may use with those of the machine.

    Args:
        allowed: cores in the process's affinity mask.
        quota: quota of its cgroups, in cores.
        total: cores of the machine.
        gpus: number of GPUs that training would use.
    """
    usable = usable_cores(allowed, quota)
    message = f"{usable} of {total} can be used"
    remedy = "request more cores: --cpus-per-task (SLURM), --cpus (docker)"
    if gpus and usable < 2 * gpus:
        return note("cores", f"{message}: readers of {gpus} GPUs need at least {2 * gpus}", remedy)
    if usable < total:
        cause = "a quota" if quota < allowed else "the CPU affinity"
        return note("cores", f"{message}: limited by {cause}", f"if needed, {remedy}")
    return ok("cores", message)


def _groups(system: Path, controller: str) -> list[Path]:
    """Return the folders of this process's cgroup and its parents, for versions 1 and 2; some may not exist."""
    base = system / "sys/fs/cgroup"
    found: list[Path] = []
    groups = system / "proc/self/cgroup"
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = base / controllers if controllers else base
        if controllers and not root.is_dir():
            root = base / controller
        inner = root / path.lstrip("/")
        above = [inner, *inner.parents]
        found += above[: above.index(root) + 1]
    return found


def _number(path: Path) -> float:
    """Return the number in a file; infinite for "max" and for a missing file."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return math.inf


def _field(path: Path, name: str) -> int:
    """Return the number in a line `name number` of a file; 0 if there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)


def cpu_affinity() -> int:
    """Return the number of cores on which this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
