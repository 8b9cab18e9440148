"""Real trainings on two CPU processes that tests let end, and what must hold then."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from uml_dist.run.checkpoint import latest_valid
from uml_dist.run.checkpoint_folder import step_of

TRAIN = Path(__file__).parents[2] / "launchers" / "train.py"
SETTINGS = ("model.width=0.0625", "train.log_every=1", "data.workers=1", "metrics.enabled=false")


def command(launcher: Sequence[str], shards: Path, run: Path) -> list[str]:
    """The command of a training without end, by a launcher or by ours."""
    length = ["train.steps=100000", "train.validate_every=100000", "checkpoint.every=2"]
    settings = [f"streams.train.shards={shards}", "streams.train.count=4", *SETTINGS, *length]
    return [sys.executable, *launcher, str(TRAIN), "--num_gpus", "2", "--cpu", "--run", str(run), *settings]


@contextmanager
def started(
    shards: Path, run: Path, launcher: Sequence[str] = (), settings: Sequence[str] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A training in a session of its own after its third step, whose output goes to `log` beside the run folder."""
    path = run.with_name("log")
    with path.open("wb") as log:
        words = [*command(launcher, shards, run), *settings]
        process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while "step 3/" not in path.read_text():
            assert process.poll() is None, path.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield process
    finally:
        for one in processes_of(run):
            one.kill()
        process.wait()


def processes_of(run: Path) -> list[psutil.Process]:
    """The living processes that have the run folder among their arguments."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if str(run) in (process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def ranks_of(run: Path) -> list[psutil.Process]:
    """The ranks of a training, by their number."""
    found = {}
    for process in processes_of(run):
        environment = process.environ()
        # Loader workers have the environment of their rank.
        if "LOCAL_RANK" in environment and psutil.Process(process.ppid()).environ().get("LOCAL_RANK") is None:
            found[int(environment["LOCAL_RANK"])] = process
    return [found[rank] for rank in sorted(found)]


def wait_for(happened: Callable[[], bool], seconds: float) -> None:
    """Wait until something happens; fail if it does not in time."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def wait_until_all_are_gone(run: Path) -> None:
    """Wait until no process of a training lives."""
    wait_for(lambda: not processes_of(run), 20)


def check_stop(run: Path, tracebacks: int = 0) -> dict[str, Any]:
    """Check that the training has stopped after a step with its checkpoint; return status.json.

    Args:
        run: its folder.
        tracebacks: how many its log has, all of DeepSpeed's front end.
    """
    status = json.loads((run / "status.json").read_text())
    assert status["status"] == "stopped"
    checkpoint, problem = latest_valid(run / "checkpoints")
    assert (step_of(checkpoint), problem) == (status["step"], None)
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, status["step"] + 1))
    log = run.with_name("log").read_text()
    assert f"{status['reason']} at step {status['step']}: repeat the command to resume run {run}\n" in log
    assert log.count("Traceback") == log.count('deepspeed/launcher/runner.py", line') // 2 == tracebacks
    return status
