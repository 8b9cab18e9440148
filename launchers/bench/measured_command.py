"""Runs a command, and measures the time and the memory that it and all its children use.

Linux counts the memory of the process that starts a command as the command's own. So this file is also a program: a
small process between a large one, which has evaluated a run before, and the command.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Used(NamedTuple):
    """What a command and its children have used: user and system time, and the peak memory of the largest process."""

    processor_seconds: float
    peak_gigabytes: float


def run_measured(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, Used | None]:
    """Run a command; return its exit code and what it has used, None if it could not be measured."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "used.json"
        with subprocess.Popen([sys.executable, __file__, str(report), *command], env=environment) as process:
            try:
                code = process.wait()
            except BaseException:  # such as Ctrl-C, which the command receives as well
                process.terminate()
                raise
        return code, Used(*json.loads(report.read_text())) if report.is_file() else None


def main(report: str, *command: str) -> int:
    """Run a command and write what it has used; return its exit code, or 1 if a signal has ended it."""
    signal.signal(signal.SIGINT, lambda *_: None)  # the command decides what Ctrl-C does
    process = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: process.kill())
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    Path(report).write_text(json.dumps([used.ru_utime + used.ru_stime, 1024 * used.ru_maxrss / 1e9]))
    return process.returncode if process.returncode >= 0 else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
