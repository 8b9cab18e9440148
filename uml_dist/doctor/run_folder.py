"""Checks an existing run: its status and the address of its metrics."""

import time
import tomllib
from pathlib import Path

from ..run.checkpoint_folder import DamagedError, find_checkpoint
from ..run.death import note_death
from ..run.reader import read_status
from .finding import Finding, note, ok
from .network import METRICS_HOST, METRICS_PORT


def read_metrics_place(run: Path) -> tuple[str, int]:
    """Return `metrics.host` and `metrics.port` of a run, or their defaults if its configuration cannot be read."""
    try:
        metrics = tomllib.loads((run / "config.toml").read_text(encoding="utf-8")).get("metrics", {})
        return str(metrics.get("host", METRICS_HOST)), int(metrics.get("port", METRICS_PORT))
    except (OSError, ValueError, AttributeError, TypeError):
        return METRICS_HOST, METRICS_PORT


def check_run(run: Path) -> Finding:
    """Check the status of a run and whether its newest checkpoint exists; a resume verifies the checkpoint itself."""
    note_death(run)
    status = read_status(run)
    if status is None:
        return ok("run", f"{run} is not a run folder: a new run can start there")
    trouble = _trouble_with_latest(run)
    if trouble:
        remedy = f"python launchers/checkpoint.py verify --run {run}; a resume uses the newest valid checkpoint"
        return note("run", trouble, remedy)
    state, step = status.get("status"), status.get("step")
    if state == "running":
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(float(status.get("time", 0))))
        message = f"{run} has the status running, at step {step}, since {since}: it is training now, or was killed "
        message += "with its machine, or on another one"
        return note("run", message, "if none of its processes is left, the same command resumes it")
    if state == "failed":
        remedy = "fix the cause; then the same command resumes it"
        return note("run", f"{run} failed at step {step}: {status.get('reason')}", remedy)
    return ok("run", f"{run} is {state} at step {step}")


def _trouble_with_latest(run: Path) -> str:
    try:
        latest = find_checkpoint(run)
    except DamagedError as error:
        return str(error)
    if latest is None or latest.is_dir():
        return ""
    return f"{latest.with_name('latest')} names {latest.name}, which does not exist"
