"""Reads what a run has left in its folder: configuration, status, figures and evaluations. Nothing is changed."""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from uml_shards.errors import ShardError
from uml_shards.names import check_name

from ..config.loading import read_config
from ..config.schema import RunConfig
from ..errors import UmlError
from ..metrics.selection import parse_selection
from .checkpoint_folder import NAME, checkpoints_in, find_checkpoint, name_of, named_by, place_of, pointers_in


class RunReader:
    """Reads the files of a run.

    Args:
        path: the run folder.

    Raises:
        UmlError: the folder does not contain a run.
    """

    def __init__(self, path: Path) -> None:
        if not (path / "config.toml").is_file():
            problem = "contains no run (no config.toml)" if path.is_dir() else "does not exist"
            raise UmlError(f"run folder {path} {problem}: name the folder of a run, such as runs/isic")
        self.path = path

    def config(self) -> RunConfig:
        """Return the run's resolved configuration.

        Raises:
            UmlError: it cannot be read.
        """
        return read_config(self.path / "config.toml")

    def checkpoints(self) -> Path:
        """Return the folder of the run's checkpoints, which contains at least one.

        Raises:
            UmlError: the run has no checkpoint.
        """
        folder = self.path / "checkpoints"
        if not checkpoints_in(folder):
            raise UmlError(f"run {self.path} has no checkpoint yet: train it first")
        return folder

    def checkpoint(self, name: str) -> Path:
        """Return the folder of a checkpoint.

        Args:
            name: "best", "best-NAME", "latest" or a name such as "step-000500".

        Raises:
            UmlError: the run has no such checkpoint.
        """
        folder = self.checkpoints()
        named = None
        if name in pointers_in(folder):
            named = find_checkpoint(self.path, name)
        elif NAME.fullmatch(name):
            named = place_of(folder, name)
        if named is not None and (named / "state.json").is_file() and named.parent == folder:
            return named
        there = [*sorted(named_by(folder)), *map(name_of, checkpoints_in(folder))]
        why = self._why_no_best(name)
        named = f"{name!r} ({why})" if why else repr(name)
        raise UmlError(f"run {self.path} has no checkpoint {named}: it has {', '.join(there)}: choose one of them")

    def _why_no_best(self, name: str) -> str:
        """Return why a validation has no best checkpoint; "" if it is unknown, or the name is not that of one."""
        validations = {f"best-{one}": (f"validations.{one}", given) for one, given in self.config().validations.items()}
        key, best = "train", self.config().train.best
        if name in validations:
            key, given = validations[name]
            best = given.best
        elif name != "best":
            return ""
        prefix = f"validation_{name.removeprefix('best-')}." if name in validations else "validation_"
        figures = {figure for record in self.records() for figure in record if figure.startswith(prefix)}
        selection = parse_selection(best, key=f"{key}.best").name
        if f"{prefix}{selection}" in figures:
            return ""
        return f"no validation could form {key}.best = {selection}" if figures else "there was no validation yet"

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield the records of metrics.jsonl: training steps have a `loss`, validations a `validation_loss`."""
        return json_objects(self.path / "metrics.jsonl")

    def last_validation(self, step: int) -> dict[str, Any]:
        """Return step, metrics, weights and rule for empty masks of the last validations up to a step, if any."""
        last: dict[str, Any] = {}
        for record in self.records():
            figures = {
                key.removeprefix("validation_"): value for key, value in record.items() if key.startswith("validation_")
            }
            at = record.get("step")
            if figures and isinstance(at, int) and at <= step:
                before = last["metrics"] if last.get("step") == at else {}
                rules = {key: record.get(key) for key in ("empty_masks", "weights")}
                last = {"step": at, "metrics": {**before, **figures}, **rules}
        return last

    def evaluations(self, checkpoint: str) -> Iterator[dict[str, Any]]:
        """Yield the metrics.json of every evaluation of a checkpoint."""
        for path in sorted((self.path / "evaluation").glob("*/metrics.json")):
            for record in json_objects(path, lines=False):
                if record.get("checkpoint") == checkpoint:
                    yield record


def run_folder(text: str) -> Path:
    """Parse the path of a run folder on the command line; its name appears in tables, pictures and metrics."""
    path = Path(text)
    try:
        check_name(path.resolve().name if text.isprintable() else text, "run folder")
    except ShardError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return path


def read_status(run: Path) -> Mapping[str, Any] | None:
    """Return the contents of a run folder's status.json; None if there is none.

    Raises:
        ValueError: it is damaged.
    """
    path = run / "status.json"
    if not path.is_file():
        return None
    status = from_json(path.read_bytes())
    if not isinstance(status, dict):
        raise ValueError(f"{path} is not a JSON object")
    return status


def json_objects(path: Path, lines: bool = True) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file, one per line or one in all; parts that a kill has cut short are left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    for part in text.splitlines() if lines else [text]:
        try:
            record = from_json(part)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record
