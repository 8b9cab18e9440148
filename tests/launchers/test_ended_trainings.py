"""Real trainings that are stopped, lose their launcher, or meet another training in their folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from uml_dist.errors import UmlError
from uml_dist.run.maintenance import prune_run
from uml_dist.run.owner import LOCK, OWNER
from worlds import free_port

pytestmark = pytest.mark.launch

TRAIN = Path(__file__).parents[2] / "launchers" / "train.py"
DEEPSPEED = ("-m", "deepspeed.launcher.runner", "--master_port", str(free_port()))
SETTINGS = ["model.width=0.0625", "train.log_every=1", "data.workers=0", "metrics.enabled=false"]


def command(launcher: tuple[str, ...], shards: Path, run: Path) -> list[str]:
    length = ["train.steps=100000", "train.validate_every=100000", "checkpoint.every=2"]
    settings = [f"streams.train.shards={shards}", "streams.train.count=4", *SETTINGS, *length]
    return [sys.executable, *launcher, str(TRAIN), "--num_gpus", "2", "--cpu", "--run", str(run), *settings]


@pytest.fixture
def training(partly_known, tmp_path):
    """Return a function that starts a training with some launcher and waits for its third step."""
    run, started = tmp_path / "run", []

    def start(*launcher: str) -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("wb") as log:
            started.append(subprocess.Popen(command(launcher, partly_known, run), stdout=log, stderr=log))
        deadline = time.monotonic() + 120
        while "step 3/" not in (tmp_path / "log").read_text():
            assert started[0].poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return started[0]

    yield start
    for process in processes_of(run):
        process.kill()
    for process in started:
        process.wait()


def wait_for_odd_step(run: Path) -> None:
    """Wait until status.json has the step of a log line, which is not that of a checkpoint."""
    deadline = time.monotonic() + 60
    while json.loads((run / "status.json").read_text())["step"] % 2 == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def processes_of(run: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if str(run) in (process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def test_a_second_training_is_refused_and_a_killed_launcher_ends_all_ranks(training, partly_known, tmp_path):
    run = tmp_path / "run"
    front = training(*DEEPSPEED)
    wait_for_odd_step(run)
    files = {path.name for path in run.iterdir() if not path.name.endswith(".tmp")}
    second = subprocess.run(command((), partly_known, run), capture_output=True, text=True)
    owner = json.loads((run / OWNER).read_text())["process"]
    assert second.returncode == 2
    assert second.stdout == ""
    assert second.stderr.count("\n") == 1
    assert second.stderr.startswith(f"error: run folder {run} is in use by process {owner} on ")
    with pytest.raises(UmlError, match=f"is in use by process {owner}"):
        prune_run(run, 1)
    left = {path.name for path in run.iterdir() if not path.name.endswith(".tmp")}
    assert left == files > {LOCK, OWNER}

    front.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while processes_of(run):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    status = json.loads((run / "status.json").read_text())
    assert (status["status"], status["reason"]) == ("failed", f"the launcher (process {front.pid}) has ended")
    assert f"error: the launcher (process {front.pid}) has ended: repeat the command" in (tmp_path / "log").read_text()
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))
    prune_run(run, 1)  # the folder is free


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_one_line_and_exit_code_75(training, tmp_path, number):
    process = training()
    if number == signal.SIGINT:  # as a terminal sends it, to every process
        for one in processes_of(tmp_path / "run"):
            os.kill(one.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(60) == 75
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    # The launcher passes Ctrl-C on as SIGTERM, which may arrive first.
    assert status["status"] == "stopped"
    assert status["reason"] in {f"stopped by {number.name}", "stopped by SIGTERM"}
    log = (tmp_path / "log").read_text()
    last = log.splitlines()[-1]
    assert last == f"{status['reason']} at step {status['step']}: repeat the command to resume run {tmp_path}/run"
    assert "Traceback" not in log
    assert processes_of(tmp_path / "run") == []
