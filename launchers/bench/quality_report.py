"""Writes the table and the CSV of the quality benchmark."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from quality_results import Compared, Comparison, Interval, Result, Summary
from uml_shards.text import csv_table

WIDTH = 40


def printed_table(title: str, comparison: Comparison) -> str:
    """Format a line per metric: mean and standard deviation over the seeds of each method, and the difference."""
    methods, seeds = comparison.methods, comparison.seeds
    both = len(methods) == 2
    head = f"{'':<{WIDTH}}{'better':<8}" + "".join(f"{method:>10}{'sd':>8}" for method in methods)
    head += f"{' - '.join(methods):>14}   95 % interval" if both else ""
    lines = [f"{title}; seeds {', '.join(map(str, seeds))}", "", head, "-" * (len(head) + 6 * both)]
    for row in comparison.rows:
        cells = "".join(_cells(row.methods.get(method), row.row.digits) for method in methods)
        lines.append(f"{row.row.title:<{WIDTH}}{row.row.better:<8}{cells}{_difference(row)}".rstrip())
    return "\n".join([*lines, "", *_notes(comparison)])


def write_rows(path: Path, results: Sequence[Result]) -> None:
    """Write the CSV: a row per method, seed and metric, with data, settings, versions and machine."""
    facts = list(dict.fromkeys(name for result in results for name in result.facts))
    rows = [
        [result.method, result.seed, *pair, *(result.facts.get(name, "") for name in facts)]
        for result in results
        for pair in _rounded(result)
    ]
    path.write_text(csv_table([["method", "seed", "metric", "value", *facts], *rows]), encoding="utf-8")


def printed_interval(interval: Interval | None) -> str:
    """Format the interval of a difference."""
    return f"{interval[0]:+.3f} to {interval[1]:+.3f}" if interval else ""


def _cells(summary: Summary | None, digits: int) -> str:
    if summary is None:
        return f"{'-':>10}{'':>8}"
    deviation = "" if math.isnan(summary.deviation) else f"{summary.deviation:.{digits}f}"
    return f"{summary.mean:>10.{digits}f}{deviation:>8}"


def _difference(row: Compared) -> str:
    if row.difference is None:
        return ""
    return f"{row.difference:>+14.3f}   {printed_interval(row.interval)}"


def _notes(comparison: Comparison) -> Iterator[str]:
    yield "ECE: expected calibration error; NLL: negative log-likelihood in nats."
    if len(comparison.seeds) > 1:
        yield f"sd: standard deviation over the {len(comparison.seeds)} seeds."
    if len(comparison.methods) == 2:
        yield "95 % interval: of the difference averaged over the seeds, by a bootstrap over the images, with the same"
        yield "draws for all runs. It covers the choice of images, not that of other seeds."
    if any(row.row.instead for row in comparison.rows):
        yield "*: a method without vacuity is judged by its entropy. Each method is judged on its own errors."


def _rounded(result: Result) -> Iterator[tuple[str, str]]:
    for name, value in result.values.items():
        yield name, f"{value:.6g}"
