"""The state of a run: what it wrote itself, and what shows that it no longer can."""

import os
import time

import pytest

from uml_dist.watch.journal import Journal
from uml_dist.watch.state import State, read_state
from watched import CONFIG, append, make_run, training_record, write_status


def state_of(run) -> State:
    journal = Journal(run)
    journal.update()
    return read_state(run.name, run, journal)


def test_a_running_training_has_a_speed_and_an_end(tmp_path):
    state = state_of(make_run(tmp_path / "run"))
    assert (state.status, state.reason, state.step, state.planned, state.progress) == ("running", "", 200, 400, 0.5)
    assert state.seconds_per_step == pytest.approx(0.5)
    assert state.eta_seconds == pytest.approx(100.0)
    assert (state.recipe, state.phase, state.images_per_second, state.vacuity) == ("uml", "", 32.0, 0.5)
    assert state.validation == ("loss", 0.5)


@pytest.mark.parametrize(("status", "reason"), [("failed", "out of memory"), ("stopped", "stopped by SIGTERM")])
def test_an_ended_training_has_its_reason_and_no_eta(tmp_path, status, reason):
    state = state_of(make_run(tmp_path / "run", status, reason=reason))
    assert (state.status, state.reason, state.eta_seconds) == (status, reason, None)


def test_a_killed_training_has_stalled(tmp_path):
    run = make_run(tmp_path / "run")
    os.utime(run / ".owner", (time.time() - 100, time.time() - 100))
    assert "ended without recording why" in state_of(run).reason
    (run / ".owner").unlink()
    assert state_of(run).status == "stalled"


def test_a_training_that_lives_and_logs_nothing_has_stalled(tmp_path):
    run = make_run(tmp_path / "run")
    write_status(run, "running", 200, age=110)
    assert state_of(run).status == "running"
    write_status(run, "running", 200, age=130)
    state = state_of(run)
    assert (state.status, state.reason) == ("stalled", "its process lives, but has logged no step for 2 min")


def test_a_training_of_long_intervals_has_not_stalled(tmp_path):
    run = make_run(tmp_path / "run")
    append(run, [training_record(210, seconds_validation=600.0)])
    write_status(run, "running", 200, age=1000)
    assert state_of(run).status == "running"


def test_a_run_without_any_step_is_shown(tmp_path):
    run = make_run(tmp_path / "run", steps=0)
    state = state_of(run)
    assert (state.status, state.step, state.progress, state.eta_seconds, state.loss) == ("running", 0, 0.0, None, None)


@pytest.mark.parametrize(
    ("config", "planned"),
    [
        (CONFIG, 400),
        (CONFIG.replace("steps = 400", "epochs = 8.0"), 800),
        (CONFIG.replace("phases = []", 'phases = [{name = "a", steps = 30}, {name = "b", steps = 12}]'), 42),
        (CONFIG.replace("phases = []", 'phases = [{name = "a", steps = 30}, {name = "b"}]'), None),
        ("train = 1", None),
        ("not toml", None),
        ('[train]\nsteps = "many"', None),
    ],
)
def test_planned_steps_follow_from_the_configuration(tmp_path, config, planned):
    run = make_run(tmp_path / "run")
    (run / "config.toml").write_text(config)
    assert state_of(run).planned == planned


@pytest.mark.parametrize(
    "status", [b"", b"{", b"[]", b'{"status": "dancing"}', b'{"status": ["done"], "step": "x", "time": NaN}', b"\xff"]
)
def test_a_damaged_status_is_none(tmp_path, status):
    run = make_run(tmp_path / "run")
    (run / "status.json").write_bytes(status)
    state = state_of(run)
    assert (state.status, state.step, state.updated) == ("new", 200, None)


def test_the_newest_checkpoint_is_named(tmp_path):
    run = make_run(tmp_path / "run")
    for name in ("step-000100", "step-000200", "step-x", ".step-000300.tmp"):
        (run / "checkpoints" / name).mkdir(parents=True)
    assert state_of(run).checkpoint == 200
