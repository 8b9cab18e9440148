"""Real trainings that are stopped, lose their launcher, or meet another training in their folder."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import pytest

from ended import check_stop, command, processes_of, ranks_of, started, wait_until_all_are_gone
from uml_dist.config.faults import ALLOW
from uml_dist.errors import UmlError
from uml_dist.run.maintenance import prune_run
from uml_dist.run.owner import LOCK, OWNER
from worlds import free_port

pytestmark = [pytest.mark.launch, pytest.mark.fault]

DEEPSPEED = ("-m", "deepspeed.launcher.runner", "--master_port", str(free_port()))


@pytest.fixture
def training(partly_known, tmp_path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts a training with some launcher and waits for its third step."""
    with ExitStack() as stack:

        def start(*launcher: str, settings: Sequence[str] = ()) -> subprocess.Popen[bytes]:
            return stack.enter_context(started(partly_known, tmp_path / "run", launcher, settings))

        yield start


def test_a_second_training_is_refused_and_a_killed_launcher_ends_all_ranks(training, partly_known, tmp_path):
    run = tmp_path / "run"
    front = training(*DEEPSPEED)
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
    wait_until_all_are_gone(run)
    status = check_stop(run)
    assert status["reason"] == f"the launcher (process {front.pid}) has ended"
    prune_run(run, 1)  # the folder is free


def test_a_rank_that_was_stopped_is_named_and_ends_the_training(training, tmp_path):
    process, run = training(settings=["faults.step_seconds=10"]), tmp_path / "run"
    rank = ranks_of(run)[1]
    rank.send_signal(signal.SIGSTOP)
    assert process.wait(60) == 1
    status = json.loads((run / "status.json").read_text())
    stacks = run / "faults" / "attempt-1"
    place = f"rank 1 (process {rank.pid} on {socket.gethostname()})"
    reason = f"{place} was stopped (SIGSTOP); stacks in {stacks}"
    assert (status["status"], status["reason"]) == ("failed", reason)
    assert "distributed" in (stacks / "rank-0.stacks.txt").read_text()
    assert f"error: {reason}\n" in (tmp_path / "log").read_text()
    wait_until_all_are_gone(run)


@pytest.mark.chaos
def test_a_training_whose_rank_is_stopped_is_started_again_and_ends_as_if_it_had_not(training, tmp_path, monkeypatch):
    monkeypatch.setenv(ALLOW, "1")
    fault = ["faults.inject.kind=stop", "faults.inject.rank=1", "faults.inject.steps=[6]", "faults.step_seconds=10"]
    process, run = training(settings=["--restarts", "1", "train.steps=12", *fault]), tmp_path / "run"
    assert process.wait(240) == 0
    text = (tmp_path / "log").read_text()
    assert text.count("FAULTS ARE INJECTED (faults.inject): stop on rank 1 in step 6\n") == 2
    assert text.count("INJECTED FAULT: stop on rank 1 in step 6\n") == 1
    assert "was stopped (SIGSTOP); stacks in" in text
    assert (run / "faults" / "attempt-1" / "rank-0.stacks.txt").stat().st_size > 0
    assert text.count("restart 1 of 1 without progress") == text.count("resumed at step") == 1
    assert json.loads((run / "status.json").read_text())["status"] == "done"
    steps = [record for record in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, 13))


@pytest.mark.parametrize(
    "who",
    [pytest.param("launcher", marks=pytest.mark.chaos), "terminal", pytest.param("one rank", marks=pytest.mark.chaos)],
)
def test_a_stop_saves_a_checkpoint_and_is_one_line_and_exit_code_75(training, tmp_path, who):
    process = training()
    run = tmp_path / "run"
    match who:
        case "launcher":
            process.send_signal(signal.SIGTERM)
        case "terminal":  # sends Ctrl-C to every process
            for one in processes_of(run):
                os.kill(one.pid, signal.SIGINT)
        case _:
            ranks_of(run)[1].send_signal(signal.SIGUSR1)
    assert process.wait(60) == 75
    status = check_stop(run)
    # The launcher passes Ctrl-C on as SIGTERM, which may arrive first.
    expected = {"launcher": {"SIGTERM"}, "terminal": {"SIGINT", "SIGTERM"}, "one rank": {"SIGUSR1"}}[who]
    assert status["reason"] in {f"stopped by {name}" for name in expected}
    wait_until_all_are_gone(run)
