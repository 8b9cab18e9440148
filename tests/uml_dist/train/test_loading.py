"""Loader workers have room for their batches, or the user reads what they lack before anything starts."""

import re

import pytest

from runs import uml_tree
from uml_dist.batch import collate
from uml_dist.config.loading import validate
from uml_dist.errors import UmlError
from uml_dist.launch.resources import Space
from uml_dist.train.loading import OTHER_FILES, InFlight, loader_workers, of_training, sample_bytes
from uml_dist.train.setup import prepare

ENOUGH = Space(10**12, 10**12)


@pytest.fixture
def config(partly_known):
    """Return a function that makes a configuration with a number of workers."""
    return lambda workers: validate(uml_tree(partly_known, data__workers=workers), "test")


def test_the_bytes_of_a_sample_are_those_of_its_tensors(config):
    setup = prepare(config(0), 1)
    phase, _ = setup.phases[0]
    stream = setup.streams(phase)["train"]
    batch = collate(stream, [stream.sample(position) for position in range(3)], range(3))
    tensors = (batch.image, batch.mask)
    assert 3 * sample_bytes(stream.split.manifest, (32, 32)) == sum(one.numel() * one.element_size() for one in tensors)


def test_batches_of_a_training_and_of_its_validation_count(config):
    setup = prepare(config(2), 2)
    training, validation = of_training(setup, 2)
    assert training.bytes == validation.bytes == 4 * sample_bytes(setup.splits["train"].manifest, (32, 32))
    assert training.shared_bytes(0) == 0
    assert training.shared_bytes(2) - training.shared_bytes(1) >= 2 * training.bytes


def test_too_little_shared_memory_names_both_numbers_and_the_remedy(config):
    in_flight = [InFlight(10**6)]
    needed = 2 * in_flight[0].shared_bytes(3)
    assert loader_workers(config(3), False, 2, in_flight, Space(needed, needed), 10**6) == (3, None)
    message = (
        f"data.workers = 3: 3 loader workers on each of 2 ranks need {needed / 1e6:.1f} MB of shared memory, but "
        "4.0 MB are free in /dev/shm: set data.workers=0, or enlarge it (docker run --shm-size=8g)"
    )
    with pytest.raises(UmlError, match=f"^{re.escape(message)}$"):
        loader_workers(config(3), False, 2, in_flight, Space(4 * 10**6, 4 * 10**6), 10**6)
    assert loader_workers(config(0), False, 2, in_flight, Space(0, 0), 1000) == (0, None)


def test_too_few_open_files_name_both_numbers_and_the_remedy(config):
    in_flight = [InFlight(1, streams=2)]
    needed = OTHER_FILES + in_flight[0].open_files(8)
    assert loader_workers(config(8), False, 1, in_flight, ENOUGH, needed) == (8, None)
    message = rf"8 loader workers need {needed} open files in a rank, but the limit is 256: set data\.workers=0, or"
    with pytest.raises(UmlError, match=message):
        loader_workers(config(8), False, 1, in_flight, ENOUGH, 256)
    for workers in (0, 2, "auto"):
        with pytest.raises(UmlError, match=r"need.* open files.*, but the limit is 40: raise the hard limit"):
            loader_workers(config(workers), True, 1, in_flight, ENOUGH, 40)


def test_the_automatic_number_is_as_large_as_there_is_room(config, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 32)
    in_flight = [InFlight(10**7)]
    room = 4 * in_flight[0].shared_bytes(2)
    assert loader_workers(config("auto"), True, 4, in_flight, ENOUGH, 10**6) == (4, None)
    workers, line = loader_workers(config("auto"), True, 4, in_flight, Space(room, room), 10**6)
    assert workers == 2
    assert line is not None
    assert ": 2 loader workers are used; for more, enlarge it" in line
    workers, line = loader_workers(config("auto"), True, 4, in_flight, Space(0, 0), 10**6)
    assert (workers, line is not None) == (0, True)
