"""Checks the limits of the process: open files, memory and cores."""

import math
import os
from pathlib import Path

from ..launch.available_memory import SYSTEM, Memory, groups_of, number_in
from ..launch.resources import UNLIMITED_FILES
from .finding import Finding, note, ok, problem

OPEN_FILES = 1024
WORKER = 2 * 10**9  # bytes per worker with its readers, from launchers/README.md
LEAST = 10**9  # bytes of the smallest training: a process on the CPU, compact profile


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
    for group in groups_of(system, "cpu"):
        new = group / "cpu.max"
        if new.is_file():
            amount, _, period = new.read_text().partition(" ")
            quota = min(quota, math.inf if amount == "max" else int(amount) / int(period))
        amount, period = number_in(group / "cpu.cfs_quota_us"), number_in(group / "cpu.cfs_period_us")
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


def cpu_affinity() -> int:
    """Return the number of cores on which this process may run."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
