"""The templates for clusters, on two machines that are both this one, with programs that stand in for SLURM's."""

import json
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from fake_slurm import install_slurm, job

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "launchers" / "slurm"
LIMIT_SECONDS = 900
"""After which a job hangs; a busy machine takes minutes to start four ranks."""


def submit(folder: Path, shards: Path) -> subprocess.Popen[bytes]:
    """Start the job script as SLURM does."""
    words = [f"streams.train.shards={shards}", "streams.train.count=4", "model.width=0.0625", "train.steps=30"]
    words += ["train.log_every=1", "train.validate_every=1000000", "data.workers=0", "metrics.enabled=false"]
    command = ["bash", str(TEMPLATES / "train.sbatch"), "--cpu", "--run", str(folder / "run"), *words]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=job(folder / "slurm"))


def wait_for(text: str, folder: Path, running: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while text not in (folder / "log").read_text():
        assert running.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.launch
def test_a_job_that_is_warned_of_its_end_is_queued_again_and_continues(partly_known, tmp_path):
    install_slurm(tmp_path / "slurm")
    run, requeued = tmp_path / "run", tmp_path / "slurm" / "requeued"
    script = submit(tmp_path, partly_known)
    try:
        wait_for("step 1/", tmp_path, script)
        script.send_signal(signal.SIGUSR1)
        assert script.wait(LIMIT_SECONDS) == 75, (tmp_path / "log").read_text()
        status = json.loads((run / "status.json").read_text())
        assert (status["status"], status["reason"]) == ("stopped", "stopped by SIGUSR1")
        assert status["step"] < 30
        assert requeued.read_text().split() == [job(tmp_path / "slurm")["SLURM_JOB_ID"]]
        script = submit(tmp_path, partly_known)
        assert script.wait(LIMIT_SECONDS) == 0, (tmp_path / "log").read_text()
    finally:
        if script.poll() is None:
            for process in psutil.Process(script.pid).children(recursive=True):
                process.kill()
            script.kill()
    log = (tmp_path / "log").read_text()
    assert log.count("2 CPU processes") == 2
    assert f"resumed at step {status['step']}" in log
    assert requeued.read_text().count("\n") == 1
    assert json.loads((run / "status.json").read_text())["status"] == "done"
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 31))


def test_deepspeed_reads_the_template_of_a_hostfile():
    from deepspeed.launcher.runner import fetch_hostfile

    assert fetch_hostfile(str(TEMPLATES / "hostfile")) == {"node1": 8, "node2": 8}


def test_the_job_script_is_valid_bash_and_leaves_no_setting_of_slurm_below_its_first_command():
    script = TEMPLATES / "train.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    lines = [line for line in script.read_text().splitlines()[1:] if line]
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    # SLURM ignores its settings after the first command.
    assert not any(line.startswith("#SBATCH") for line in lines[first:])
