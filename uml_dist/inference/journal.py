"""The record of finished cases in the folder of predictions, from which a repeated command continues."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uml_shards.durable import TEMPORARY, replace_text
from uml_shards.lock import lock_file

from ..errors import UmlError
from ..run.load import Run
from ..run.reader import json_objects
from .settings import PredictSettings
from .sources import Source

NAME = "predictions.jsonl"
FORMAT = 1


class Journal:
    """One line per finished or failed case, and before them what they were predicted with.

    Only one process may have it open; it is appended to and never rewritten, so a kill loses at most the last line.

    Args:
        out: the folder of the predictions; created if it is missing.
        run: the run.
        settings: the settings.

    Attributes:
        finished: identity of a case -> its line: name, row, files, and size and time of its input.
        failed: input -> reason.

    Raises:
        UmlError: another command is writing into the folder, it has predictions of another run or with other settings,
            or it is not a folder of predictions.
        OSError: the folder cannot be written.
    """

    def __init__(self, out: Path, run: Run, settings: PredictSettings) -> None:
        if out.exists() and not out.is_dir():
            raise UmlError(f"{out} is a file: name a folder by --out")
        self.out, self.path = out, out / NAME
        if out.is_dir() and any(out.iterdir()) and not self.path.exists() and not _only_lock(out):
            raise UmlError(f"{out} has other files than predictions: name a new or an empty folder by --out")
        out.mkdir(parents=True, exist_ok=True)
        self._lock = lock_file(out / ".lock", seconds=0)
        if self._lock is None:
            raise UmlError(f"another command is writing into {out}: wait for it, or name another folder by --out")
        for path in out.rglob(f".*{TEMPORARY}"):  # a kill has left them
            path.unlink(missing_ok=True)
        self.finished: dict[str, dict[str, Any]] = {}
        self.failed: dict[str, str] = {}
        mine = {"format": FORMAT, **_made_with(run), **settings.record}
        lines = list(json_objects(self.path)) if self.path.exists() else []
        if not lines:
            replace_text(self.path, json.dumps(mine) + "\n")
        elif lines[0] != mine:
            self.close()
            raise UmlError(f"{out} has predictions of {_difference(lines[0], mine)}: name another folder by --out")
        for line in lines[1:]:
            if isinstance(line.get("identity"), str) and isinstance(line.get("row"), dict):
                self.finished[line["identity"]] = line
        self._file = self.path.open("a", encoding="utf-8")
        if lines and not self.path.read_bytes().endswith(b"\n"):
            self._file.write("\n")  # a kill has cut the last line short

    @property
    def names(self) -> dict[str, str]:
        """Identity of a finished case -> its name."""
        return {identity: str(line["name"]) for identity, line in self.finished.items()}

    def has(self, source: Source) -> bool:
        """Whether a case is finished, its input unchanged, and all of its files are there."""
        line = self.finished.get(source.identity)
        if line is None or line.get("input") != state_of(source):
            return False
        return all((self.out / str(file)).is_file() for file in line.get("files", ()))

    def finish(self, source: Source, name: str, row: Mapping[str, Any], files: list[str]) -> None:
        """Record a finished case, whose files are complete."""
        line = {
            "identity": source.identity, "name": name, "input": state_of(source), "files": files, "row": dict(row),
        }  # fmt: skip
        self.finished[source.identity] = line
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def fail(self, source: Source, reason: str) -> None:
        """Note a case without a prediction; an earlier one, of another state of its input, no longer counts."""
        self.failed[source.shown] = reason
        self.finished.pop(source.identity, None)

    def close(self) -> None:
        """Make the record durable, and let other commands write into the folder."""
        if hasattr(self, "_file") and not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def state_of(source: Source) -> list[int]:
    """Return size and time of change of an input; of a DICOM series, of all files, and of shards, of the manifest."""
    path = source.path / "manifest.json" if source.kind == "sample" else source.path
    try:
        files = [path, *path.iterdir()] if path.is_dir() else [path, *source.more]
        found = [one.stat() for one in files]
    except OSError:
        return []
    return [sum(one.st_size for one in found), max(one.st_mtime_ns for one in found)]


def _made_with(run: Run) -> dict[str, Any]:
    manifest = run.checkpoint / "MANIFEST.json"
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else ""
    tables = {name: getattr(run.config, name).model_dump(mode="json") for name in ("windows", "evaluation")}
    return {"checkpoint": digest, "step": run.state.step, "weights": run.weights, **tables}


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if old.get("format") != new["format"]:
        return "another version"
    name = next(name for name in new if old.get(name) != new[name])
    words = {"checkpoint": "another run or checkpoint", "step": "another checkpoint", "weights": "other weights"}
    return words.get(name, f"other settings ({name}: {old.get(name)}, not {new[name]})")


def _only_lock(out: Path) -> bool:
    return [path.name for path in out.iterdir()] == [".lock"]
