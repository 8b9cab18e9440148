"""Plots of the microbenchmarks: time by size, speed-up, memory, and shares of the hardware's speed.

PYTHONPATH=kernels:kernels/bench:tests/support python kernels/bench/plots.py micro.csv --out .
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot

from report import read_rows

COLOURS = {"ours": "tab:blue", "eager": "tab:gray", "compiled": "tab:orange", "copy": "tab:green"}
Rows = Sequence[dict[str, Any]]


def _of(rows: Rows, **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _centre(rows: Rows) -> dict[str, Any]:
    return {key: rows[0][key] for key in ("classes", "dtype", "layout")}


def _names(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["kernel"] for row in rows))


def _save(figure: Any, path: Path, rows: Rows, title: str) -> str:
    figure.suptitle(f"{title}; {rows[0]['device']}, {rows[0]['date']}", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path.name


def _by_size(rows: Rows, out: Path) -> str:
    chosen = _of(rows, metric="time", mode="full", **_centre(rows)) or _of(rows, metric="time", **_centre(rows))
    names = _names(chosen)
    figure, axes = pyplot.subplots(1, len(names), figsize=(2.6 * len(names) + 1, 3.2), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for provider, colour in COLOURS.items():
            line = sorted(_of(chosen, kernel=name, provider=provider), key=lambda row: row["height"])
            axis.plot([row["height"] for row in line], [row["p50"] for row in line], "o-", color=colour, label=provider)
        axis.set(xscale="log", yscale="log", title=name, xlabel="side, pixels")
    axes[0][0].set_ylabel("ms, forward and backward")
    axes[0][0].legend(fontsize=7)
    return _save(figure, out / "micro_time.png", rows, "time by size")


def _bars(rows: Rows, bars: dict[str, float], path: Path, title: str, unit: str) -> str:
    figure, axis = pyplot.subplots(figsize=(8, 0.22 * len(bars) + 1.2))
    axis.bar_label(axis.barh(list(bars), list(bars.values()), color="tab:blue"), fmt="%.2f", padding=3, fontsize=7)
    axis.set_xlabel(unit)
    axis.tick_params(labelsize=7)
    axis.margins(x=0.12)
    axis.invert_yaxis()
    return _save(figure, path, rows, title)


def _label(row: dict[str, Any]) -> str:
    return f"{row['kernel']} {row['classes']} {row['dtype']} {row['layout']} {row['height']}²"


def _ratios(rows: Rows, metric: str) -> dict[str, float]:
    """Return the ratios of eager to ours for forward and backward together."""
    values = {(row["provider"], _label(row)): row["p50"] for row in _of(rows, metric=metric, mode="full")}
    return {
        name: values["eager", name] / value
        for (provider, name), value in values.items()
        if provider == "ours" and value > 0 and ("eager", name) in values
    }


def _shares(rows: Rows) -> dict[str, float]:
    """Return the share of our time that each limit takes at the central setting."""
    return {
        f"{_label(row)} {row['mode']}: {_share_of(row)}": row["p50"]
        for metric in dict.fromkeys(row["metric"] for row in rows if row["metric"].startswith("share of"))
        for row in _of(rows, metric=metric, **_centre(rows))
        if row["height"] == rows[0]["height"]
    }


def _share_of(row: dict[str, Any]) -> str:
    name = row["metric"].removeprefix("share of ")
    return f"limit ({row['limit']})" if name == "limit" else name


def draw(rows: Rows, out: Path) -> list[str]:
    """Write up to five PNG files to a folder and return their names."""
    if not rows:
        return []
    names = [_by_size(rows, out)]
    # Metric, file, title and unit of each bar plot
    ratios = (
        ("time", "micro_speed_up.png", "forward and backward", "times faster than eager"),
        ("graph", "micro_graphs.png", "forward and backward in CUDA graphs", "times faster than eager"),
        ("memory", "micro_memory.png", "forward and backward", "eager's peak memory / ours"),
    )
    for metric, name, title, unit in ratios:
        if bars := _ratios(rows, metric):
            names.append(_bars(rows, bars, out / name, title, unit))
    if shares := _shares(rows):
        names.append(_bars(rows, shares, out / "micro_roofline.png", "least time / time", "share"))
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    """Plot the results of a file of microbenchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="micro.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder of the PNG files")
    chosen = parser.parse_args(arguments)
    names = draw(read_rows(chosen.rows), chosen.out)
    print(f"plots: {' '.join(names) or 'none: the file has no results'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
