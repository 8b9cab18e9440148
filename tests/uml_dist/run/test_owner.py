"""A run folder belongs to one training at a time."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from uml_dist.errors import UmlError
from uml_dist.run import owner
from uml_dist.run.owner import LOCK, OWNER, Owner, owned, refuse_owned

HOLDER = "import sys, time; from pathlib import Path; from uml_dist.run.owner import Owner\n"
HOLDER += "owner = Owner(Path(sys.argv[1])); print(flush=True); time.sleep(600)"


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    for name, seconds in {"LOCK_SECONDS": 0.0, "LEASE_SECONDS": 0.5, "BEAT_SECONDS": 0.05}.items():
        monkeypatch.setattr(owner, name, seconds)


@pytest.fixture
def elsewhere(tmp_path):
    """Return a function that records an owner on another machine, which lives if the function says so."""
    ended = threading.Event()

    def record(alive):
        def beat(number):
            found = {"host": "node7", "process": 42, "started": 1.0, "boot": "another", "beat": number}
            descriptor = os.open(tmp_path / OWNER, os.O_WRONLY | os.O_CREAT)
            os.write(descriptor, json.dumps(found).encode().ljust(300))
            os.close(descriptor)

        def live():
            number = 2
            while not ended.wait(0.05):
                beat(number)
                number += 1

        beat(1)
        if alive:
            threading.Thread(target=live, daemon=True).start()

    yield record
    ended.set()


def test_a_second_training_is_refused_with_host_and_process_and_changes_nothing(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"\n"
    message = f"run folder {tmp_path} is in use by process {holder.pid} on {socket.gethostname()}: wait until it ends"
    for attempt in (Owner, refuse_owned, lambda run: owned(run).__enter__()):
        with pytest.raises(UmlError, match=re.escape(message)):
            attempt(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {LOCK, OWNER}
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    refuse_owned(tmp_path)
    Owner(tmp_path).release()  # at once, although the killed process has left its files
    assert list(tmp_path.iterdir()) == []


def test_a_released_folder_can_be_owned_again_and_keeps_what_was_written(tmp_path):
    run = tmp_path / "run"
    with owned(run):
        (run / "config.toml").touch()
    assert [path.name for path in run.iterdir()] == ["config.toml"]
    with owned(run):
        pass
    with owned(tmp_path / "nothing was written"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_forked_workers_do_not_keep_the_lock(tmp_path):
    first = Owner(tmp_path)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)  # until the test ends
        os._exit(0)
    first.release()
    Owner(tmp_path).release()
    os.close(writer)
    os.waitpid(child, 0)


def test_a_living_owner_on_another_machine_is_refused_without_a_shared_lock(tmp_path, elsewhere):
    elsewhere(alive=True)
    said = []
    with pytest.raises(UmlError, match="is in use by process 42 on node7"):
        Owner(tmp_path, say=said.append)
    assert [line.endswith("whether process 42 on node7 still writes to it") for line in said] == [True]
    assert (tmp_path / OWNER).exists()


def test_a_dead_owner_on_another_machine_is_replaced(tmp_path, elsewhere):
    elsewhere(alive=False)
    Owner(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_on_a_file_system_without_locks_the_owner_is_known_by_its_number(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(owner, "lock_file", fail)
    first = Owner(tmp_path)
    with pytest.raises(UmlError, match=f"is in use by process {os.getpid()}"):
        Owner(tmp_path)
    first.release()
    Owner(tmp_path).release()


def test_an_owner_that_was_replaced_while_it_did_not_run_learns_of_it(tmp_path, elsewhere):
    lost = []
    first = Owner(tmp_path, lost.append)
    elsewhere(alive=True)
    deadline = time.monotonic() + 10
    while not lost and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lost == [f"run folder {tmp_path} now belongs to process 42 on node7: this training ends"]
    first.release()
    assert json.loads((tmp_path / OWNER).read_text())["host"] == "node7"


def test_a_damaged_record_does_not_own_the_folder(tmp_path):
    for text in ("", "{", "[1]", "[" * 100_000):
        (tmp_path / OWNER).write_text(text)
        Owner(tmp_path).release()
        assert not (tmp_path / OWNER).exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UmlError, match=r"^run folder .*run cannot be written: .*: make room, or choose another --run$"):
        Owner(tmp_path / "file" / "run")
