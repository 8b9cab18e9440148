"""Processes that run, have ended, or had the same id, and the names of their files."""

import json
import os
import re
import signal
from dataclasses import replace

import pytest

from forked import forked
from uml_dist.telemetry.process import Process, file_name


def test_this_process_runs_and_its_record_is_read_back():
    process = Process.current()
    assert (process.is_here, process.runs) == (True, True)
    assert Process.read({**process.record(), "more": "x"}) == process
    assert all(isinstance(value, str) for value in process.record().values())


@pytest.mark.parametrize("record", [{}, {"host": "a"}, {**Process.current().record(), "number": "x"}])
def test_other_records_are_no_process(record):
    assert Process.read(record) is None


def test_a_process_that_had_the_same_id_does_not_run():
    assert not replace(Process.current(), began="1").runs


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_zombie_and_an_ended_process_do_not_run():
    with forked(lambda: json.dumps(Process.current().record())) as (number, record):
        process = Process.read(json.loads(record))
        assert process is not None
        assert (process.number, process.is_here, process.runs) == (number, True, True)
        os.kill(number, signal.SIGKILL)
        os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        assert not process.runs
    assert not process.runs


@pytest.mark.parametrize(
    "run", ["isic", "a b", "../../etc/passwd", ".hidden", "", "\n\x00\x1b[31m", "x" * 300, "肺\udc80", "-rf"]
)
def test_any_run_name_gives_a_file_name(run):
    name = file_name(run, "key", ".json")
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,59}-[0-9a-f]{12}\.json", name)
    assert name != file_name(run, "other", ".json")
