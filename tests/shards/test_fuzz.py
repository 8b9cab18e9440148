"""Fuzzing of the readers of shards, with few inputs: they refuse an input in one line, or read it. See `make fuzz`."""

import warnings

import pytest

from fuzzing import Target, fuzz
from shard_targets import shard_targets
from uml_shards import ShardError

INPUTS = 60


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    return list(shard_targets(tmp_path_factory.mktemp("fuzz")))


def test_damaged_shards_are_refused_in_one_line_or_read(targets):
    warnings.simplefilter("ignore")  # decoders warn about damaged metadata
    for target in targets:
        outcomes = fuzz(target, seed=0, inputs=range(INPUTS))
        assert not outcomes.crashes
        assert outcomes.counts["refused"] > 0
        if target.name in ("tar of images", "tar of volumes"):  # as the manifest states them
            assert not outcomes.places


def test_crashes_hangs_and_messages_of_several_lines_are_counted(monkeypatch):
    def read(data: bytes) -> object:
        if data.startswith(b"a"):
            return data[:1]
        raise [ShardError("one line"), ValueError("two\nlines"), KeyError("a")][len(data) % 3]

    outcomes = fuzz(Target("test", b"aaaaaaaaa", read, (ShardError, ValueError), lambda at: str(at)), 0, range(300))
    assert outcomes.counts["unchanged"] > 0
    assert outcomes.counts["refused"] > 0
    assert outcomes.counts["crash"] == len(outcomes.crashes) > 0
    assert {"KeyError", "not one line"} <= {
        word for word in ("KeyError", "not one line") if word in str(outcomes.crashes)
    }
    assert not outcomes.places


def test_contents_that_differ_are_counted_by_the_changed_part():
    outcomes = fuzz(Target("test", b"ab" * 50, bytes, (), lambda at: "ab"[at % 2]), 0, range(100))
    assert outcomes.counts["other content"] == sum(outcomes.places.values()) > 90
    assert set(outcomes.places) == {"a", "b"}


def test_the_same_seed_gives_the_same_inputs():
    seen: list[list[bytes]] = [[], []]
    for inputs in seen:
        fuzz(Target("test", bytes(100), inputs.append, ()), 1, range(50))
    assert seen[0] == seen[1]
    assert len(set(seen[0])) > 40
