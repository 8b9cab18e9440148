"""Writes the run folder: configuration, status and metrics of a run."""

import json
import math
import shlex
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic_core import from_json

from uml_shards.durable import TEMPORARY, overwrite_text, replace_text
from uml_shards.text import printable

from ..config.loading import dump
from ..config.schema import RunConfig
from ..errors import UmlError
from .history import STARTS, read_history

PACKAGES = ("uml-dist", "torch", "deepspeed", "triton", "webdataset", "numpy")


class RunFolder:
    """The folder of a run. Only rank 0 writes; on the other ranks every method does nothing.

    Methods that write raise `UmlError` if a file cannot be written; what it contained before is kept.

    Args:
        path: path of the folder, which is created when something is written.
        writes: whether this process writes.

    Attributes:
        started: when this object was made, at the start of a training, in seconds since 1970 (UTC).
    """

    def __init__(self, path: Path, writes: bool) -> None:
        self.path = path
        self.writes = writes
        self.started = time.time()
        # Not a plain lock: a signal handler that writes the status may have interrupted the main thread doing so.
        self._lock = threading.RLock()

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def begin(self, config: RunConfig, step: int) -> None:
        """Prepare the folder for a run that starts or resumes after a step; this process must own it."""
        if self.writes:
            for unfinished in self.path.glob(f".*{TEMPORARY}"):  # of killed processes
                unfinished.unlink(missing_ok=True)
        self.write_config(config)
        self.forget_after(step)
        self._note_start(step)
        self.write_status("running", step)

    def _note_start(self, step: int) -> None:
        """Append a line to starts.jsonl."""
        if not self.writes:
            return
        attempt = read_history(self.path, step, self.started).attempt
        record = {"attempt": attempt, "step": step, "time": round(self.started, 3)}
        with self._writing(STARTS) as path:
            before = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
            # A kill may have cut the last line short.
            lines = [*before.splitlines(), json.dumps(record)]
            replace_text(path, "".join(line + "\n" for line in lines))

    def write_config(self, config: RunConfig) -> None:
        """Save the resolved configuration, with versions and command line as comments."""
        if not self.writes:
            return
        head = [f"# {printable(shlex.join(sys.argv))}", *(f"# {name} {number}" for name, number in versions().items())]
        with self._writing("config.toml") as path:
            replace_text(path, "\n".join(head) + "\n\n" + dump(config))

    def write_status(
        self, status: Literal["running", "done", "stopped", "failed"], step: int, reason: str | None = None
    ) -> None:
        """Write the status of the run, which the exit code of the launcher does not always show."""
        if not self.writes:
            return
        record = {"status": status, "step": step, "reason": reason, "time": round(time.time(), 3)}
        with self._lock, self._writing("status.json") as path:
            # A run writes `running` at every log line, which is too often to wait for the disk.
            replace_text(path, json.dumps(record) + "\n", durable=status != "running")

    def write_end(self, status: Literal["stopped", "failed"], step: int, reason: str) -> None:
        """Write how a run has ended before its last step, if at all possible: on a full disk as well."""
        try:
            self.write_status(status, step, reason)
        except UmlError:
            record = {"status": status, "step": step, "reason": reason, "time": round(time.time(), 3)}
            with self._lock, suppress(OSError):
                overwrite_text(self.path / "status.json", json.dumps(record) + "\n")

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append a record to metrics.jsonl."""
        if not self.writes:
            return
        with self._writing("metrics.jsonl") as path, path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def forget_after(self, step: int) -> None:
        """Remove the records of metrics.jsonl after a step to which the run has gone back."""
        path = self.path / "metrics.jsonl"
        if not self.writes or not path.is_file():
            return
        with self._writing("metrics.jsonl"):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _step(line) <= step]
            replace_text(path, "".join(line + "\n" for line in kept))

    @contextmanager
    def _writing(self, name: str) -> Iterator[Path]:
        """Give the path of a file to write.

        Raises:
            UmlError: it cannot be written.
        """
        path = self.path / name
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            yield path
        except OSError as error:
            raise UmlError(
                f"{path} cannot be written: {error.strerror or error}: make room or fix the disk, then resume with "
                f"--run {self.path}"
            ) from None


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
