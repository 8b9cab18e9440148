"""Loader workers that die, hang or have no room end the reading with one line."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time

import pytest
import torch

from uml_shards import ShardError, open_split
from uml_shards.importers import Options
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.read import loader
from uml_shards.read.loader import load, worker_error
from uml_shards.read.plan import InOrder
from uml_shards.read.stream import Stream
from uml_shards.write.writer import write_split

REQUESTS = [{"train": [number]} for number in range(8)]


@pytest.fixture(scope="module")
def stream(tmp_path_factory) -> Stream:
    folder = tmp_path_factory.mktemp("shards") / "train"
    importer = PhantomImporter(None, Options(size=16, counts={"train": 8}))
    split = open_split(write_split(importer, "train", importer.splits()["train"], folder, quiet=True) and folder)
    return Stream(split, InOrder(8), (16, 16), split.manifest.statistics)


def tensors(stream, samples, positions):
    return [torch.full((64,), float(position)) for position in positions]


def killed(stream, samples, positions):
    os.kill(os.getpid(), signal.SIGKILL)


def stuck(stream, samples, positions):
    time.sleep(600)


def without_room(stream, samples, positions):
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))  # stands for a full /dev/shm
    return [torch.zeros(10_000)]


def without_files(stream, samples, positions):
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    return [torch.zeros(10) for _ in range(10)]


def broken(stream, samples, positions):
    raise RuntimeError("a fault of a recipe's own")


def signalled(stream, samples, positions):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.kill(os.getpid(), number)
    return tensors(stream, samples, positions)


def test_workers_ignore_the_signals_that_stop_a_training(stream):
    found = [batches["train"][0][0].item() for batches in load({"train": stream}, REQUESTS, signalled, workers=2)]
    assert found == list(range(8))


def test_a_reader_that_is_given_up_leaves_no_worker(stream):
    batches = load({"train": stream}, REQUESTS, tensors, workers=2)
    next(batches)
    workers = multiprocessing.active_children()
    batches.close()
    for worker in workers:
        worker.join(60)
    assert [worker.is_alive() for worker in workers] == [False, False]


def test_a_stuck_worker_ends_with_its_process(tmp_path):
    program = "import multiprocessing, os, signal, sys, time; from uml_shards.read.loader import _end_by_kill\n"
    program += "from types import SimpleNamespace\n"
    program += "def work():\n signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(600)\n"
    program += "worker = multiprocessing.get_context('fork').Process(target=work, daemon=True); worker.start()\n"
    program += "_end_by_kill(SimpleNamespace(_workers=[worker])); time.sleep(0.5)\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_tensors_of_workers_arrive_unchanged(stream):
    found = [batches["train"][0][0].item() for batches in load({"train": stream}, REQUESTS, tensors, workers=2)]
    assert found == list(range(8))


@pytest.mark.parametrize(
    ("collate", "message"),
    [
        (killed, r"loader worker \d+ was killed by signal: Killed: if the machine has run out of memory, use fewer"),
        (stuck, r"a loader worker has given no batch for 1 s: check the disk or the server of the shards"),
        (without_room, r"a loader worker cannot pass its batch on: .*: set data\.workers=0, or enlarge shared memory"),
        (without_files, r"a loader worker cannot pass its batch on: .*Too many open files.*: set data\.workers=0, or"),
    ],
)
def test_a_worker_that_fails_is_one_line(stream, collate, message, monkeypatch, capfd):
    monkeypatch.setattr(loader, "WAIT_SECONDS", 1.0)
    with pytest.raises(ShardError, match=f"^{message}") as error:
        list(load({"train": stream}, REQUESTS, collate, workers=1))
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_faults_of_other_code_keep_their_traceback(stream):
    with pytest.raises(RuntimeError, match=r"(?s)Original Traceback.*a fault of a recipe's own") as error:
        list(load({"train": stream}, REQUESTS, broken, workers=1))
    assert worker_error(error.value) is None


class Pinnable:
    """Stands for a batch, whose memory only a machine with a GPU can pin."""

    pinned = False

    def pin_memory(self):
        self.pinned = True
        return self


def test_packed_batches_are_pinned_one_by_one():
    assert loader._Packed({"train": Pinnable()}).pin_memory()["train"].pinned


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_batches_of_workers_arrive_in_pinned_memory(stream):
    def pinnable(stream, samples, positions):
        return torch.full((64,), float(positions[0]))

    found = [batches["train"] for batches in load({"train": stream}, REQUESTS, pinnable, workers=2, pin_memory=True)]
    assert [one[0].item() for one in found] == list(range(8))
    assert all(one.is_pinned() for one in found)
