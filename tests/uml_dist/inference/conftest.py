"""Small runs that predictions are made with."""

from pathlib import Path

import pytest

from runs import train, uml_tree
from uml_dist import load_run
from uml_dist.run.load import Run
from worlds import run_world


@pytest.fixture(scope="session")
def small_run_folder(partly_known, tmp_path_factory) -> Path:
    """A run of two steps on small phantom images in colour."""
    folder = tmp_path_factory.mktemp("inference") / "small"
    run_world(1, train, uml_tree(partly_known, train__steps=2), str(folder), True)
    return folder


@pytest.fixture(scope="session")
def small_run(small_run_folder) -> Run:
    """That run, on the CPU."""
    return load_run(small_run_folder, device="cpu")
