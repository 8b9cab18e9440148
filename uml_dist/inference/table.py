"""The table of the cases: a row of figures each, and whether its prediction is accepted or referred to a person."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uml_shards.durable import replace_text
from uml_shards.text import csv_table

from .case import Case

Row = Mapping[str, Any]
"""Column -> figure, text or None."""

SCORES = ("image_vacuity", "image_entropy", "pixel_vacuity", "pixel_entropy")
"""Uncertainties by which cases are accepted or referred: the first one that a run predicts."""


def row_of(case: Case, name: str) -> dict[str, Any]:
    """Return the row of a case. Entropies are in nats; areas and volumes have their unit in the column's name."""
    row: dict[str, Any] = {"name": name, "input": case.source.shown}
    row["size"] = " x ".join(map(str, case.shape))
    if case.probability:
        row["prediction"] = max(case.probability, key=lambda name: case.probability[name])
        row |= {f"probability_{name}": value for name, value in case.probability.items()}
    row |= {score: value for score in SCORES if (value := getattr(case, score)) is not None}
    pixel = case.ready.geometry.pixel
    for name, count in case.areas().items():
        if pixel is not None:
            row[f"volume_ml_{name}"] = count * pixel
        else:
            row[f"{'voxels' if len(case.shape) == 3 else 'area_px'}_{name}"] = count
    return row


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV: six digits, an empty cell for a figure that a case lacks.

    Names that a spreadsheet would run as formulas get a leading apostrophe, see `uml_shards.text.csv_value`.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    replace_text(path, csv_table([columns, *([_cell(row.get(column)) for column in columns] for row in rows)]))


def write_failed(path: Path, failed: Mapping[str, str]) -> None:
    """Write the inputs without a prediction, each with its reason; no file if there are none."""
    if failed:
        replace_text(path, csv_table([["input", "reason"], *failed.items()]))
    else:
        path.unlink(missing_ok=True)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return "" if value is None else str(value)
