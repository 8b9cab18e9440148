"""Checkpoints that another process writes: the same files, and a whole one whoever is killed and whatever fails."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from checkpoints import networks_of, save, state_of
from uml_dist.config.schema import CheckpointConfig
from uml_dist.launch.available_memory import Memory
from uml_dist.run import background
from uml_dist.run.background import Saved, Saver
from uml_dist.run.checkpoint import latest_valid, verify
from uml_dist.run.folder import RunFolder

pytestmark = pytest.mark.fault

# Python imports it when it starts, from the first folder of its path that has it.
WAIT_BEFORE_SYNCING = """
import os, pathlib, time
here, sync = pathlib.Path(__file__).parent, os.fsync
def fsync(descriptor):
    while not (here / "go on").exists():
        (here / "waits").touch()
        time.sleep(0.01)
    sync(descriptor)
os.fsync = fsync
"""


def saver_of(run: Path, writes: bool = True, **settings) -> SimpleNamespace:
    """A saver, what became of its saves, and what it has said."""
    ended: list[Saved] = []
    lines: list[str] = []
    folder = RunFolder(run, writes=writes)
    return SimpleNamespace(
        saver=Saver(folder, CheckpointConfig(**settings), ended.append, lines.append), ended=ended, lines=lines
    )


@pytest.fixture
def run(tmp_path) -> Path:
    """A run with a checkpoint of step 5."""
    save(tmp_path / "run", step=5)
    return tmp_path / "run"


@pytest.fixture
def waiting(tmp_path, monkeypatch) -> Path:
    """Let writers wait in the middle of a checkpoint, until there is a file `go on` in this folder."""
    folder = tmp_path / "waiting"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WAIT_BEFORE_SYNCING)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def lives(process: int) -> bool:
    return psutil.pid_exists(process) and psutil.Process(process).status() != psutil.STATUS_ZOMBIE


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_files_pointers_and_removals_are_those_of_a_save_that_training_waits_for(tmp_path):
    runs = [tmp_path / "background", tmp_path / "waits"]
    for run in runs:
        made = saver_of(run, background=run == runs[0], keep=1)
        for step in (5, 6):
            made.saver.save(networks_of(step), state_of(step), ["best"] if step == 5 else [])
        made.saver.wait()
        assert [(saved.checkpoint.name, saved.problem) for saved in made.ended] == [
            ("step-000005", None),
            ("step-000006", None),
        ]
        assert all(saved.seconds > 0 for saved in made.ended)
        assert (made.lines, made.saver.problem) == ([], None)
    files = [
        {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()} for run in runs
    ]
    assert files[0] == files[1]
    assert names_in(runs[0] / "checkpoints") == ["best", "latest", "step-000005", "step-000006"]
    assert latest_valid(runs[0] / "checkpoints") == (runs[0] / "checkpoints" / "step-000006", None)


def test_what_changes_after_the_save_has_begun_is_not_saved(run, waiting):
    made, networks, state = saver_of(run), networks_of(), state_of(6)
    made.saver.save(networks, state)
    for network in networks.values():
        for tensor in network.weights.values():
            tensor.zero_()
    state.step = 7
    (waiting / "go on").touch()
    made.saver.wait()
    saved = made.ended[0].checkpoint
    verify(saved)
    assert json.loads((saved / "state.json").read_text())["step"] == 6
    assert (saved / "student.safetensors").read_bytes() == (
        run / "checkpoints" / "step-000005" / "student.safetensors"
    ).read_bytes()


def test_the_older_one_stays_until_the_new_one_is_complete_and_the_next_save_waits(run, waiting):
    made = saver_of(run)
    made.saver.save(networks_of(), state_of(6))
    wait_for((waiting / "waits").exists)
    made.saver.poll()
    assert made.ended == []
    assert latest_valid(run / "checkpoints") == (run / "checkpoints" / "step-000005", None)
    (waiting / "go on").touch()
    made.saver.save(networks_of(), state_of(7))
    assert [saved.checkpoint.name for saved in made.ended] == ["step-000006"]
    wait_for(lambda: made.saver.poll() or made.ended[1:])
    assert latest_valid(run / "checkpoints") == (run / "checkpoints" / "step-000007", None)


def test_signals_that_stop_a_training_do_not_end_its_save(run, waiting):
    made = saver_of(run)
    made.saver.save(networks_of(), state_of(6))
    writer = made.saver._flight.writer
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        writer.send_signal(number)  # while Python starts
    wait_for((waiting / "waits").exists)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        writer.send_signal(number)
    (waiting / "go on").touch()
    made.saver.wait()
    assert [saved.problem for saved in made.ended] == [None]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGTERM, signal.SIGINT} == set()


def test_a_writer_that_is_killed_is_one_line_and_the_older_one_is_used(run, waiting):
    made = saver_of(run)
    made.saver.save(networks_of(), state_of(6))
    wait_for((waiting / "waits").exists)
    assert ".step-000006.tmp" in names_in(run / "checkpoints")
    writer = made.saver._flight.writer
    writer.kill()
    wait_for(lambda: made.saver.poll() or made.ended)
    assert made.saver.problem == made.ended[0].problem
    assert made.saver.problem == (
        f"checkpoint {run}/checkpoints/step-000006 cannot be written: its writer (process {writer.pid}) was ended by "
        f"SIGKILL: resume with --run {run}, and with checkpoint.background=false if memory is short"
    )
    assert latest_valid(run / "checkpoints") == (run / "checkpoints" / "step-000005", None)
    assert names_in(run / "checkpoints") == ["latest", "step-000005"]
    made.saver.save(networks_of(), state_of(7))  # the training ends soon
    assert len(made.ended) == 1
    assert names_in(run / "checkpoints") == ["latest", "step-000005"]


def test_a_writer_ends_with_its_training_and_the_older_one_is_used(run, waiting):
    reader, sender = os.pipe()
    training = os.fork()
    if training == 0:
        made = saver_of(run)
        made.saver.save(networks_of(), state_of(6))
        os.write(sender, f"{made.saver._flight.writer.pid}\n".encode())
        time.sleep(600)
    os.close(sender)
    with open(reader) as answer:
        writer = int(answer.readline())
    wait_for((waiting / "waits").exists)
    assert lives(writer)
    os.kill(training, signal.SIGKILL)
    os.waitpid(training, 0)
    wait_for(lambda: not lives(writer))
    assert latest_valid(run / "checkpoints") == (run / "checkpoints" / "step-000005", None)
    (waiting / "go on").touch()
    resumed = saver_of(run)
    resumed.saver.save(networks_of(), state_of(6))
    resumed.saver.wait()
    assert names_in(run / "checkpoints") == ["latest", "step-000005", "step-000006"]


def test_a_writer_whose_training_has_ended_before_it_looks_writes_nothing(run):
    order = {"step": 6, "files": {}, "pointers": [], "keep": 2, "parent": 1 << 30}
    program = [sys.executable, "-m", "uml_dist.run.writer", str(run / "checkpoints"), json.dumps(order)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(program, env=environment, capture_output=True).returncode == 1
    assert names_in(run / "checkpoints") == ["latest", "step-000005"]


def test_an_error_of_the_disk_is_the_line_of_a_save_that_training_waits_for(tmp_path):
    (tmp_path / "checkpoints").write_text("no folder")
    problems = []
    for chosen in (True, False):
        made = saver_of(tmp_path, background=chosen)
        made.saver.save(networks_of(), state_of(6))
        made.saver.wait()
        assert made.lines == []
        problems.append(made.saver.problem)
    assert problems[0] == problems[1]
    assert problems[0].startswith(f"checkpoint {tmp_path}/checkpoints/step-000006 cannot be written: ")
    assert problems[0].endswith(f": make room or fix the disk, then resume with --run {tmp_path}")


def test_an_unforeseen_failure_of_the_writer_is_one_line(run, waiting):
    (waiting / "sitecustomize.py").write_text("import os\nos.fsync = lambda _: 1 / 0\n")
    made = saver_of(run)
    made.saver.save(networks_of(), state_of(6))
    made.saver.wait()
    assert "\n" not in made.saver.problem
    assert "has failed (ZeroDivisionError: division by zero): resume with --run" in made.saver.problem
    assert names_in(run / "checkpoints") == ["latest", "step-000005"]


@pytest.mark.parametrize("lacks", ["memory", "processes"])
def test_without_memory_or_processes_training_waits_and_says_so_once(run, monkeypatch, lacks):
    made = saver_of(run)
    if lacks == "memory":
        monkeypatch.setattr(background, "read_memory", lambda: Memory(100, "its cgroup"))
    else:
        monkeypatch.setattr(sys, "executable", str(run / "absent"))
    for step in (6, 7):
        made.saver.save(networks_of(), state_of(step))
        assert latest_valid(run / "checkpoints") == (run / "checkpoints" / f"step-{step:06d}", None)
    assert [saved.problem for saved in made.ended] == [None, None]
    (line,) = made.lines
    reason = {
        "memory": "0.0 GB would be copied, 0.0 GB are available on its cgroup",
        "processes": "No such file or directory",
    }
    assert line == f"checkpoints cannot be copied to memory ({reason[lacks]}): training waits while they are written"


def test_no_descriptor_is_left_open(run):
    made = saver_of(run)
    before = sorted(os.listdir("/proc/self/fd"))
    made.saver.save(networks_of(), state_of(6))
    made.saver.wait()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_other_ranks_save_nothing(run):
    made = saver_of(run, writes=False)
    made.saver.save({}, state_of(6))
    made.saver.poll()
    made.saver.wait()
    assert (made.ended, made.lines) == ([], [])
    assert names_in(run / "checkpoints") == ["latest", "step-000005"]


@pytest.mark.parametrize("name", ["with blank", "line\nbreak", "-m", "$(x);'\"", "\udcff", "ä€"])
def test_a_run_of_any_name_is_saved(tmp_path, name):
    made = saver_of(tmp_path / name)
    made.saver.save(networks_of(), state_of(6))
    made.saver.wait()
    assert [saved.problem for saved in made.ended] == [None]
    verify(tmp_path / name / "checkpoints" / "step-000006")
