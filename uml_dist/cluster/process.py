"""Programs that the check calls: their words in a log, a limit of time, and nothing left behind."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UmlError

LIMIT_SECONDS = 300.0
"""A training takes 10 to 30 s, nearly all of it the start of its processes, and 105 s on two busy cores (measured)."""

ENVIRONMENT = {"NVIDIA_TF32_OVERRIDE": "0"}
"""Tensor cores would round to 10 bits, differently for each number of images per rank."""


@dataclass(frozen=True)
class Ended:
    """How a program ended: what went wrong, if anything, and whether it did not end by itself."""

    problem: str | None = None
    hung: bool = False


def run_process(
    command: Sequence[str], log: Path, limit: float = LIMIT_SECONDS, variables: Mapping[str, str] | None = None
) -> Ended:
    """Run a program with its output in a log; it and all that it started are gone afterwards.

    Args:
        command: the program and its arguments.
        log: file for all that it prints.
        limit: seconds after which it is ended.
        variables: of its environment, besides this process's and `ENVIRONMENT`.

    Raises:
        UmlError: it ended with exit code 2, which says that the user must change something.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        environment = {**os.environ, **ENVIRONMENT, **(variables or {})}
        # A session of its own, so that its ranks can be ended with it.
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
        raise UmlError(f"{_said(log)} ({log})")
    return Ended(f"ended with code {code}: see {log}") if code else Ended()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a process and its children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _said(log: Path) -> str:
    """The error that a program ended with."""
    lines = log.read_text(errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else (lines[-1] if lines else "it ended with code 2 and said nothing")
