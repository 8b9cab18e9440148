"""metrics.jsonl is followed while it is written, removed, and written anew."""

import json
import os

import pytest

from uml_dist.watch.journal import MAX_LINE, MAX_SERIES, Journal
from watched import append, records, training_record, validation_record


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_each_call_reads_only_what_is_new(tmp_path):
    journal = Journal(tmp_path)
    append(tmp_path, records(100))
    journal.update()
    first = journal.revision
    assert (journal.records, journal.step, journal.phase) == (11, 100, "train")
    journal.update()
    assert journal.revision == first
    append(tmp_path, [training_record(110)])
    journal.update()
    assert (journal.records, journal.step, journal.series["loss"].steps.tolist()[-1]) == (12, 110, 110)


def test_a_line_that_is_being_written_is_read_when_it_is_complete(tmp_path, path):
    journal = Journal(tmp_path)
    line = json.dumps(training_record(10)) + "\n"
    path.write_text(line[:40])
    journal.update()
    assert journal.records == 0
    path.write_text(line)
    journal.update()
    assert (journal.records, journal.damaged) == (1, 0)


def test_a_resumed_run_loses_the_records_that_it_repeats(tmp_path, path):
    journal = Journal(tmp_path)
    append(tmp_path, records(200))
    journal.update()
    kept = "".join(json.dumps(record) + "\n" for record in records(100))
    (tmp_path / "new").write_text(kept)
    os.replace(tmp_path / "new", path)
    journal.update()
    assert (journal.step, journal.records) == (100, 11)


def test_a_file_rewritten_in_place_is_read_anew(tmp_path, path):
    journal = Journal(tmp_path)
    append(tmp_path, [training_record(10, loss=1.25)])
    journal.update()
    path.write_text("".join(json.dumps(training_record(step, loss=2.5)) + "\n" for step in (10, 20)))
    journal.update()
    assert journal.series["loss"].means.tolist() == [2.5, 2.5]


def test_a_removed_file_leaves_nothing(tmp_path, path):
    journal = Journal(tmp_path)
    append(tmp_path, records(100))
    journal.update()
    before = journal.revision
    path.unlink()
    journal.update()
    assert (journal.records, journal.series, journal.revision > before) == (0, {}, True)


@pytest.mark.parametrize(
    "line",
    [
        b"{", b"null", b"[1]", b'"x"', b"{}", b'{"step": -1}', b'{"step": 1e3}', b'{"step": true}', b"\xff\xfe",
        b'{"step": 99999999999999999999}', b"[" * 10_000, b'{"step": "1"}',
    ],
)  # fmt: skip
def test_lines_that_are_no_records_are_counted(tmp_path, path, line):
    journal = Journal(tmp_path)
    path.write_bytes(line + b"\n" + json.dumps(training_record(10)).encode() + b"\n\n")
    journal.update()
    assert (journal.records, journal.damaged) == (1, 1)


def test_values_that_are_no_numbers_are_no_curves(tmp_path):
    journal = Journal(tmp_path)
    odd = {"text": "1", "list": [1], "truth": True, "huge": 10**400, "nothing": None, "x" * 1000: 1.0}
    append(tmp_path, [{"step": 1, "loss": float("nan"), "count": 3, **odd}])
    journal.update()
    assert set(journal.series) == {"loss", "count"}


def test_curves_of_a_hostile_file_are_limited(tmp_path, path):
    journal = Journal(tmp_path)
    append(tmp_path, [{"step": step, **{f"key{step}-{n}": 1.0 for n in range(300)}} for step in range(10)])
    journal.update()
    assert len(journal.series) <= MAX_SERIES


def test_a_line_without_end_is_skipped(tmp_path, path):
    journal = Journal(tmp_path)
    path.write_bytes(b"x" * (3 * MAX_LINE) + b"\n" + json.dumps(training_record(10)).encode() + b"\n")
    journal.update()
    assert (journal.records, journal.damaged) == (1, 1)


def test_a_large_file_is_read_in_several_calls(tmp_path):
    journal = Journal(tmp_path)
    append(tmp_path, [training_record(step) for step in range(1, 6001)])
    journal.update(seconds=0.0)
    assert 0 < journal.records < 6000
    assert journal.behind > 0
    while journal.behind:
        journal.update(seconds=0.0)
    assert (journal.records, journal.damaged) == (6000, 0)


def test_the_list_of_runs_reads_only_the_end(tmp_path):
    journal = Journal(tmp_path, tail=5000)
    append(tmp_path, [training_record(step) for step in range(1, 1001)])
    journal.update()
    assert 0 < journal.records < 20
    assert (journal.step, journal.damaged) == (1000, 0)


def test_a_pipe_or_a_link_is_not_read(tmp_path, path):
    os.mkfifo(path)
    Journal(tmp_path).update()
    path.unlink()
    target = tmp_path / "elsewhere.jsonl"
    target.write_text(json.dumps(training_record(10)) + "\n")
    path.symlink_to(target)
    journal = Journal(tmp_path)
    journal.update()
    assert journal.records == 0


def test_recent_seconds_are_those_between_the_recent_records(tmp_path):
    journal = Journal(tmp_path)
    append(tmp_path, [training_record(10), training_record(20), validation_record(20), training_record(30)])
    journal.update()
    seconds, steps = journal.recent_seconds()
    assert (steps, seconds["forward"], sum(seconds.values())) == (20, 3.5, 10.0)
