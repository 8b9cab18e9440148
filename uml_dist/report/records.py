"""Reads evaluations that are already written: metrics.json, and what their runs were configured as."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from uml_shards.errors import reason_of
from uml_shards.text import shown

from ..errors import UmlError
from ..run.reader import json_objects
from ..watch.files import subfolders
from ..watch.state import read_tables

CEILING = "-ceiling"
"""Ending of the folder with the evaluation of the perfect model."""

FOLD = "fold"
"""Name under which the evaluations of held-out folds belong together; each has a folder of its own name."""

MOST_FOLDS = 100_000

LARGEST = 1e12

Finite = Annotated[float, Field(allow_inf_nan=False, ge=-LARGEST, le=LARGEST)]


class Fold(BaseModel):
    """Which part of the data was held out.

    Attributes:
        folds: number of folds.
        fold: number of the fold that was held out and evaluated.
        seed: seed of the draw of the folds.
    """

    model_config = ConfigDict(frozen=True)

    folds: int = Field(ge=2, le=MOST_FOLDS)
    fold: int = Field(ge=0)
    seed: int

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} does not exist: {self.folds} folds are numbered from 0")
        return self


class Interval(BaseModel):
    """How intervals were formed; see `evaluate.results.metrics_record`."""

    model_config = ConfigDict(frozen=True)

    level: Annotated[float, Field(gt=0, lt=1)]
    draws: int
    seed: int
    bias_corrected: tuple[str, ...] = ()


class Counts(BaseModel):
    """A table of counts, as far as it names classes."""

    model_config = ConfigDict(frozen=True)

    rows: tuple[str, ...] = ()


class Record(BaseModel):
    """A metrics.json, as far as a report of several runs needs it; the fields are those of the file."""

    model_config = ConfigDict(frozen=True)

    recipe: str
    dataset: str
    split: str
    data_digest: str
    metrics: dict[str, Finite]
    intervals: dict[str, tuple[Finite, Finite]]
    interval: Interval
    counts: dict[str, int]
    tables: dict[str, Counts] = {}
    definitions: dict[str, str]
    lower_is_better: tuple[str, ...]
    notes: dict[str, str] = {}
    empty_masks: str
    empty_masks_rule: str = ""
    checkpoint: str = ""
    step: int = 0
    weights: str = ""
    shards: str = ""
    fold: Fold | None = None
    folds_data_digest: str = ""
    ceiling: bool = False

    @property
    def image_classes(self) -> tuple[str, ...]:
        """The image classes, () without any or if they are too many for a confusion matrix."""
        return self.tables.get("confusion_matrix", Counts()).rows

    @property
    def mask_classes(self) -> tuple[str, ...]:
        """The pixel classes but the background, or the lesions."""
        begin = "empty_truth_"
        return tuple(name.removeprefix(begin) for name in self.counts if name.startswith(begin))


@dataclass(frozen=True)
class Evaluated:
    """An evaluation of a run.

    Attributes:
        run: the run folder.
        name: name of the run in the report, unique there.
        folder: folder of the evaluation.
        record: its metrics.json.
        settings: the configuration of the run, "table.key" -> value as text; {} if it cannot be read.
    """

    run: Path
    name: str
    folder: Path
    record: Record
    settings: Mapping[str, str]


def ceiling_of(folder: Path, digest: str) -> Mapping[str, float] | None:
    """Return the metrics of the perfect model beside an evaluation; None if there are none of the same data."""
    beside = folder.with_name(folder.name + CEILING) / "metrics.json"
    for record in json_objects(beside, lines=False):
        metrics = record.get("metrics")
        if record.get("data_digest") == digest and isinstance(metrics, dict):
            return {name: one for name, one in metrics.items() if isinstance(one, float) and abs(one) <= LARGEST}
    return None


def read_record(path: Path) -> Record:
    """Return the contents of a metrics.json.

    Raises:
        UmlError: it cannot be read, or is not one of this version.
    """
    try:
        return Record.model_validate(from_json(path.read_bytes()))
    except (OSError, ValueError, ValidationError) as error:
        raise UmlError(f"{path} cannot be read: {reason_of(error)}: evaluate the run again") from None


def read_evaluations(runs: Sequence[Path], split: str | None) -> list[Evaluated]:
    """Return the evaluation of each run that belongs to those of the others.

    Args:
        runs: run folders.
        split: folder of the evaluations below `evaluation`, such as "test", or "fold" for those of held-out folds; by
            default the only one that all runs have.

    Raises:
        UmlError: a run has no such evaluation, or there are several to choose from.
    """
    found = [_evaluations_of(run) for run in runs]
    if split is None:
        split = _common(runs, found)
    names = _names(runs)
    evaluated = []
    for run, name, folders in zip(runs, names, found, strict=True):
        if split not in folders:
            there = ", ".join(folders)
            raise UmlError(f"{run} has no evaluation {shown(split)}: it has {there}: evaluate it, or name another one")
        folder = folders[split]
        evaluated.append(Evaluated(run, name, folder, read_record(folder / "metrics.json"), _settings(run)))
    return evaluated


def _common(runs: Sequence[Path], found: Sequence[Mapping[str, Path]]) -> str:
    """Return the name of the only evaluation that all runs have.

    Raises:
        UmlError: there is none, or several.
    """
    common = list(found[0])
    for run, folders in zip(runs, found, strict=True):
        shared = [name for name in common if name in folders]
        if not shared:
            raise UmlError(
                f"{runs[0]} has the evaluations {', '.join(common)}, {run} has {', '.join(folders)}: evaluate the same "
                "split of all runs"
            )
        common = shared
    if len(common) > 1:
        raise UmlError(f"all runs have the evaluations {', '.join(common)}: name one by --split")
    return common[0]


def _evaluations_of(run: Path) -> dict[str, Path]:
    """Return the folders of a run's evaluations by name, in which that of a held-out fold is "fold".

    Raises:
        UmlError: the run does not exist, or has no evaluation.
    """
    if not run.is_dir():
        raise UmlError(f"run folder {run} does not exist: name the folders of runs, such as runs/seed0 runs/seed1")
    folders = {name: run / "evaluation" / name for name in subfolders(run, "evaluation")}
    found = {}
    for name, folder in folders.items():
        if (folder / "metrics.json").is_file() and not name.endswith(CEILING):
            record = next(json_objects(folder / "metrics.json", lines=False), {})
            of_fold = record.get("fold") is not None
            found[name.replace(str(record.get("split")), FOLD, 1) if of_fold else name] = folder
    if not found:
        raise UmlError(f"{run} has no evaluation with a metrics.json: evaluate it by evaluate.py --run {run}")
    return found


def _names(runs: Sequence[Path]) -> list[str]:
    """Return a name of each run: that of its folder, with as many of the folders above as make the names differ."""
    parts = [run.resolve().parts for run in runs]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-count:]) for one in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(run) for run in runs]


def _settings(run: Path) -> dict[str, str]:
    found: dict[str, str] = {}

    def add(prefix: str, table: Mapping[str, Any]) -> None:
        for key, value in table.items():
            if isinstance(value, dict):
                add(f"{prefix}{key}.", value)
            else:
                found[f"{prefix}{key}"] = str(value)

    add("", read_tables(run))
    return found
