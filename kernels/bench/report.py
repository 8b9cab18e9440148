"""Files of measured figures, and the machine and versions that the figures depend on."""

import csv
import datetime
import os
import platform
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
COLUMNS: tuple[str, ...] = (
    "kernel", "provider", "mode", "classes", "dtype", "layout", "batch", "height", "width", "metric", "unit",
    "p20", "p50", "p80", "limit", "device", "driver", "torch", "triton", "date", "commit",
)  # fmt: skip
"""Columns of every measured figure; `measured` fills them."""


@cache
def stamp() -> dict[str, str]:
    """Return date and commit; a "+" after the commit means that files were modified."""
    return {"date": datetime.date.today().isoformat(), "commit": _commit()}


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=RESULTS.parent, capture_output=True, text=True, check=False, timeout=20
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "--short", "HEAD")
        return commit + ("+" if commit and git("status", "--porcelain", "--", "..") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


@cache
def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or of the processor with torch's threads and the load."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    name = next(named, platform.processor() or platform.machine())
    return f"{name}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}"


@cache
def _driver() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return (
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
            .stdout.splitlines()[0]
            .strip()
        )
    except (OSError, subprocess.SubprocessError, IndexError):
        return ""


@cache
def _triton() -> str:
    try:
        import triton
    except ImportError:
        return ""
    return triton.__version__


def measured(device: torch.device, values: Sequence[float], **words: Any) -> dict[str, Any]:
    """Return a row of `COLUMNS`: percentiles of the values, and where and when they were measured."""
    ordered = sorted(values)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    row = {
        **words,
        "p20": at(0.2),
        "p50": at(0.5),
        "p80": at(0.8),
        "device": device_name(device),
        "driver": _driver() if device.type == "cuda" else "",
        "torch": torch.__version__,
        "triton": _triton(),
        **stamp(),
    }
    return {key: row.get(key, "") for key in COLUMNS}


def default_folder() -> Path:
    """Return the folder of the results if --out is not given: $OUT if set, else `RESULTS`."""
    return Path(os.environ["OUT"]) if os.environ.get("OUT") else RESULTS


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a CSV file with the first row's columns and floats with 5 digits; replace an existing file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.part")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()})
    temporary.replace(path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read rows of `COLUMNS` that `write_rows` wrote; return no rows if the file does not exist."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        row.update({name: float(row[name]) for name in ("p20", "p50", "p80")})
        row.update({name: int(row[name]) for name in ("classes", "batch", "height", "width")})
    return rows


class Progress:
    """File of the tasks that a measurement has started; a resumed measurement skips them, including what crashed.

    Args:
        path: path of the file.
        resume: whether to skip the tasks that the file contains; otherwise it is emptied.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._known = set(path.read_text(encoding="utf-8").splitlines()) if resume and path.exists() else set()
        if not resume:
            path.write_text("", encoding="utf-8")

    def begin(self, name: str) -> bool:
        """Record the start of a task; return False if it was started before."""
        if name in self._known:
            return False
        with self._path.open("a", encoding="utf-8") as file:
            file.write(name + "\n")
        return True
