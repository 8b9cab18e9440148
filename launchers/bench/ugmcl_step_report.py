"""Reads the times and the memory of a training of the step benchmark, and writes its table and CSV."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench_machine import facts
from run_seconds import seconds_by_record
from uml_dist.errors import UmlError
from uml_shards.durable import replace_text
from uml_shards.text import csv_table

PARTS = {
    "data": "waiting for samples",
    "host_to_device": "copying to the device",
    "distance_maps": "distance maps",
    "teacher": "teacher, one pass",
    "passes": "teacher, stochastic passes",
    "targets": "rest of the targets",
    "counts": "counts of the batch",
    "forward": "student, forward",
    "loss": "losses",
    "backward": "student, backward",
    "optimizer": "optimiser",
    "average": "averaging the teacher",
}
"""Spans in the order of a step -> titles. Others follow by their own names."""

MEMORY = {"peak_gigabytes": "peak memory, GB", "gpu_gigabytes": "peak GPU memory, GB"}


@dataclass(frozen=True)
class Measured:
    """The measurements of one variant.

    Attributes:
        variant: name of the variant.
        precision: "fp32" or "bf16".
        total: median seconds of a step.
        parts: median seconds of its parts, by name of the span.
        memory: `MEMORY` in 10^9 bytes, of what was measured.
    """

    variant: str
    precision: str
    total: float
    parts: Mapping[str, float]
    memory: Mapping[str, float]


def measured(variant: str, precision: str, run: Path, warm_up: int, output: str) -> Measured:
    """Return the measurements of a training that logged every step.

    Args:
        variant: name of the variant.
        precision: its precision.
        run: the run folder.
        warm_up: steps at the beginning to leave out.
        output: what the training printed, with its peak memory.

    Raises:
        UmlError: it logged no step after the warm-up.
    """
    steps = [parts for _, parts in seconds_by_record(run)][warm_up:]
    if not steps:
        raise UmlError(f"run {run} has no times of steps after the first {warm_up}")
    names = dict.fromkeys(name for parts in steps for name in parts)
    medians = {name: median(parts.get(name, 0.0) for parts in steps) for name in names}
    patterns = {"peak_gigabytes": r"peak memory ([\d.]+) GB", "gpu_gigabytes": r"([\d.]+) GB of GPU memory"}
    found = {name: re.search(pattern, output) for name, pattern in patterns.items()}
    memory = {name: float(match[1]) for name, match in found.items() if match}
    return Measured(variant, precision, median(sum(parts.values()) for parts in steps), medians, memory)


def printed_table(rows: Sequence[Measured], setting: Any) -> str:
    """Format a line per part in milliseconds, and a column per variant and precision."""
    size, where = " x ".join(map(str, setting.size)), facts()
    machine = f"{where['processor']} ({where['cpu_capability']}), {where['cores']} cores"
    machine = machine if setting.cpu else where["gpu"]
    lines = [
        f"UG-MCL, patches of {size}, width {setting.width:g}, 2 labelled and 2 unlabelled; {machine}",
        f"milliseconds of a step, median of {setting.steps} steps; passes: {setting.passes} stochastic passes, "
        f"{setting.passes_at_once} at once",
        "",
    ]
    columns = [f"{row.variant}, {row.precision}" for row in rows]
    widths = [max(12, len(column) + 2) for column in columns]
    titles = {**PARTS, **{name: name for row in rows for name in row.parts if name not in PARTS}}
    first = max(map(len, [*titles.values(), *MEMORY.values()]))

    def line(title: str, cells: Sequence[str]) -> str:
        return f"{title:<{first}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))

    lines += [line("", columns)]
    for name, title in titles.items():
        if any(name in row.parts for row in rows):
            lines.append(line(title, [f"{1000 * row.parts[name]:.1f}" if name in row.parts else "-" for row in rows]))
    lines.append(line("step", [f"{1000 * row.total:.1f}" for row in rows]))
    for name, title in MEMORY.items():
        if any(name in row.memory for row in rows):
            lines.append(line(title, [f"{row.memory[name]:.2f}" if name in row.memory else "-" for row in rows]))
    return "\n".join(lines)


def write_rows(path: Path, rows: Sequence[Measured], setting: Any) -> None:
    """Write the CSV: a row per variant, precision and metric, with settings, machine and versions."""
    where = {**{key: value for key, value in vars(setting).items() if key != "size"}, **facts()}
    where = {"size": "x".join(map(str, setting.size)), **where}
    table = [["variant", "precision", "metric", "value", *where]]
    for row in rows:
        seconds = {f"seconds_{name}": value for name, value in {**row.parts, "step": row.total}.items()}
        for name, value in {**seconds, **row.memory}.items():
            table.append([row.variant, row.precision, name, f"{value:.6g}", *map(str, where.values())])
    replace_text(path, csv_table(table))
