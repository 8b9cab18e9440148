"""How often a training is started again after its ranks have failed."""

import pytest

from uml_dist.launch.restarts import Restarts


def save(run, name):
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / "latest").write_text(f"{name}\n")


def test_restarts_without_progress_are_counted(tmp_path):
    restarts = Restarts.of(tmp_path, 2)
    restarts = restarts.after(1)
    assert restarts.left == 1
    restarts = restarts.after(-9)
    assert restarts.left == 0
    assert restarts.after(1) is None


def test_a_newer_checkpoint_gives_all_restarts_back(tmp_path):
    restarts = Restarts.of(tmp_path, 1).after(1)
    assert restarts.left == 0
    save(tmp_path, "step-000002")
    restarts = restarts.after(1)
    assert (restarts.left, restarts.checkpoint) == (0, "step-000002")
    assert restarts.after(1) is None


@pytest.mark.parametrize("code", [0, 2, 75, 76])
def test_nothing_is_restarted_after_an_end_on_purpose(tmp_path, code):
    assert Restarts.of(tmp_path, 5).after(code) is None


def test_the_launcher_reads_what_was_written(tmp_path):
    save(tmp_path, "step-000002")
    restarts, environment = Restarts.of(tmp_path, 3), {}
    restarts.write(environment)
    assert Restarts.read(environment) == restarts
    assert Restarts.read({}) is None
