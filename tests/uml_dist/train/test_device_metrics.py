"""A training exports what it uses if it exports anything."""

from pathlib import Path

import torch
from prometheus_client import CollectorRegistry, generate_latest

from runs import uml_tree
from uml_dist.config.loading import validate
from uml_dist.launch import Devices
from uml_dist.train.device_metrics import collect_devices

CPU = torch.device("cpu")


def collected(tmp_path: Path, **words) -> tuple[str, int]:
    """Return what is exported, and the number of hooks."""
    registry = CollectorRegistry()
    config = validate(uml_tree(tmp_path, **words), "test")
    _, hooks = collect_devices(registry, config, CPU, Devices("cpu"), 0, tmp_path)
    return generate_latest(registry).decode(), len(hooks)


def test_training_without_an_exporter_has_no_collectors_and_no_hooks(tmp_path):
    assert collected(tmp_path) == ("", 0)


def test_space_is_that_of_the_runs_and_the_caches_file_systems(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    unused, hooks = collected(tmp_path, metrics__enabled=True)
    assert hooks == 1
    assert 'uml_disk_free_bytes{folder="run"}' in unused
    assert "cache" not in unused
    (tmp_path / "uml_shards").mkdir()
    assert 'uml_disk_free_bytes{folder="cache"}' in collected(tmp_path, metrics__enabled=True)[0]
    (tmp_path / "own").mkdir()
    (tmp_path / "uml_shards").rmdir()
    own, _ = collected(tmp_path, metrics__enabled=True, data__cache=str(tmp_path / "own"))
    assert 'uml_disk_size_bytes{folder="cache"}' in own
