"""Ranks notice that one of their launchers has ended."""

import os
import queue
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from uml_dist.launch.ancestors import (
    LAUNCHERS,
    launchers_of,
    remember_launchers,
    remember_this_launcher,
    watch_launchers,
)

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
    monkeypatch.setenv(LAUNCHERS, f"{gone.pid}")
    reasons = queue.Queue()
    watch_launchers(reasons.put, "no script")
    assert reasons.get(timeout=60) == f"the launcher (process {gone.pid}) has ended"


def test_the_launchers_of_ranks_are_remembered(monkeypatch):
    environment = {LAUNCHERS: "1,2"}
    remember_launchers(environment, "no script")
    assert environment == {LAUNCHERS: ""}
    monkeypatch.setenv(LAUNCHERS, "123")
    remember_this_launcher()
    remember_this_launcher()  # after a restart, which is in the same process
    assert os.environ[LAUNCHERS] == f"123,{os.getpid()}"


ORPHAN = """
import os
import sys
import time

from uml_dist.errors import UmlError
from uml_dist.launch.ancestors import remember_launchers, watch_launchers

parent = os.getppid()
print("started", flush=True)
while os.getppid() == parent:
    time.sleep(0.01)
print(os.getppid() == 1, flush=True)
try:
    remember_launchers({}, sys.argv[0])
except UmlError as error:
    print(error, flush=True)
watch_launchers(lambda line: print(line, flush=True))
time.sleep(1)
"""


GONE = ["the launcher has ended: repeat the command", "the launcher has ended"]


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["--local_rank=0"], GONE),
        (["deepspeed.launcher.launch", "--enable_each_rank_log=None"], GONE),
        (["deepspeed.launcher.runner", "--enable_each_rank_log=logs"], []),  # started by a shell that has ended
        (["--num_gpus=2"], []),
    ],
)
def test_a_launcher_that_ended_before_anyone_looked_is_noticed(arguments, lines, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ORPHAN)
    starts = f"import subprocess, sys; subprocess.Popen([sys.executable, {str(script)!r}, *{arguments}]); input()"
    launcher = subprocess.Popen(
        [sys.executable, "-c", starts], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert launcher.stdout.readline() == "started\n"
    launcher.kill()
    adopted, *found = launcher.communicate()[0].splitlines()
    if adopted != "True":
        pytest.skip("process 1 does not adopt the children of processes that have ended here")
    assert found == lines


def test_a_shell_that_started_the_launcher_may_end(chain):
    _, family = chain
    script = Path(family[0].cmdline()[1])
    assert launchers_of(family[0], str(script)) == [family[1], family[2]]
    assert launchers_of(family[0], "another.py") == []
