"""A signal ends a rank with the exit code of a stop, and a launcher that it reaches as well."""

import signal
import subprocess
import sys

import pytest

RANK = """
import os, signal, sys, time
from uml_dist.launch import stop_on_signals
stop_on_signals(lambda name: os.write(1, name.encode()) and sys.argv[1:] != ["later"])
if sys.argv[1:] == ["fork"]:
    if os.fork() == 0:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(600)
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
os.write(1, b"ready ")
time.sleep(600)
"""
NODE = """
import logging, signal, sys, time
from types import SimpleNamespace
def main():
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    print("ready", flush=True)
    time.sleep(600 if sys.argv[1] == "wait" else 0)
    sys.exit(5)
sys.modules["deepspeed"] = sys.modules["deepspeed.launcher"] = SimpleNamespace(
    launch=SimpleNamespace(main=main, logger=logging.getLogger("deepspeed"))
)
from uml_dist.launch import node
sys.exit(node.main())
"""


def start(program: str, *arguments: str, **options) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, **options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_reported_and_ends_the_process_with_75(number):
    process = start(RANK, stderr=subprocess.PIPE)
    assert process.stdout.read(6) == b"ready "
    process.send_signal(number)
    assert process.communicate(timeout=60) == (number.name.encode(), b"")
    assert process.returncode == 75


def test_the_process_goes_on_if_it_is_to_end_later():
    process = start(RANK, "later")
    assert process.stdout.read(6) == b"ready "
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.read(7) == b"SIGUSR1"
    process.send_signal(signal.SIGINT)
    assert process.stdout.read(6) == b"SIGINT"
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_a_forked_process_ends_without_a_report():
    process = start(RANK, "fork")
    assert process.communicate(timeout=60)[0] == b""
    assert process.returncode == 75


def test_a_signal_that_is_ignored_stays_ignored():
    process = start(RANK, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    assert process.stdout.read(6) == b"ready "
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == b"SIGTERM"


NODE_WITH_RANK = NODE.replace(
    'print("ready", flush=True)',
    """import subprocess
    rank = "import signal, sys; signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75)); print('ready', flush=True)"
    sys.exit(subprocess.Popen([sys.executable, "-c", rank + "; signal.pause()"]).wait())""",
)


def test_the_launcher_passes_a_warning_signal_on():
    process = start(NODE_WITH_RANK, "wait")
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 75


@pytest.mark.parametrize(("what", "code"), [("wait", 75), ("end", 5)])
def test_the_launcher_ends_with_75_if_it_is_stopped_and_with_the_code_of_the_ranks_otherwise(what, code):
    process = start(NODE, what)
    assert process.stdout.readline() == b"ready\n"
    if what == "wait":
        process.terminate()
    assert process.wait(60) == code
