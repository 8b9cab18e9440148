"""Writes the run folder: configuration, status and metrics of a run."""

import json
import math
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic_core import from_json

from uml_shards.durable import replace_text

from ..config.loading import dump
from ..config.schema import RunConfig

PACKAGES = ("uml-dist", "torch", "deepspeed", "triton", "webdataset", "numpy")


class RunFolder:
    """The folder of a run. Only rank 0 writes; on the other ranks every method does nothing.

    Args:
        path: path of the folder, which is created when something is written.
        writes: whether this process writes.
    """

    def __init__(self, path: Path, writes: bool) -> None:
        self.path = path
        self.writes = writes

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def begin(self, config: RunConfig, step: int) -> None:
        """Prepare the folder for a run that starts or resumes after a step."""
        self.write_config(config)
        self.forget_after(step)
        self.write_status("running", step)

    def write_config(self, config: RunConfig) -> None:
        """Save the resolved configuration, with versions and command line as comments."""
        if not self.writes:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        head = [f"# {' '.join(sys.argv)}", *(f"# {name} {number}" for name, number in versions().items())]
        (self.path / "config.toml").write_text("\n".join(head) + "\n\n" + dump(config), encoding="utf-8")

    def write_status(
        self, status: Literal["running", "done", "stopped", "failed"], step: int, reason: str | None = None
    ) -> None:
        """Write the status of the run, which the exit code of the launcher does not always show."""
        if not self.writes:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        record = {"status": status, "step": step, "reason": reason, "time": round(time.time(), 3)}
        replace_text(self.path / "status.json", json.dumps(record) + "\n")

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append a record to metrics.jsonl."""
        if not self.writes:
            return
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def forget_after(self, step: int) -> None:
        """Remove the records of metrics.jsonl after a step to which the run has gone back."""
        path = self.path / "metrics.jsonl"
        if not self.writes or not path.is_file():
            return
        kept = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if _step(line) <= step]
        replace_text(path, "".join(line + "\n" for line in kept))


def _step(line: str) -> float:
    """Return the step of a line of metrics.jsonl; infinite for a line that a kill has truncated."""
    try:
        record = from_json(line)
    except ValueError:
        return math.inf
    step = record.get("step") if isinstance(record, dict) else None
    return step if isinstance(step, int) else math.inf


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that results depend on."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
