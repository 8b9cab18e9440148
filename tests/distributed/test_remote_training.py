"""Training on shards behind a URL equals training on local shards, even over an unreliable network."""

import pytest

from runs import uml_tree
from shard_server import DroppingOnce, serving
from worldly import train_each
from worlds import run_world

pytestmark = pytest.mark.distributed


def test_losses_over_broken_connections_equal_those_of_the_folder(partly_known, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(DroppingOnce(partly_known)) as server:
        words = {"data__cache": str(tmp_path / "cache"), "data__workers": 1, "streams__train__shards": server.url}
        trees = [uml_tree(partly_known, train__steps=3), uml_tree(partly_known, train__steps=3, **words)]
        traces = run_world(2, train_each, trees)
        tars = server.asked_names(".tar")
    assert set(tars.values()) == {2}  # each broke once, was resumed, and was downloaded once for both ranks
    for local, remote in traces:
        assert local.losses == remote.losses
        assert local.keys == remote.keys
