"""The files of an evaluation, metrics.json and cases.csv, and the printed table."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from uml_shards.durable import replace_text
from uml_shards.text import csv_table, shorten

from ..metrics.columns import Columns
from ..metrics.families import Outliers
from ..metrics.summary import EMPTY_RULES, definition_of, intervals, is_overlap, summarise
from .evaluation import Evaluation

DRAWS = 1000
LEVEL = 0.95

MOST_PRINTED = 12
"""Largest number of rows of a table of counts that is printed; metrics.json has it in any case."""

TITLE_LENGTH = 16
"""Longest title of a row or a column in a printed table of counts."""


def metrics_record(result: Evaluation) -> dict[str, Any]:
    """Return the part of metrics.json on the cases: metrics, intervals, counts and definitions."""
    cases, manifest, empty, families = result.cases, result.manifest, result.empty, result.families
    found = intervals(cases, manifest, empty, LEVEL, families)
    metrics = dict(result.metrics)
    second: dict[str, Any] = {}
    if result.second is not None:
        other = result.second
        families = (*families, Outliers())
        metrics |= summarise(other.cases, manifest, empty, (Outliers(),))
        found |= intervals(other.cases, manifest, empty, LEVEL, (Outliers(),))
        facts = {"dataset": other.manifest.dataset, "split": other.manifest.split, "data_digest": other.digest}
        second = {"second_split": {**facts, "cases": len(other.cases) - len(cases)}}
    definitions = {name: definition_of(name, families) for name in metrics}
    columns = Columns(cases, manifest, empty)
    patients = {"patients": cases.units} if cases.patients else {}
    return {
        "metrics": metrics,
        "left_out": result.left_out,
        "intervals": {name: list(found[name]) for name in metrics if name in found},
        "interval": {
            "kind": f"bootstrap percentile over {'patients' if cases.patients else 'cases'}",
            "bias_corrected": [name for name, definition in definitions.items() if definition.biased and name in found],
            "level": LEVEL,
            "draws": len(cases.draws),
            "seed": cases.seed,
        },
        "counts": {"samples": manifest.samples, **columns.counts(), **patients},
        "tables": {name: asdict(table) for family in families for name, table in family.counts(columns).items()},
        "definitions": {name: definition.text for name, definition in definitions.items()},
        "lower_is_better": [name for name, definition in definitions.items() if definition.lower_is_better],
        "notes": dict(result.notes),
        **second,
        "empty_masks": empty,
        "empty_masks_rule": EMPTY_RULES[empty],
    }


def write_metrics(path: Path, record: Mapping[str, Any]) -> None:
    """Write metrics.json."""
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text)


def write_cases(path: Path, result: Evaluation) -> None:
    """Write cases.csv: a row per case by key, six digits, an empty cell for a figure that a case lacks.

    Keys and classes that a spreadsheet would run as formulas get a leading apostrophe, see `uml_shards.text.csv_value`.
    """
    table = case_table(result)
    rows = [[_cell(value) for value in row] for row in zip(*table.values(), strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, csv_table([list(table), *rows]))


def case_table(result: Evaluation) -> dict[str, Iterable[Any]]:
    """Return the columns of cases.csv: title -> a text or a number for each case, NaN for one that a case lacks."""
    columns = Columns(result.cases, result.manifest, result.empty)
    table: dict[str, Iterable[Any]] = {
        "key": result.cases.keys,
        **({"patient": result.cases.patients} if result.cases.patients else {}),
        "label": [result.manifest.classes[label] if label >= 0 else "" for label in columns.label],
    }
    for family in result.families:
        table |= family.table(columns)
    return table


def printed_table(record: Mapping[str, Any]) -> str:
    """Return the metrics of a record with their intervals, and notes on what limits them."""
    width = max((len(name) for name in record["metrics"]), default=6)
    level = round(100 * record["interval"]["level"])
    lines = [f"{'metric':<{width}}  {'value':>7}  {level} % interval", "-" * (width + 27)]
    for name, value in record["metrics"].items():
        lines.append(f"{name:<{width}}  {value:>7.4f}  {printed_interval(record['intervals'].get(name))}".rstrip())
    if not record["metrics"]:
        lines.append("none: there are no labels or masks, or the predictions are not numbers")
    for title, table in record["tables"].items():
        if len(table["rows"]) <= MOST_PRINTED:
            lines += ["", *_count_lines(title, table)]
    notes = []
    if "patients" in record["counts"]:
        notes.append(f"intervals: of {record['counts']['patients']} patients, drawn with all their cases")
    if record["interval"]["bias_corrected"]:
        *first, last = record["interval"]["bias_corrected"]
        names = f"{', '.join(first)} and {last}" if first else last
        notes.append(f"{names}: larger in small samples, for which the interval is corrected")
    by_need: dict[str, list[str]] = {}
    for name, need in record["left_out"].items():
        by_need.setdefault(need, []).append(name)
    notes += [f"left out, needs {need}: {', '.join(names)}" for need, names in by_need.items()]
    notes += [f"{title.replace('_', ' ')}: {line}" for title, line in record["notes"].items()]
    if "second_split" in record:
        other = record["second_split"]
        notes.append(f"ood_auroc: against {other['cases']} images of {other['dataset']} {other['split']}")
    if any(map(is_overlap, record["metrics"])):
        notes.append(f"empty masks: {record['empty_masks_rule']}")
    lines += ["", *notes] if notes else []
    return "\n".join(lines)


def printed_interval(interval: Sequence[float] | None) -> str:
    """Format an interval for a table."""
    return f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""


def _count_lines(title: str, table: Mapping[str, Any]) -> list[str]:
    """Return the printed lines of a table of counts, with its columns right-aligned."""
    columns = [shorten(name, TITLE_LENGTH) for name in table["columns"]]
    rows = [shorten(name, TITLE_LENGTH) for name in table["rows"]]
    cells = [list(map(str, row)) for row in table["values"]]
    first = max(map(len, rows), default=0)
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = [f"{title.replace('_', ' ')}: {table['text']}"]
    for name, values in zip(["", *rows], [columns, *cells], strict=True):
        lines.append("  ".join([f"{name:<{first}}", *(f"{v:>{w}}" for v, w in zip(values, widths, strict=True))]))
    return lines


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"
