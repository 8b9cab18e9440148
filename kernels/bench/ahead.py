"""Compiles ahead, in several processes, what one process will measure: the cores are many and the time is short.

Each task is the very call that will be measured, so that the caches on disk hold exactly what it needs. The processes
have ended before anything is timed.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from processes import DEVICE_LOST, take, work_together
from timing import usable


class Task(NamedTuple):
    """One task.

    Attributes:
        name: known to all processes alike.
        run: returns what JSON can hold, or nothing.
    """

    name: str
    run: Callable[[], Any]


def do_tasks(tasks: Iterable[Task], folder: Path, device: torch.device) -> int:
    """Do those that no other process has taken; returns an exit code."""
    claims = folder / "claims"
    for number, task in enumerate(tasks):
        if not take(claims, number):
            continue
        try:
            line = {"name": task.name, "result": task.run()}
        except Exception as error:  # whatever the compiler or the GPU objects to: the others can still be done
            traceback.print_exc()
            line = {"name": task.name, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
        temporary = folder / f"{number}.part"
        temporary.write_text(json.dumps(line), encoding="utf-8")
        temporary.replace(folder / f"{number}.json")
        if not usable(device):
            return DEVICE_LOST
        if device.type == "cuda":
            torch.cuda.empty_cache()  # the other processes need it
    return 0


def prepare(
    script: str, words: Sequence[str], folder: Path, seconds: float, processes: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Run a script's tasks in several processes.

    Args:
        script: which calls `do_tasks` where it is given --ahead and a folder.
        words: its other arguments.
        folder: of the results and of what the processes print.
        seconds: after which they are stopped.
        processes: their number.

    Returns:
        Results by name of the task, and errors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, script, *words, "--ahead", str(folder)]
    work_together(command, processes, seconds, folder / "claims", folder, _environment())
    lines = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    results = {line["name"]: line["result"] for line in lines if "result" in line}
    return results, {line["name"]: line["error"] for line in lines if "error" in line}


def _environment() -> dict[str, str]:
    # One thread each: there are as many processes as cores.
    return os.environ | {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
