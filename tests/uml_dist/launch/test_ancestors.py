"""Ranks notice that one of their launchers has ended."""

import queue
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from uml_dist.launch.ancestors import LAUNCHER, launchers_of, watch_launchers

SCRIPT = """
import subprocess
import sys
import time

from uml_dist.launch import watch_launchers

if sys.argv[1] == "0":
    def ended(reason):
        print(reason, flush=True)
        import os
        os._exit(7)

    watch_launchers(ended)
    print("rank", flush=True)
else:
    subprocess.Popen([sys.executable, sys.argv[0], str(int(sys.argv[1]) - 1)])
time.sleep(600)
"""


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def chain(tmp_path):
    """Start a rank below a node launcher and a front end, which a shell has started; return the shell and the rest."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    # The shell has the script within an argument only.
    shell = ["sh", "-c", f"{sys.executable} {script} 2; true"]
    process = subprocess.Popen(shell, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "rank\n"
    family = sorted(psutil.Process(process.pid).children(recursive=True), key=lambda one: one.cmdline()[-1])
    yield process, family
    for one in [psutil.Process(process.pid), *family] if process.poll() is None else family:
        if one.is_running():
            one.kill()
    process.wait()


@pytest.mark.parametrize("killed", [1, 2], ids=["node launcher", "front end"])
def test_a_rank_ends_when_any_of_its_launchers_is_killed(chain, killed):
    shell, family = chain
    rank = family[0]
    family[killed].kill()
    assert shell.stdout.readline() == f"the launcher (process {family[killed].pid}) has ended\n"
    deadline = time.monotonic() + 20
    while alive(rank):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_rank_whose_launcher_ended_before_it_looked_ends_at_once(monkeypatch):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    monkeypatch.setenv(LAUNCHER, str(gone.pid))
    reasons = queue.Queue()
    watch_launchers(reasons.put, "no script")
    assert reasons.get(timeout=60) == f"the launcher (process {gone.pid}) has ended"


def test_a_shell_that_started_the_launcher_may_end(chain):
    _, family = chain
    script = Path(family[0].cmdline()[1])
    assert launchers_of(family[0], str(script)) == [family[1], family[2]]
    assert launchers_of(family[0], "another.py") == []
