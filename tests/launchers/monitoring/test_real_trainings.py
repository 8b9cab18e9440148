"""A real Prometheus scrapes a training of two ranks of each recipe: all panels, rules and alerts find their data."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from ellipsoids import labelled_list, make_ellipsoids, ugmcl_tree
from metric_fixture import GAUGES
from monitored import break_a_sample, train_slowly, watched
from monitoring_files import (
    FOLDER,
    RULES,
    alerts,
    annotation_expressions,
    filled,
    metric_names,
    panel_expressions,
    rule_expressions,
)
from prometheus_programs import running_prometheus
from runs import make_partly_known, uml_tree
from shard_server import ShardServer, serving
from spots import collab_tree, make_spots, masked_list
from uml_dist.telemetry.table import DEVICES
from worlds import run_world

pytestmark = pytest.mark.launch

SCRAPE_SECONDS = 0.5
RUNS = ("uml", "ugmcl", "collab")

ON_A_GPU = {
    *(metric.name for metric in DEVICES),
    *("uml_peak_flops_per_second", "uml_mfu_ratio"),
    *("uml_gpu_memory_allocated_bytes", "uml_gpu_memory_reserved_bytes", "uml_gpu_memory_peak_bytes"),
}
"""Metrics that a training on CPUs does not have; test_backfilled.py executes what names them."""

EXPRESSIONS = [*panel_expressions(), *annotation_expressions(), *rule_expressions()]
GPU_ONLY = [one for one in EXPRESSIONS if metric_names(one.text) & ON_A_GPU]


def write_config(folder, targets) -> None:
    """The committed configuration, in a hurry."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": f"{SCRAPE_SECONDS * 1000:.0f}ms", "evaluation_interval": "1s"}
    config["rule_files"] = [f"{RULES}/*.yml"]
    config["scrape_configs"][0]["file_sd_configs"][0]["files"] = [f"{targets}/*.json"]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))


def configurations(folder, targets, url) -> dict:
    """A training of each recipe, with validations and checkpoints; that of `uml` reads remote shards with damage."""
    often = {"train": {"validate_every": 4, "log_every": 1}, "checkpoint": {"every": 3, "keep": 2}}
    uml = uml_tree(url, train__steps=12, data__on_bad_sample="skip", data__cache=str(folder / "cache"))
    volumes, spots = make_ellipsoids(folder / "volumes"), make_spots(folder / "spots")
    ugmcl = ugmcl_tree(volumes, labelled_list(folder / "volumes"), uncertainty="evidential")
    collab = collab_tree(spots, masked_list(folder / "spots"), evidential=True)
    found = {}
    for name, tree, steps in (("uml", uml, {}), ("ugmcl", ugmcl, {"steps": 8}), ("collab", collab, {})):
        found[name] = watched(tree, targets, **{**often, "train": {**often["train"], **steps}})
    return found


class Watcher(threading.Thread):
    """Notes which ranks Prometheus has scraped, and tells the runs whose ranks it has all scraped."""

    def __init__(self, server, folder) -> None:
        super().__init__()
        self.server, self.folder = server, folder
        self.seen: set[tuple[str, str]] = set()
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.2):
            for target in self.server.get("targets", state="active")["activeTargets"]:
                if target["health"] == "up":
                    self.seen.add((target["labels"]["run"], target["labels"]["rank"]))
            for run in RUNS:
                if {(run, "0"), (run, "1")} <= self.seen:
                    (self.folder / f"{run}.seen").touch()


@pytest.fixture(scope="module")
def trained(programs, tmp_path_factory):
    """Prometheus after the trainings, its time span, and what it saw of the targets meanwhile."""
    folder = tmp_path_factory.mktemp("trained")
    targets = folder / "targets"
    targets.mkdir()
    write_config(folder, targets)
    shards = make_partly_known(folder / "shards", samples=48)
    break_a_sample(shards / "train")
    with running_prometheus(programs, folder / "prometheus.yml", folder / "data") as server:
        watcher = Watcher(server, folder)
        watcher.start()
        start = time.time()
        try:
            with serving(ShardServer(shards)) as shard_server, ThreadPoolExecutor(3) as pool:
                trees = configurations(folder, targets, shard_server.url)
                worlds = {
                    name: pool.submit(run_world, 2, train_slowly, tree, str(folder / name), 0.25)
                    for name, tree in trees.items()
                }
                outcomes = {name: world.result()[0] for name, world in worlds.items()}
        finally:
            watcher.ended.set()
            watcher.join()
        assert {name: outcome[0] for name, outcome in outcomes.items()} == dict.fromkeys(RUNS, 0), outcomes
        yield server, (start, time.time()), watcher.seen


def test_prometheus_finds_all_ranks_of_each_run_by_their_targets(trained):
    _, _, seen = trained
    assert seen == {(run, rank) for run in RUNS for rank in ("0", "1")}


def test_ended_runs_are_no_targets_and_no_alert(trained):
    server, (_, end), _ = trained
    deadline = time.monotonic() + 30
    while server.get("targets", state="active")["activeTargets"]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # Pending at most: a rank stops answering up to 5 s before Prometheus takes note that its target has gone.
    assert server.query('ALERTS{alertname="TrainerDown", alertstate="firing"}', end) == []


def test_all_rules_are_evaluated_without_errors(trained):
    server, _, _ = trained
    rules = [rule for group in server.get("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} >= set(alerts())
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []


@pytest.mark.parametrize("expression", [one for one in EXPRESSIONS if one not in GPU_ONLY], ids=lambda one: one.place)
def test_an_expression_returns_data(trained, expression):
    server, (start, end), _ = trained
    # The windows of rules are longer than the trainings, but Grafana's are not.
    text = filled(expression.text, __rate_interval="4s", __range="60s")
    series = server.query_range(text, start, end, SCRAPE_SECONDS)
    values = [float(value) for one in series for _, value in one["values"]]
    assert any(value == value for value in values), text


@pytest.mark.parametrize("expression", GPU_ONLY, ids=lambda one: one.place)
def test_an_expression_for_gpus_is_valid_and_finds_nothing_on_cpus(trained, expression):
    server, (start, end), _ = trained
    assert set(GAUGES) & ON_A_GPU, "the fixture has values for them"
    if "or" not in expression.text.split():
        assert server.query_range(filled(expression.text), start, end, SCRAPE_SECONDS) == []
