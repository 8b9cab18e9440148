"""A small model that predictions are made with."""

from pathlib import Path

import pytest

from runs import uml_tree
from uml_dist import load_run
from uml_dist.run.load import Run
from untrained import write_untrained


@pytest.fixture(scope="session")
def small_run_folder(partly_known, tmp_path_factory) -> Path:
    """Exported weights for small phantom images in colour."""
    return write_untrained(uml_tree(partly_known), tmp_path_factory.mktemp("inference") / "small")


@pytest.fixture(scope="session")
def small_run(small_run_folder) -> Run:
    """That model, on the CPU."""
    return load_run(small_run_folder, device="cpu")
