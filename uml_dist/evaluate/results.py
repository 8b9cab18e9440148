"""What an evaluation leaves behind: metrics.json, cases.csv and the table that is printed."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from uml_shards.durable import replace_text
from uml_shards.format.manifest import Manifest
from uml_shards.read.truth import EmptyRule

from .cases import Case
from .columns import Columns
from .metrics import EMPTY_RULES, definition_of, intervals, is_overlap, summarise

DRAWS = 1000
LEVEL = 0.95


def metrics_record(
    cases: Sequence[Case], manifest: Manifest, empty: EmptyRule = "one", seed: int = 0
) -> dict[str, Any]:
    """All that metrics.json says of the cases themselves: metrics, intervals, counts and how they are defined.

    Args:
        cases: of a split.
        manifest: of that split.
        empty: see `summarise`.
        seed: of the bootstrap draws.
    """
    metrics = summarise(cases, manifest, empty)
    found = intervals(cases, manifest, empty, DRAWS, seed, LEVEL)
    return {
        "metrics": metrics,
        "intervals": {name: list(found[name]) for name in metrics if name in found},
        "interval": {"kind": "bootstrap percentile over cases", "level": LEVEL, "draws": DRAWS, "seed": seed},
        "counts": {"samples": manifest.samples, **Columns(cases, manifest, empty).counts()},
        "definitions": {name: definition_of(name) for name in metrics},
        "empty_masks": empty,
        "empty_masks_rule": EMPTY_RULES[empty],
    }


def write_metrics(path: Path, record: Mapping[str, Any]) -> None:
    """Write metrics.json."""
    text = json.dumps(record, indent=1, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text)


def write_cases(path: Path, cases: Sequence[Case], manifest: Manifest, empty: EmptyRule = "one") -> None:
    """Write cases.csv: a row per case by key, six digits, an empty cell for what a case has not."""
    columns = Columns(cases, manifest, empty)
    has_images, has_pixels = columns.has("image_nll"), columns.has("pixels")
    table: dict[str, Iterable[Any]] = {
        "key": [case["key"] for case in cases],
        "label": [manifest.classes[label] if label >= 0 else "" for label in columns.label],
    }
    if has_images:
        table["prediction"] = [manifest.classes[number] for number in columns.predicted]
        table |= {f"probability_{name}": columns.probability[:, k] for k, name in enumerate(manifest.classes)}
        table["image_nll"] = columns.column("image_nll")
    for name in ("image_vacuity", "pixel_vacuity", "pixel_nll"):
        if columns.has(name):
            table[name] = columns.column(name)
    for number, name in list(enumerate(manifest.mask_classes))[1:] if has_pixels else ():
        table[f"dice_{name}"], table[f"iou_{name}"] = columns.overlap(number)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows([_cell(value) for value in row] for row in zip(*table.values(), strict=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text.getvalue())


def printed_table(record: Mapping[str, Any]) -> str:
    """The metrics of a record with their intervals, for a terminal; below, the rule for empty masks if it has Dice."""
    width = max((len(name) for name in record["metrics"]), default=6)
    level = round(100 * record["interval"]["level"])
    lines = [f"{'metric':<{width}}  {'value':>7}  {level} % interval", "-" * (width + 27)]
    for name, value in record["metrics"].items():
        lines.append(f"{name:<{width}}  {value:>7.4f}  {printed_interval(record['intervals'].get(name))}".rstrip())
    if not record["metrics"]:
        lines.append("none: there are no labels or masks, or the predictions are no numbers")
    if any(map(is_overlap, record["metrics"])):
        lines += ["", f"empty masks: {record['empty_masks_rule']}"]
    return "\n".join(lines)


def printed_interval(interval: Sequence[float] | None) -> str:
    """An interval for a table."""
    return f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else ""


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else f"{value:.6g}"
