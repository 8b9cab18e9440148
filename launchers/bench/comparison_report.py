"""Writes the CSV of a comparison, and formats its numbers."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from comparison_results import Interval, Result, Summary
from uml_shards.durable import replace_text
from uml_shards.text import csv_table


def write_rows(path: Path, results: Sequence[Result]) -> None:
    """Write the CSV: a row per method, seed and metric, with data, settings, versions and machine."""
    facts = list(dict.fromkeys(name for result in results for name in result.facts))
    rows = [
        [result.method, result.seed, *pair, *(result.facts.get(name, "") for name in facts)]
        for result in results
        for pair in _rounded(result)
    ]
    replace_text(path, csv_table([["method", "seed", "metric", "value", *facts], *rows]))


def printed_interval(interval: Interval | None, digits: int = 3) -> str:
    """Format the interval of a difference; nothing without one."""
    return f"{interval[0]:+.{digits}f} to {interval[1]:+.{digits}f}" if interval else ""


def printed_deviation(summary: Summary, digits: int) -> str:
    """Format the standard deviation over the seeds; nothing for one seed."""
    return "" if math.isnan(summary.deviation) else f"{summary.deviation:.{digits}f}"


def _rounded(result: Result) -> Iterator[tuple[str, str]]:
    for name, value in result.values.items():
        yield name, f"{value:.6g}"
