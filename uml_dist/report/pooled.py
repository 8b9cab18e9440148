"""Metrics of the cases of several evaluations together, formed anew from their cases.csv."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uml_shards.format.manifest import Manifest
from uml_shards.text import csv_value

from ..errors import UmlError
from ..metrics.cases import Cases, draw_weights
from ..metrics.columns import Columns
from ..metrics.families import (
    Calibration,
    Decisions,
    Grades,
    ImageClasses,
    Lesions,
    MetricFamily,
    PixelClasses,
    Selective,
    Surfaces,
)
from ..metrics.summary import draw_metrics, interval_of
from ..metrics.weighted import Floats, Metric, sum_of
from .records import Evaluated

FAMILIES: tuple[MetricFamily, ...] = (
    ImageClasses(), Decisions(), Grades(), PixelClasses(), Lesions(), Calibration(), Selective(), Surfaces(),
)  # fmt: skip

RELATIVE, ABSOLUTE = 1e-3, 2e-4
"""A metric can be formed from cases.csv, which has six digits, if that gives each run's own value this closely."""

SAME = ("image_nll", "image_vacuity", "pixel_nll", "pixel_vacuity", "lesion_nll", "pixel_brier", "lesion_brier")
"""Columns of cases.csv that are columns of the cases."""

Row = dict[str, str]


@dataclass(frozen=True)
class Pooled:
    """Metrics over the cases of all runs together.

    Attributes:
        metrics: value of each metric that can be formed.
        intervals: its bootstrap interval over the cases, or their patients.
        cases: number of cases.
        patients: number of patients; 0 if none is known.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    cases: int
    patients: int


def pool(evaluated: Sequence[Evaluated], names: Sequence[str]) -> Pooled:
    """Return metrics over the cases of all evaluations, of those that their cases.csv permit.

    Sums over pixels, such as those of the calibration error of the pixels, and the positive classes of binary tasks are
    not in cases.csv.

    Args:
        evaluated: evaluations of different cases, such as folds.
        names: the metrics.

    Raises:
        UmlError: a table cannot be read, or the evaluations have a case or a patient in common.
    """
    tables = [read_rows(one.folder / "cases.csv") for one in evaluated]
    _check_columns(evaluated, tables)
    _check_disjoint(evaluated, tables)
    interval = evaluated[0].record.interval
    own = []
    for table in tables:
        cases, metrics = _metrics(table)
        own.append({name: _value(metric, cases) for name, metric in metrics.items()})
    cases, metrics = _metrics([row for table in tables for row in table], interval.draws, interval.seed)
    permitted = [
        name
        for name in names
        if name in metrics
        and all(
            math.isclose(found.get(name, math.nan), one.record.metrics[name], rel_tol=RELATIVE, abs_tol=ABSOLUTE)
            for found, one in zip(own, evaluated, strict=True)
        )
    ]
    values = {name: _value(metrics[name], cases) for name in permitted}
    drawn = draw_metrics({name: metrics[name] for name in permitted}, cases)
    biased = {name: values[name] if name in interval.bias_corrected else None for name in permitted}
    intervals = {name: interval_of(draws, interval.level, biased[name]) for name, draws in drawn.items()}
    patients = cases.units if cases.patients else 0
    return Pooled(values, {name: one for name, one in intervals.items() if one is not None}, len(cases), patients)


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a cases.csv.

    Raises:
        UmlError: it cannot be read, or is no table of cases.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UmlError(f"{path} cannot be read: {error}: evaluate the run again") from None
    if not rows or any(None in row or None in row.values() or "key" not in row for row in rows):
        raise UmlError(f"{path} is not a table of cases: evaluate the run again")
    return rows


def _check_columns(evaluated: Sequence[Evaluated], tables: Sequence[Sequence[Row]]) -> None:
    for one, table in zip(evaluated, tables, strict=True):
        if list(table[0]) != list(tables[0][0]):
            raise UmlError(
                f"{evaluated[0].folder / 'cases.csv'} and {one.folder / 'cases.csv'} have different columns: evaluate "
                "the runs again, alike"
            )


def _check_disjoint(evaluated: Sequence[Evaluated], tables: Sequence[Sequence[Row]]) -> None:
    for name in ("key", "patient"):
        seen: dict[str, Evaluated] = {}
        for one, table in zip(evaluated, tables, strict=True):
            for value in {row.get(name, "") for row in table} - {""}:
                if value in seen:
                    what = "case" if name == "key" else "patient"
                    raise UmlError(
                        f"{seen[value].run} and {one.run} have the {what} {value!r} in common: folds must not overlap"
                    )
                seen[value] = one


class TableColumns(Columns):
    """Columns of cases that were read from cases.csv, which has the overlaps instead of the areas."""

    def overlap(self, number: int | str) -> tuple[Floats, Floats]:
        """Return Dice and IoU of a class or a lesion, each (N,), as they were written."""
        return self.column(f"dice_{number}"), self.column(f"iou_{number}")


def _metrics(rows: Sequence[Row], draws: int = 0, seed: int = 0) -> tuple[Cases, dict[str, Metric]]:
    """Return the cases of rows, and the metrics that their columns suffice for."""
    columns, manifest = _columns(rows)
    patients = tuple(row.get("patient", "") for row in rows)
    patients = patients if any(patients) else ()
    keys = tuple(row["key"] for row in rows)
    cases = Cases(keys, columns, {}, draw_weights(len(keys), draws, seed, patients), seed, patients)
    known = TableColumns(cases, manifest)
    found: dict[str, Metric] = {}
    likelihoods = []
    for family in FAMILIES:
        metrics = dict(family.metrics(known)) if manifest.classes or not isinstance(family, Grades) else {}
        if family.likelihood in metrics:
            likelihoods.append(metrics[family.likelihood])
        found |= metrics
    return cases, {"loss": sum_of(likelihoods), **found} if likelihoods else found


def _columns(rows: Sequence[Row]) -> tuple[dict[str, NDArray], Manifest]:
    """Return the columns of rows as they were before they were written, and the classes as a manifest has them."""
    titles = list(rows[0])
    begin = "probability_"
    classes = tuple(title.removeprefix(begin) for title in titles if title.startswith(begin))
    foreground = [name.removeprefix("dice_") for name in titles if name.startswith("dice_")]
    if "cup_to_disc" in titles:  # with that of rim and cup together, which is no class of its own
        foreground = [name for name in foreground if name != "disc"]
    lesions = "lesion_nll" in titles
    manifest = Manifest.model_construct(
        dataset="", split="", components=("png",), classes=classes, tasks={},
        mask_classes=() if lesions else ("background", *foreground), mask_names=tuple(foreground) if lesions else (),
    )  # fmt: skip
    numbers = {name: number for number, name in enumerate(classes)}
    columns: dict[str, NDArray] = {
        "label": np.array([numbers.get(csv_value(row.get("label", "")), -1) for row in rows]),
    }
    columns |= {f"{begin}{number}": _floats(rows, begin + name) for number, name in enumerate(classes)}
    for number, name in enumerate(foreground, 0 if lesions else 1):
        for kind in ("dice", "iou", "hd95", "asd", "assd"):
            if f"{kind}_{name}" in titles:
                columns[f"{kind}_{number}"] = _floats(rows, f"{kind}_{name}")
        columns[f"surface_failed_{number}"] = np.full(len(rows), np.nan)  # not in the table
    columns |= {name: _floats(rows, name) for name in titles if name in SAME or name.startswith("map_")}
    likelihood = columns.get("lesion_nll" if lesions else "pixel_nll")
    if likelihood is not None:
        columns["pixels"] = np.isfinite(likelihood).astype(np.float64)
    if "surface_unit" in titles:
        columns["surface_mm"] = np.array([row["surface_unit"] == "mm" for row in rows])
    return columns, manifest


def _floats(rows: Sequence[Row], name: str) -> Floats:
    """Return a column (N,), NaN for an empty cell.

    Raises:
        UmlError: a cell is not a number.
    """
    try:
        return np.array([float(row[name] or "nan") for row in rows])
    except ValueError as error:
        raise UmlError(f"cases.csv, column {name}: {error}: evaluate the run again") from None


def _value(metric: Metric, cases: Cases) -> float:
    return float(metric(cases.all)[0])
