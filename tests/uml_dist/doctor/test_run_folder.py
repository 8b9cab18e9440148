"""The check of an existing run."""

import subprocess
import sys
from pathlib import Path

import pytest

from uml_dist.config.exporting import MetricsConfig
from uml_dist.doctor.run_folder import check_run, read_metrics_place
from uml_dist.run.folder import RunFolder
from uml_dist.run.owner import OWNER
from uml_dist.run.reader import read_status

HOLDER = "import sys, time; from pathlib import Path; from uml_dist.run.owner import Owner\n"
HOLDER += "owner = Owner(Path(sys.argv[1])); print(flush=True); time.sleep(600)"


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "run", writes=True)


def test_folder_without_a_run_is_ok(tmp_path):
    assert check_run(tmp_path).state == check_run(tmp_path / "none").state == "ok"


@pytest.mark.parametrize(
    ("status", "state", "word"),
    [("done", "ok", "done at step 7"), ("stopped", "ok", "stopped"), ("running", "note", "or was killed")],
)
def test_status_of_a_run_is_reported(status, state, word, run):
    run.write_status(status, 7)
    found = check_run(run.path)
    assert (found.state, word in found.message) == (state, True)


def test_a_killed_run_is_a_note(run):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(run.path)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"\n"
    run.write_status("running", 7)
    assert "it is training now" in check_run(run.path).message
    holder.kill()
    holder.wait()
    found = check_run(run.path)
    reason = f"process {holder.pid} has ended without a word: it was probably killed"
    assert (found.state, found.message) == ("note", f"{run.path} failed at step 7: {reason}")
    assert read_status(run.path)["status"] == "failed"
    assert not (run.path / OWNER).exists()


def test_failed_run_is_a_note_with_the_reason(run):
    run.write_status("failed", 7, "a disk is full")
    found = check_run(run.path)
    assert (found.state, "at step 7: a disk is full" in found.message) == ("note", True)


def test_missing_newest_checkpoint_is_a_note(run):
    run.write_status("stopped", 7)
    (run.checkpoints / "step-000007").mkdir(parents=True)
    (run.checkpoints / "latest").write_text("step-000007\n")
    assert check_run(run.path).state == "ok"
    (run.checkpoints / "latest").write_text("step-000008\n")
    found = check_run(run.path)
    assert (found.state, "names step-000008, which does not exist" in found.message) == ("note", True)
    (run.checkpoints / "latest").write_text("../elsewhere\n")
    found = check_run(run.path)
    assert (found.state, "does not name a checkpoint" in found.message) == ("note", True)


def test_metrics_address_is_read_from_the_run_s_configuration(tmp_path):
    default = MetricsConfig()
    assert read_metrics_place(tmp_path) == (default.host, default.port)
    Path(tmp_path / "config.toml").write_text('[metrics]\nhost = "0.0.0.0"\nport = 9999\n')
    assert read_metrics_place(tmp_path) == ("0.0.0.0", 9999)
    Path(tmp_path / "config.toml").write_text("[metrics\n")
    assert read_metrics_place(tmp_path) == (default.host, default.port)
