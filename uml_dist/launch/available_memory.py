"""The memory that a process may still allocate, on its machine and within its cgroups."""

import math
from dataclasses import dataclass
from pathlib import Path

SYSTEM = Path("/")


@dataclass(frozen=True)
class Memory:
    """Bytes that this process may still allocate, and what limits them: "the machine" or "its cgroup"."""

    available: int
    bound: str


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
    for group in groups_of(system, "memory"):
        for limit_name, usage_name, cached_name in kinds:
            limit, usage = number_in(group / limit_name), number_in(group / usage_name)
            if math.isfinite(limit) and math.isfinite(usage):
                # The kernel reclaims cached pages of files when memory is short.
                left = int(limit - usage + _field(group / "memory.stat", cached_name))
                if left < least.available:
                    least = Memory(max(left, 0), "its cgroup")
    return least


def groups_of(system: Path, controller: str) -> list[Path]:
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


def number_in(path: Path) -> float:
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
