"""Compiles in several processes what one process will then measure, to use all cores while time is limited.

Each task is exactly the call that will be measured, so that the caches on disk contain what it needs. The processes end
before anything is timed.
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
        name: the same in all processes.
        run: function that returns a JSON-serialisable result or None.
    """

    name: str
    run: Callable[[], Any]


def do_tasks(tasks: Iterable[Task], folder: Path, device: torch.device) -> int:
    """Run the tasks that no other process has claimed; return an exit code."""
    claims = folder / "claims"
    for number, task in enumerate(tasks):
        if not take(claims, number):
            continue
        try:
            line = {"name": task.name, "result": task.run()}
        except Exception as error:  # any error of the compiler or the GPU: the other tasks can still run
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
        script: script that calls `do_tasks` when it is run with --ahead and a folder.
        words: other arguments of the script.
        folder: folder of the results and the processes' output.
        seconds: time after which the processes are stopped.
        processes: number of processes.

    Returns:
        Results and errors by task name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, script, *words, "--ahead", str(folder)]
    work_together(command, processes, seconds, folder / "claims", folder, _environment())
    lines = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    results = {line["name"]: line["result"] for line in lines if "result" in line}
    return results, {line["name"]: line["error"] for line in lines if "error" in line}


def _environment() -> dict[str, str]:
    # One thread each, because there are as many processes as cores
    return os.environ | {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
