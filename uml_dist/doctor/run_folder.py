"""A run that is there already: how it stands, and where it serves its metrics."""

import json
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..run.checkpoint_folder import DamagedError, find_checkpoint
from .finding import Finding, note, ok
from .network import METRICS_HOST, METRICS_PORT


def read_metrics_place(run: Path) -> tuple[str, int]:
    """`metrics.host` and `metrics.port` of a run, or their defaults where it has no configuration that can be read."""
    try:
        metrics = tomllib.loads((run / "config.toml").read_text(encoding="utf-8")).get("metrics", {})
        return str(metrics.get("host", METRICS_HOST)), int(metrics.get("port", METRICS_PORT))
    except (OSError, ValueError, AttributeError, TypeError):
        return METRICS_HOST, METRICS_PORT


def check_run(run: Path) -> Finding:
    """The status of a run, and whether its newest checkpoint is there; whether that is whole, a resume checks."""
    status = _read_status(run)
    if status is None:
        return ok("run", f"{run} is no run folder: a run may begin there")
    trouble = _trouble_with_latest(run)
    if trouble:
        return note(
            "run", trouble, f"python launchers/checkpoint.py verify --run {run}; a run goes on from the newest whole"
        )
    state, step = status.get("status"), status.get("step")
    if state == "running":
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(float(status.get("time", 0))))
        says = f"{run} says running, at step {step}, since {since}: it trains now, or was killed"
        return note("run", says, "if no process of it is left: the same command goes on")
    if state == "failed":
        return note("run", f"{run} failed at step {step}: {status.get('reason')}", "fix that; the same command goes on")
    return ok("run", f"{run} is {state} at step {step}")


def _read_status(run: Path) -> Mapping[str, Any] | None:
    path = run / "status.json"
    if not path.is_file():
        return None
    status = json.loads(path.read_text(encoding="utf-8"))
    return status if isinstance(status, dict) else None


def _trouble_with_latest(run: Path) -> str:
    try:
        latest = find_checkpoint(run)
    except DamagedError as error:
        return str(error)
    if latest is None or latest.is_dir():
        return ""
    return f"{latest.with_name('latest')} names {latest.name}, which is not there"
