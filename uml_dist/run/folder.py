"""The run folder: configuration, status and metrics of a run, where scripts and people find them."""

import json
import math
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from uml_shards.durable import replace_text

from ..config.loading import dump
from ..config.schema import RunConfig

PACKAGES = ("uml-dist", "torch", "deepspeed", "triton", "webdataset", "numpy")


class RunFolder:
    """One run's folder. Only rank 0 writes; for the other ranks every method does nothing.

    Args:
        path: of the folder; made when something is written.
        writes: whether this process is the one that writes.
    """

    def __init__(self, path: Path, writes: bool) -> None:
        self.path = path
        self.writes = writes

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    def begin(self, config: RunConfig, step: int) -> None:
        """Make the folder ready for a run that begins, or goes on, after a step."""
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
        """Say how the run stands; the launcher's exit code does not always tell."""
        if not self.writes:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        record = {"status": status, "step": step, "reason": reason, "time": round(time.time(), 3)}
        replace_text(self.path / "status.json", json.dumps(record) + "\n")

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add a line to metrics.jsonl."""
        if not self.writes:
            return
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop the lines of metrics.jsonl beyond a step that the run has gone back to."""
        path = self.path / "metrics.jsonl"
        if not self.writes or not path.is_file():
            return
        kept = [line for line in path.read_text().splitlines() if _step(line) <= step]
        replace_text(path, "".join(line + "\n" for line in kept))


def _step(line: str) -> float:
    """The step of a line of metrics.jsonl; infinite for one that a kill has cut short."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def versions() -> dict[str, str]:
    """Installed versions of the packages that results depend on."""
    found = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
