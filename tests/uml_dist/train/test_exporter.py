"""What a rank exports where, by its place in the world, and what is refused before any rank starts."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry

from certificates import make_certificate
from trainings import wait_until
from uml_dist.config.exporting import MetricsConfig
from uml_dist.errors import UmlError
from uml_dist.launch import World
from uml_dist.telemetry import Metrics
from uml_dist.telemetry.targets import Target, current_targets
from uml_dist.train.exporter import Exporter, check_export

ALONE = World(rank=0, size=1, local_rank=0, local_size=1)
SECOND_NODE = World(rank=2, size=4, local_rank=0, local_size=2, nodes=2)


@pytest.fixture
def registry() -> CollectorRegistry:
    return Metrics(run="r", recipe="uml", stage=1, world_size=1, rank=0, device="cpu").registry


@pytest.fixture(scope="module")
def opened() -> Iterator[list[Exporter]]:
    """Exporters whose servers are stopped together, as each one takes up to half a second."""
    made: list[Exporter] = []
    yield made
    with ThreadPoolExecutor(len(made)) as threads:
        list(threads.map(Exporter.close, made))


@pytest.fixture
def exporter(registry, tmp_path, opened) -> Iterator[Callable[..., Exporter]]:
    """Return a function that makes an exporter of a run in the folder of this test."""
    before = len(opened)

    def make(world: World = ALONE, run: str = "run", **settings) -> Exporter:
        config = MetricsConfig(**{"port": 0, "targets_dir": str(tmp_path / "targets"), **settings})
        opened.append(Exporter(config, registry, world, tmp_path / run, attempt=2, began=1.25))
        return opened[-1]

    yield make
    for one in opened[before:]:
        one.stop()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_rank_is_served_at_once_and_listed_when_it_begins(exporter, tmp_path):
    one = exporter()
    assert names(tmp_path) == []
    with urlopen(one.target.url, timeout=10) as answer:
        assert b"uml_run_info" in answer.read()
    one.begin([one.target])
    assert current_targets(tmp_path / "targets") == [one.target]
    assert (one.target.run, one.target.rank, one.target.attempt) == ("run", 0, 2)
    assert one.target.folder == str(tmp_path / "run")
    one.stop()
    one.stop()
    assert names(tmp_path / "targets") == []
    assert names(tmp_path / "run" / "metrics") == ["rank-0.prom"]


def test_textfiles_replace_the_server(exporter, tmp_path):
    (tmp_path / "textfiles").mkdir()
    one = exporter(run="a b\n", textfile_dir=str(tmp_path / "textfiles"))
    one.begin([one.target])
    assert one.target is None
    (name,) = wait_until(lambda: [name for name in names(tmp_path / "textfiles") if name.endswith(".prom")])
    assert name.startswith("a_b_n.rank0-")
    assert 'node="' in (tmp_path / "textfiles" / name).read_text()
    one.stop()
    assert names(tmp_path / "textfiles") == []
    assert names(tmp_path) == ["a b\n", "textfiles"]


def test_without_metrics_nothing_is_served_or_written(exporter, tmp_path):
    one = exporter(enabled=False)
    one.begin([one.target])
    one.stop()
    assert (one.target, names(tmp_path)) == (None, [])


def test_without_a_folder_of_targets_only_the_last_values_are_written(exporter, tmp_path):
    one = exporter(targets_dir="")
    one.begin([one.target])
    one.stop()
    assert names(tmp_path) == ["run"]


def test_the_last_values_of_ranks_that_are_no_more_are_removed(exporter, tmp_path):
    folder = tmp_path / "run" / "metrics"
    folder.mkdir(parents=True)
    for name in ("rank-1.prom", "rank-12.prom", "rank-x.prom", "other.prom"):
        (folder / name).touch()
    one = exporter()
    one.begin([one.target])
    one.stop()
    assert names(folder) == ["other.prom", "rank-0.prom", "rank-x.prom"]


def cluster(node: str, loopback: bool) -> list[Target | None]:
    """Targets of two nodes with two ranks each, of which `node` is the second one."""
    nodes = ("first", "first", node, node)
    addresses = [f"10.0.0.{rank}:9464" for rank in range(4)]
    return [Target(addresses[rank], "run", nodes[rank], rank, loopback=loopback) for rank in range(4)]


def ranks_listed(folder: Path) -> list[int]:
    return [target.rank for target in current_targets(folder)]


def test_a_node_lists_its_own_targets_if_no_other_machine_reaches_them(exporter, tmp_path):
    one = exporter(SECOND_NODE)
    one.begin(cluster(one.target.node, loopback=True))
    assert ranks_listed(tmp_path / "targets") == [2, 3]


def test_only_rank_0_lists_targets_that_other_machines_reach(exporter, tmp_path):
    one, first = exporter(SECOND_NODE), exporter(World(0, 4, 0, 2, 2))
    targets = cluster(one.target.node, loopback=False)
    one.begin(targets)
    assert ranks_listed(tmp_path / "targets") == []
    first.begin([*targets[:3], None])  # the last rank has found no free port
    assert ranks_listed(tmp_path / "targets") == [0, 1, 2]


def test_an_open_address_is_one_that_other_machines_reach_and_is_noted(exporter, tmp_path):
    one = exporter(host="0.0.0.0")
    assert not one.target.address.startswith("0.0.0.0")
    assert one.notes == ["metrics are open to the network without a password: set metrics.token_file"]
    token = tmp_path / "token"
    token.write_text("secret")
    assert exporter(host="0.0.0.0", token_file=str(token)).notes == []


def test_nothing_is_served_when_the_token_has_gone(exporter, tmp_path):
    one = exporter(token_file=str(tmp_path / "gone"))
    assert one.target is None
    assert one.notes[0].startswith(f"metrics are not served: metrics.token_file {tmp_path}/gone cannot be read")


def test_a_run_folder_that_cannot_be_written_is_a_warning(exporter, tmp_path, caplog):
    (tmp_path / "run").touch()
    with caplog.at_level(logging.WARNING):
        one = exporter()
        one.begin([one.target])
        one.stop()
    assert f"metrics are not written to {tmp_path}/run/metrics/rank-0.prom" in caplog.text


def test_what_the_settings_name_is_checked(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UmlError, match=f"metrics.textfile_dir {tmp_path}/none is not a folder that you can write to"):
        check_export(MetricsConfig(textfile_dir=f"{tmp_path}/none"))
    with pytest.raises(UmlError, match=f"metrics.targets_dir {tmp_path}/file is not a folder: name one"):
        check_export(MetricsConfig(targets_dir=f"{tmp_path}/file"))
    with pytest.raises(UmlError, match=r"metrics.token_file .*none cannot be read"):
        check_export(MetricsConfig(token_file=f"{tmp_path}/none"))
    assert check_export(MetricsConfig(token_file=f"{tmp_path}/none", enabled=False)) == ()
    assert check_export(MetricsConfig(textfile_dir=str(tmp_path))) == ()
    assert check_export(MetricsConfig(targets_dir=f"{tmp_path}/new")) == ()
    assert names(tmp_path) == ["file"]


def test_a_key_that_others_can_read_is_noted(tmp_path):
    certificate, key = make_certificate(tmp_path)
    key.chmod(0o644)
    (note,) = check_export(MetricsConfig(certificate=str(certificate), key=str(key)))
    assert note == f"metrics.key {key} can be read by other users: chmod 600 it"


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"certificate": "a"}, "certificate is set without key"),
        ({"key": "a"}, "key is set without certificate"),
        ({"textfile_dir": "a", "token_file": "b"}, "nothing listens with textfile_dir"),
        ({"textfile_dir": ""}, "textfile_dir is empty"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, problem):
    with pytest.raises(ValueError, match=problem):
        MetricsConfig(**settings)
