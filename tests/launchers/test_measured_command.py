"""Commands whose time and memory are measured."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import measured_command
from measured_command import run_measured

MEGABYTES = 200
FILL = f"x = bytearray({MEGABYTES}_000_000); x[::4096] = b'1' * len(x[::4096])"


def test_memory_is_that_of_the_largest_child_and_not_of_this_process():
    own = bytearray(MEGABYTES * 1_000_000)
    own[::4096] = b"1" * len(own[::4096])
    code, small = run_measured([sys.executable, "-c", "raise SystemExit(2)"], os.environ)
    assert code == 2
    assert small is not None
    assert small.peak_gigabytes < 0.1
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {FILL!r}])"
    code, large = run_measured([sys.executable, "-c", child], os.environ)
    assert code == 0
    assert large is not None
    assert large.peak_gigabytes > 0.2
    assert large.processor_seconds > 0


def test_a_command_that_a_signal_ends_has_failed():
    code, _ = run_measured(
        [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"], os.environ
    )
    assert code == 1


def test_terminating_it_ends_the_command(tmp_path):
    mark = tmp_path / "mark"
    sleep = f"import pathlib, os, time; pathlib.Path({str(mark)!r}).write_text(str(os.getpid())); time.sleep(600)"
    command = [sys.executable, measured_command.__file__, str(tmp_path / "used"), sys.executable, "-c", sleep]
    with subprocess.Popen(command) as process:
        while not (mark.is_file() and mark.read_text()):
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 1
    assert not Path(f"/proc/{mark.read_text()}").exists()
