"""Spans measure exclusive time by name, cost nothing without a recorder, and never wait for a device."""

import json
import re
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from runs import train
from uml_dist.telemetry import Spans, recording, span, time_calls
from uml_dist.telemetry import spans as spans_module
from worlds import run_world

CPU = torch.device("cpu")


class Clock:
    """A host clock that moves only when a test tells it to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def pass_time(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(spans_module, "time", clock)
    return clock


class Queue:
    """A device that works through marks in order; a mark takes its time when the device passes it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.marks: list[QueuedEvent] = []
        self.created = 0

    def event(self) -> "QueuedEvent":
        self.created += 1
        return QueuedEvent(self)

    def work(self, milliseconds: float) -> None:
        self.now += milliseconds

    def pass_marks(self, count: int | None = None) -> None:
        for mark in [mark for mark in self.marks if not mark.passed][:count]:
            mark.passed = True


class QueuedEvent:
    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.passed = False
        self.time = 0.0

    def record(self) -> None:
        assert self not in self.queue.marks or self.passed, "an event that is still needed was recorded again"
        self.queue.marks = [mark for mark in self.queue.marks if mark is not self] + [self]
        self.passed, self.time = False, self.queue.now

    def query(self) -> bool:
        return self.passed

    def elapsed_time(self, end_event: "QueuedEvent") -> float:
        assert self.passed
        assert end_event.passed
        return end_event.time - self.time


def test_seconds_are_summed_by_name_since_the_last_reading(clock):
    spans = Spans(CPU)
    for seconds in (1.0, 2.0):
        with spans.span("forward"):
            clock.pass_time(seconds)
        clock.pass_time(10.0)  # outside of any span
    with spans.span("data"):
        clock.pass_time(0.5)
    assert spans.take() == {"forward": 3.0, "data": 0.5}
    assert spans.take() == {}


def test_inner_time_is_not_part_of_the_outer_span(clock):
    spans = Spans(CPU)
    with spans.span("targets"):
        clock.pass_time(1.0)
        with spans.span("teacher"):
            clock.pass_time(4.0)
            with spans.span("targets"):
                clock.pass_time(0.25)
        clock.pass_time(2.0)
    assert spans.take() == {"targets": 3.25, "teacher": 4.0}


def test_span_that_ends_with_an_exception_is_counted_and_closed(clock):
    spans = Spans(CPU)

    def fail() -> None:
        with spans.span("outer"), spans.span("inner"):
            clock.pass_time(1.0)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    clock.pass_time(5.0)
    with spans.span("next"):
        clock.pass_time(2.0)
    assert spans.take() == {"outer": 0.0, "inner": 1.0, "next": 2.0}


def test_open_span_counts_until_the_last_mark(clock):
    spans = Spans(CPU)
    with spans.span("outer"):
        clock.pass_time(1.0)
        with spans.span("inner"):
            clock.pass_time(2.0)
        clock.pass_time(4.0)
        assert spans.take() == {"outer": 1.0, "inner": 2.0}
    assert spans.take() == {"outer": 4.0}


def test_sum_of_spans_is_at_most_the_time_that_passed():
    spans = Spans(CPU)
    start = time.perf_counter()
    for _ in range(100):
        with spans.span("a"), spans.span("b"):
            pass
    passed = time.perf_counter() - start
    assert 0 < sum(spans.take().values()) <= passed


def test_span_without_recorder_does_nothing(clock):
    spans = Spans(CPU)
    with span("before"):
        clock.pass_time(1.0)
    with recording(spans):
        with span("inside"):
            clock.pass_time(2.0)
    with span("after"):
        clock.pass_time(4.0)
    assert spans.take() == {"inside": 2.0}


def test_inner_recorder_is_active_until_its_block_ends(clock):
    outer, inner = Spans(CPU), Spans(CPU)

    def fail() -> None:
        with recording(inner), span("x"):
            clock.pass_time(1.0)
            raise KeyError

    with recording(outer):
        with pytest.raises(KeyError):
            fail()
        with span("x"):
            clock.pass_time(2.0)
    assert (outer.take(), inner.take()) == ({"x": 2.0}, {"x": 1.0})


def test_other_threads_see_no_recorder(clock):
    spans = Spans(CPU)

    def work() -> None:
        with span("thread"):
            clock.pass_time(1.0)

    with recording(spans), span("main"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert spans.take() == {"main": 1.0}


def test_number_of_names_is_limited(clock):
    spans = Spans(CPU)
    for number in range(spans_module.MAX_NAMES + 5):
        with spans.span(f"sample {number}"):
            clock.pass_time(1.0)
    with spans.span("sample 0"):
        clock.pass_time(1.0)
    seconds = spans.take()
    assert len(seconds) == spans_module.MAX_NAMES + 1
    assert seconds[spans_module.OTHER] == 5.0
    assert seconds["sample 0"] == 2.0


def test_device_spans_are_read_once_the_device_has_passed_them():
    queue = Queue()
    spans = Spans(CPU, queue.event)
    with spans.span("forward"):
        queue.work(20.0)
    queue.work(7.0)
    with spans.span("backward"):
        queue.work(50.0)
    assert spans.take() == {}
    queue.pass_marks(3)  # the end of "backward" is the fourth mark
    assert spans.take() == {"forward": pytest.approx(0.02)}
    queue.pass_marks()
    assert spans.take() == {"backward": pytest.approx(0.05)}
    assert spans.take() == {}


def test_device_time_is_exclusive_too():
    queue = Queue()
    spans = Spans(CPU, queue.event)
    with spans.span("targets"):
        queue.work(1.0)
        with spans.span("teacher"):
            queue.work(4.0)
        queue.work(2.0)
    queue.pass_marks()
    assert spans.take() == {"targets": pytest.approx(0.003), "teacher": pytest.approx(0.004)}


def test_events_are_reused_and_never_while_they_are_needed():
    queue = Queue()
    spans = Spans(CPU, queue.event)
    total, created = 0.0, []
    for _ in range(20):
        for _ in range(3):
            with spans.span("outer"):
                queue.work(1.0)
                with spans.span("inner"):
                    queue.work(1.0)
                queue.work(1.0)
        queue.pass_marks(7)
        total += sum(spans.take().values())
        queue.pass_marks()
        created.append(queue.created)
    total += sum(spans.take().values())
    assert total == pytest.approx(20 * 3 * 3 / 1000)
    assert all(later == earlier for earlier, later in pairwise(created[2:])), created


def test_intervals_that_wait_are_read_when_there_are_many(monkeypatch):
    monkeypatch.setattr(spans_module, "MAX_WAITING", 10)
    queue = Queue()
    spans = Spans(CPU, queue.event)
    for _ in range(100):
        with spans.span("forward"):
            queue.work(1.0)
        queue.pass_marks()
    assert queue.created <= 2 * 12
    assert spans.take() == {"forward": pytest.approx(0.1)}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_is_measured_by_its_events():
    spans = Spans(torch.device("cuda"))
    one = torch.ones(4096, 4096, device="cuda")
    with spans.span("work"):
        for _ in range(50):
            one = one @ one / 4096
    torch.cuda.synchronize()
    assert spans.take()["work"] > 0


def documented_phases() -> set[str]:
    """Return the names in the table of phases of launchers/README.md."""
    text = (Path(__file__).parents[3] / "launchers" / "README.md").read_text(encoding="utf-8")
    section = text.partition("### Where the time goes\n")[2].partition("\n### ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_calls_with_gradients_are_measured_apart_from_what_is_around_them(clock):
    class Slow(nn.Module):
        def forward(self, value):
            clock.pass_time(2.0)
            return value

    module, spans = Slow(), Spans(CPU)
    time_calls(module, "forward")
    with recording(spans), spans.span("loss"):
        module(torch.ones(1))
        clock.pass_time(0.5)
        with torch.no_grad():
            module(torch.ones(1))
    module(torch.ones(1))  # without a recorder
    assert spans.take() == {"forward": 2.0, "loss": 2.5}


@pytest.mark.distributed
def test_spans_of_trainer_and_recipe_are_exported_and_logged(partly_known, tmp_path):
    stream = {"shards": str(partly_known), "count": 4}
    tree = {
        "recipe": "toy",
        "streams": {"labelled": stream, "unlabelled": stream},
        "data": {"workers": 0},
        "train": {"steps": 4, "log_every": 1, "best": "accuracy"},
        "checkpoint": {"every": 2},
    }
    trace = run_world(1, train, tree, str(tmp_path), True)[0]
    parts = {
        "data",
        "host_to_device",
        "targets",
        "counts",
        "forward",
        "loss",
        "backward",
        "optimizer",
        "average",
        "hooks",
    }
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    seconds = [
        {name.removeprefix("seconds_"): value for name, value in record.items() if name.startswith("seconds_")}
        for record in records
        if "loss" in record
    ]
    # The first two steps are of the phase without a teacher; the checkpoint of step 2 is in the record of step 3.
    assert [set(named) for named in seconds] == [parts, parts, parts | {"teacher", "checkpoint"}, parts | {"teacher"}]
    assert all(value >= 0 for named in seconds for value in named.values())
    exported = {}
    for line in trace.exported.splitlines():
        if line.startswith("uml_phase_seconds_total{"):
            name, value = line.split('"')[1], line.split()[-1]
            exported[name] = float(value)
    assert set(exported) == parts | {"teacher", "checkpoint", "validation"}
    assert set(exported) - {"teacher"} == documented_phases() - {"augment"}, "augment is of volumes"
    assert exported["teacher"] == pytest.approx(sum(named.get("teacher", 0.0) for named in seconds), abs=1e-5)
    assert exported["checkpoint"] > seconds[2]["checkpoint"], "the last checkpoint is missing"
