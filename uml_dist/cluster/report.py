"""Writes the tables, CSV files and plot of a check."""

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from uml_shards.text import csv_table

from .all_reduce import Collectives, Reduced
from .compare import Check
from .training import Outcome, Work


def checks_table(checks: Sequence[Check]) -> str:
    """Return a table with one line per check."""
    lines = [f"{'check':<34}{'result':<11}detail", "-" * 100]
    lines += [f"{check.name:<34}{check.result:<11}{check.detail}" for check in checks]
    return "\n".join(lines)


def collectives_table(rows: Sequence[Reduced]) -> str:
    """Return a table with one line per tensor size."""
    lines = [f"{'all-reduce of':>14}{'ms':>10}{'GB/s':>9}{'GB/s of a link':>16}", "-" * 49]
    for row in rows:
        bandwidths = f"{row.algorithm_bandwidth / 1e9:>9.2f}{row.bus_bandwidth / 1e9:>16.2f}"
        lines.append(f"{row.bytes / 2**20:>10.4g} MiB{1e3 * row.seconds:>10.3f}{bandwidths}")
    return "\n".join(lines)


def speed_rows(speeds: Mapping[int, Outcome]) -> list[dict[str, Any]]:
    """Return images/s for each number of ranks, with the speed-up over the fewest ranks measured."""
    rows = []
    for ranks, outcome in speeds.items():
        fewest = min(speeds)
        speed_up = outcome.speed / speeds[fewest].speed
        row = {"ranks": ranks, "images_per_second": outcome.speed, "speed_up": speed_up}
        row |= {"efficiency": speed_up * fewest / ranks, "data_wait": outcome.wait}
        rows.append({**row, "images_per_second_without_loading": outcome.speed_without_loading})
    return rows


def speed_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table with one line per number of ranks; "without loading": images/s if rank 0 did not wait for data."""
    head = (
        f"{'ranks':>5}{'images/s':>10}{'speed-up':>10}{'efficiency':>12}{'waits for data':>16}{'without loading':>17}"
    )
    lines = [head, "-" * len(head)]
    for row in rows:
        speed = f"{row['ranks']:>5}{row['images_per_second']:>10.1f}{row['speed_up']:>9.2f}x"
        waits = f"{100 * row['efficiency']:>10.0f} %{100 * row['data_wait']:>14.1f} %"
        lines.append(f"{speed}{waits}{row['images_per_second_without_loading']:>17.1f}")
    return "\n".join(lines)


def write_checks(path: Path, checks: Sequence[Check]) -> None:
    """Write one row per check."""
    _write(path, [{"check": one.name, "result": one.result, "detail": one.detail} for one in checks])


def write_collectives(path: Path, found: Collectives) -> None:
    """Write one row per tensor size."""
    common = {"device": found.device, "backend": found.backend, **_when()}
    _write(
        path,
        [
            {"bytes": row.bytes, "ranks": row.ranks, "seconds": row.seconds, "right": row.right}
            | {"gb_per_second": row.algorithm_bandwidth / 1e9, "link_gb_per_second": row.bus_bandwidth / 1e9}
            | common
            for row in found.rows
        ],
    )


def write_speeds(path: Path, rows: Sequence[Mapping[str, Any]], work: Work, device: str) -> None:
    """Write one row per number of ranks, each with the work, device, versions and date."""
    common = {"batch": work.batch, "size": work.size, "steps": work.steps, "device": device, **_when()}
    _write(path, [{**row, **common} for row in rows])


def write_plot(path: Path, rows: Sequence[Mapping[str, Any]], work: Work, device: str) -> None:
    """Plot images/s against ranks, next to a speed proportional to the number of ranks."""
    # Imported here because it takes a second, for which the ranks of the all-reduce need not wait.
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    ranks = [row["ranks"] for row in rows]
    single = rows[0]["images_per_second"] / ranks[0]
    figure, axis = pyplot.subplots(figsize=(6, 4))
    axis.plot(ranks, [single * count for count in ranks], "--", color="tab:gray", label="proportional to ranks")
    axis.plot(ranks, [row["images_per_second"] for row in rows], "o-", color="tab:blue", label="measured")
    axis.set_xticks(ranks)
    axis.set_ylim(bottom=0)
    axis.set_xlabel("ranks")
    axis.set_ylabel("images/s, all ranks together")
    axis.set_title(f"compact UML, {work.batch} images of {work.size} x {work.size} a step\n{device}", fontsize=10)
    axis.legend()
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _when() -> dict[str, str]:
    return {"torch": str(torch.__version__), "date": datetime.date.today().isoformat()}


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    cells = [[f"{value:.4g}" if isinstance(value, float) else value for value in row.values()] for row in rows]
    path.write_text(csv_table([list(rows[0]), *cells]), encoding="utf-8")
