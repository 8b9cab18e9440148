"""Runs the programs of a check with a log file and a time limit, and leaves no processes behind."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UmlError

LIMIT_SECONDS = 300.0
"""A training run takes 10 to 30 s, nearly all of it to start its processes, and 105 s on two busy cores (measured)."""

ENVIRONMENT = {"NVIDIA_TF32_OVERRIDE": "0"}
"""Disables TF32: tensor cores would round to 10 bits, differently for each number of images per rank."""


@dataclass(frozen=True)
class Ended:
    """How a program ended: the problem, if any, and whether it exceeded the time limit."""

    problem: str | None = None
    hung: bool = False


def run_process(
    command: Sequence[str], log: Path, limit: float = LIMIT_SECONDS, variables: Mapping[str, str] | None = None
) -> Ended:
    """Run a program with its output in a log file; then end the program and all processes that it started.

    Args:
        command: the program and its arguments.
        log: file for its output.
        limit: seconds after which it is killed.
        variables: environment variables, in addition to this process's and `ENVIRONMENT`.

    Raises:
        UmlError: it ended with exit code 2, which means that the user must change something.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        environment = {**os.environ, **ENVIRONMENT, **(variables or {})}
        # In a separate session, so that its ranks can be killed with it.
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True, env=environment
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            return Ended(f"did not end within {limit:.0f} s: see {log}", hung=True)
        finally:
            _end_group(process)
    if code == 2:
        raise UmlError(f"{_last_error(log)} ({log})")
    return Ended(f"ended with code {code}: see {log}") if code else Ended()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a process and its children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _last_error(log: Path) -> str:
    """Return the error with which a program ended."""
    lines = log.read_text(errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else (lines[-1] if lines else "it ended with code 2 and printed nothing")
