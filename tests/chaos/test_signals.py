"""Every signal that asks a training to stop, sent to every process that may get it."""

import os
import signal
from pathlib import Path

import psutil
import pytest

from ended import check_stop, processes_of, ranks_of, started, wait_until_all_are_gone
from worlds import free_port

pytestmark = [pytest.mark.chaos, pytest.mark.fault]

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
DEEPSPEED = ("-m", "deepspeed.launcher.runner", "--master_port")
WHO = ("front end", "launch.py", "our launcher", "one rank", "the group")


def victim_of(who: str, front: psutil.Process, run: Path) -> psutil.Process:
    first = ranks_of(run)[0]
    ours = psutil.Process(first.ppid())
    return {"front end": front, "launch.py": psutil.Process(ours.ppid()), "our launcher": ours, "one rank": first}[who]


def ports() -> dict[int, int]:
    """The ports on which somebody listens, and by which process."""
    return {one.laddr.port: one.pid or 0 for one in psutil.net_connections() if one.status == psutil.CONN_LISTEN}


@pytest.mark.parametrize("number", SIGNALS, ids=[number.name for number in SIGNALS])
@pytest.mark.parametrize("who", WHO)
def test_a_signal_stops_all_processes_with_a_checkpoint_and_leaves_nothing(who, number, partly_known, tmp_path):
    run = tmp_path / "run"
    with started(partly_known, run, (*DEEPSPEED, str(free_port()))) as training:
        own = {process.pid for process in processes_of(run)}
        listening = {port for port, process in ports().items() if process in own}
        assert listening
        if who == "the group":
            os.killpg(training.pid, number)
        else:
            victim_of(who, psutil.Process(training.pid), run).send_signal(number)
        wait_until_all_are_gone(run)
    # DeepSpeed's front end does not catch Ctrl-C.
    check_stop(run, tracebacks=int(number == signal.SIGINT and who in ("front end", "the group")))
    assert not listening & set(ports())
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    assert not [name for name in names if any(f"_{process}_" in name for process in own)]


@pytest.mark.parametrize("number", SIGNALS, ids=[number.name for number in SIGNALS])
def test_our_own_launcher_ends_with_exit_code_75(number, partly_known, tmp_path):
    with started(partly_known, tmp_path / "run") as training:
        training.send_signal(number)
        assert training.wait(60) == 75
        wait_until_all_are_gone(tmp_path / "run")
    check_stop(tmp_path / "run")
