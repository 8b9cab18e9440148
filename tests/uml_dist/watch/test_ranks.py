"""The metrics of ranks, from real servers that are found through the targets, and from the files that ranks leave."""

import socket
from contextlib import suppress

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from uml_dist.telemetry import serve_metrics
from uml_dist.telemetry.targets import Target, TargetsFile
from uml_dist.telemetry.textfile import TextFile
from uml_dist.watch.exporters import Answer, ask_ranks, parse
from uml_dist.watch.page import ranks_part
from uml_dist.watch.ranks import Ranks, rank_view


class Rank:
    """The metrics of a rank that has taken 10 steps of a second."""

    def __init__(self, waiting: float) -> None:
        self.registry = CollectorRegistry()
        self.steps = Counter("uml_steps_total", "", registry=self.registry)
        self.seconds = Histogram("uml_step_seconds", "", registry=self.registry)
        self.waited = Counter("uml_data_wait_seconds_total", "", registry=self.registry)
        self.phases = Counter("uml_phase_seconds_total", "", ["phase"], registry=self.registry)
        self.vacuity = Histogram("uml_opinion_vacuity", "", ["level"], registry=self.registry, buckets=[0.25, 0.5, 1.0])
        Gauge("uml_resident_memory_bytes", "", registry=self.registry).set(2e9)
        Gauge("other_metric", "", registry=self.registry).set(1)
        for value in (0.1, 0.4, 0.4, 0.9):
            self.vacuity.labels(level="pixel").observe(value)
        self.step(10, 1.0, waiting)

    def step(self, count: int, seconds: float, waiting: float) -> None:
        for _ in range(count):
            self.steps.inc()
            self.seconds.observe(seconds)
        self.waited.inc(0.1 * count * seconds)
        self.phases.labels(phase="counts").inc(count * waiting)
        self.phases.labels(phase="forward").inc(count * (seconds - waiting))
        self.phases.labels(phase="validation").inc(100)


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def served(tmp_path, run):
    """A function that serves ranks and lists them as a training does; all stops at the end."""
    stops = []

    def serve(ranks, attempt=1, node=None, ids=None):
        targets = []
        for number, rank in enumerate(ranks):
            server = serve_metrics(rank.registry, 0)
            assert server is not None
            stops.append(server.stop)
            address = f"{server.host}:{server.port}"
            name = server.id if ids is None else ids
            host = node or socket.gethostname()
            targets.append(Target(address, "run", host, number, attempt, id=name, folder=str(run)))
        file = TargetsFile(tmp_path / "targets", targets, f"{run} {attempt}")
        stops.append(file.remove)
        return {"targets_dir": str(tmp_path / "targets")}

    yield serve
    for stop in stops:
        with suppress(OSError):
            stop()


def test_the_straggler_is_the_rank_that_waits_for_nobody(run, served):
    metrics = served([Rank(waiting=0.5), Rank(waiting=0.0), Rank(waiting=0.5)])
    view = Ranks(run).view(metrics, True, 10.0)
    assert (view.problem, view.window, view.written) == ("", None, None)
    assert [(one.rank, one.step_seconds, one.own_seconds, one.waiting) for one in view.ranks] == [
        (0, 1.0, 0.5, 0.5),
        (1, 1.0, 1.0, 0.0),
        (2, 1.0, 0.5, 0.5),
    ]
    assert [(one.data_wait, one.memory) for one in view.ranks] == [(pytest.approx(0.1), 2e9)] * 3
    assert view.distributions == {"pixel": ([0.0, 0.25, 0.5, 1.0], [3.0, 6.0, 3.0])}
    assert ranks_part(view).count("class=slow") == 1


def test_recent_figures_are_those_between_two_answers():
    rank = Rank(waiting=0.0)
    before = parse(generate_latest(rank.registry).decode())
    rank.step(5, 3.0, 1.0)
    now = Answer(0, "", parse(generate_latest(rank.registry).decode()))
    view = rank_view(now, before)
    assert (view.step_seconds, view.waiting, view.own_seconds) == (3.0, pytest.approx(1 / 3), pytest.approx(2.0))


def test_only_the_newest_start_of_the_run_is_asked(run, served):
    served([Rank(0.0), Rank(0.0)], attempt=1)
    metrics = served([Rank(0.0)], attempt=2)
    assert [one.rank for one in ask_ranks(run, metrics, True)] == [0]


def test_another_process_on_the_port_is_not_taken_for_the_rank(run, served):
    metrics = served([Rank(0.0)], ids="another")
    view = Ranks(run).view(metrics, True, 10.0)
    assert view.problem.startswith("no rank answers: ")


def test_a_rank_on_the_loopback_of_another_machine_is_not_asked(run, served):
    metrics = served([Rank(0.0)], node="node7")
    assert Ranks(run).view(metrics, True, 10.0).problem == "no rank answers: it is served on node7 only"


def test_a_rank_that_does_not_answer_is_shown_by_its_last_values(run, served):
    metrics = served([Rank(0.0), Rank(0.0)], ids="another")
    for number in (0, 1):
        labels = {"run": "run", "node": "node1", "rank": str(number), "attempt": "1"}
        TextFile(run / "metrics" / f"rank-{number}.prom", Rank(0.25).registry, labels, keep=True).stop()
    view = Ranks(run).view(metrics, True, 10.0)
    assert [(one.node, one.waiting) for one in view.ranks] == [("node1", 0.25)] * 2
    assert view.written is not None
    assert "as written by" in ranks_part(view)


def test_an_ended_run_is_shown_by_its_last_values_and_nobody_is_asked(run):
    labels = {"run": "run", "node": "node1", "rank": "3", "attempt": "1"}
    TextFile(run / "metrics" / "rank-3.prom", Rank(0.25).registry, labels, keep=True).stop()
    (run / "metrics" / "rank-4.prom").write_bytes(b"\xff no metrics {")
    (run / "metrics" / "rank-5.prom").symlink_to(run / "metrics" / "rank-3.prom")
    assert [one.rank for one in ask_ranks(run, {}, False)] == [3]


@pytest.mark.parametrize(
    ("metrics", "problem"), [({"enabled": False}, "metrics.enabled is false"), ({"targets_dir": ""}, "no rank serves")]
)
def test_the_page_says_why_nothing_is_known(run, metrics, problem):
    view = Ranks(run).view(metrics, True, 10.0)
    assert problem in view.problem
    assert problem in ranks_part(view)


def test_a_rank_that_hangs_does_not_hold_up_the_page(run):
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        port = hanging.getsockname()[1]
        target = Target(f"127.0.0.1:{port}", "run", socket.gethostname(), 0, id="x", folder=str(run))
        file = TargetsFile(run / "targets", [target], "key")
        ranks = Ranks(run)
        first = ranks.view({"targets_dir": str(run / "targets")}, True, 0.0)
        later = ranks.view({"targets_dir": str(run / "targets")}, True, 30.0)
        file.remove()
    assert first.problem == "the ranks are being asked"
    assert later.problem == "no rank answers: timed out"
