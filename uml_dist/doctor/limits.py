"""Limits of the process: open files, memory, cores."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

from .finding import Finding, note, ok, problem

OPEN_FILES = 1024
WORKER = 2 * 10**9  # bytes of a worker and its readers, from launchers/README.md
LEAST = 10**9  # bytes of the smallest training: a process on the CPU, compact profile
SYSTEM = Path("/")


@dataclass(frozen=True)
class Memory:
    """Bytes that this process may still take, and what sets the end: "the machine" or "its cgroup"."""

    available: int
    bound: str


def read_open_files() -> tuple[int, int]:
    """The soft and the hard limit of open files."""
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)


def check_open_files(soft: int, hard: int) -> Finding:
    """How many files and sockets a process may hold open; negative is without limit."""
    if 0 <= soft < OPEN_FILES:
        reachable = hard < 0 or hard >= OPEN_FILES
        todo = "ulimit -n 4096" if hard < 0 or hard >= 4096 else f"ulimit -n {hard}"
        todo = todo if reachable else f"ask for a hard limit of {OPEN_FILES} (limits.conf, docker --ulimit nofile=4096)"
        return problem("open files", f"{soft} at most, {OPEN_FILES} are needed", todo)
    return ok("open files", "no limit" if soft < 0 else f"{soft} at most")


def read_memory(system: Path = SYSTEM) -> Memory:
    """What the machine has available and what the cgroups of this process leave, whichever is less.

    Args:
        system: the root below which proc and sys/fs/cgroup are.

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
                # Pages of files are given back when memory is short.
                left = int(limit - usage + _field(group / "memory.stat", cached_name))
                if left < least.available:
                    least = Memory(max(left, 0), "its cgroup")
    return least


def check_memory(memory: Memory, workers: int) -> Finding:
    """Whether the memory is enough for a worker on each GPU, or for two on the CPU.

    Args:
        memory: that may still be taken.
        workers: that training would start.
    """
    says = f"{memory.available / 1e9:.1f} GB available ({memory.bound} bounds it)"
    todo = "end other programs, ask the scheduler or container for more, or take fewer workers (--num_gpus)"
    if memory.available < LEAST:
        return problem("memory", f"{says}: less than the {LEAST / 1e9:.0f} GB of a single worker", todo)
    if memory.available < workers * WORKER:
        return note("memory", f"{says}: {workers} workers take up to {workers * WORKER / 1e9:.0f} GB", todo)
    return ok("memory", f"{says}: enough for {memory.available // WORKER} workers of {WORKER / 1e9:.0f} GB")


def read_quota(system: Path = SYSTEM) -> float:
    """How many cores the cgroups of this process pay for; infinite without a quota."""
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
    """Cores that may be kept busy at once, at least one."""
    return max(1, math.floor(min(allowed, quota)))


def check_cores(allowed: int, quota: float, total: int, gpus: int) -> Finding:
    """The cores that this process may use beside those of the machine.

    Args:
        allowed: by its affinity.
        quota: of its cgroups, in cores.
        total: of the machine.
        gpus: on which training is meant to run.
    """
    usable = usable_cores(allowed, quota)
    says = f"{usable} of {total} may be used"
    todo = "ask for more: --cpus-per-task (SLURM), --cpus (docker)"
    if gpus and usable < 2 * gpus:
        return note("cores", f"{says}: readers of {gpus} GPUs want at least {2 * gpus}", todo)
    if usable < total:
        cause = "a quota" if quota < allowed else "the affinity"
        return note("cores", f"{says}: {cause} bounds them", f"if you need more, {todo}")
    return ok("cores", says)


def _groups(system: Path, controller: str) -> list[Path]:
    """The cgroup of this process and those above it, of version 1 and 2; not all need be there."""
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
    """The number in a file; infinite for "max" and for a file that is not there."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return math.inf


def _field(path: Path, name: str) -> int:
    """A line `name number` of a file, 0 where there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0)


def cpu_affinity() -> int:
    """Cores on which this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
