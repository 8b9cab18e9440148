"""Writes the tables, CSV files and plot of the step benchmark."""

import csv
import datetime
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch

from bench_machine import processor
from step_costs import Costs
from step_variants import NAMES, VARIANTS, Kind, Setting, Variant
from uml_dist.launch.precision import instruction_set

mpl.use("Agg")
from matplotlib import pyplot

Seconds = Mapping[Variant, float]
Memory = Mapping[Variant, Mapping[str, float]]
BASELINE = VARIANTS[0]
UNITS = {"parameters": 1e6, "multiply_adds": 1e9, "saved": 2**20}


def machine() -> dict[str, Any]:
    """Return the machine and versions that the numbers depend on."""
    return {
        "processor": processor(),
        "instructions": instruction_set(),
        "cores": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def _step_rows(seconds: Seconds, memory: Memory, loading: float) -> list[dict[str, Any]]:
    rows = []
    for variant in seconds:
        row: dict[str, Any] = {"variant": variant.name, "seconds": seconds[variant], "loading_seconds": loading}
        row["speed_up"] = seconds[BASELINE] / seconds[variant]
        for kind in ("peak", "step"):
            row[f"{kind}_gib"] = memory[variant][kind]
            row[f"{kind}_ratio"] = memory[variant][kind] / memory[BASELINE][kind]
        rows.append(row)
    return rows


def _cost_rows(parts: Mapping[Kind, Costs]) -> list[dict[str, Any]]:
    rows = []
    for part in (*parts["published"], "total"):
        row: dict[str, Any] = {"part": part}
        for cost, unit in UNITS.items():
            for kind, of_kind in parts.items():
                chosen = of_kind.values() if part == "total" else (of_kind[part],)
                row[f"{kind}_{cost}"] = sum(one[cost] for one in chosen) / unit
        rows.append(row)
    return rows


def print_steps(setting: Setting, seconds: Seconds, memory: Memory, loading: float) -> None:
    """Print one line per variant; `loading` is the seconds of one core per batch."""
    where = machine()
    machine_now = f"{where['processor']} ({where['instructions']}), {where['cores']} threads, load {where['load']}"
    print(f"\n{_title(setting)}; {machine_now}, torch {where['torch']}")
    print("peak: without libraries; step: also without parameters and moments; ratios are relative to the first line")
    print("steps load no data; loading: how much longer they take if no worker reads ahead\n")
    head = f"{'variant':34} {'s':>7} {'speed-up':>9} {'peak GiB':>9} {'ratio':>6} {'step GiB':>9} {'ratio':>6}"
    print(f"{head} {'loading':>9}")
    for row in _step_rows(seconds, memory, loading):
        print(
            f"{row['variant']:34} {row['seconds']:7.2f} {row['speed_up']:8.2f}x {row['peak_gib']:9.2f} "
            f"{row['peak_ratio']:6.2f} {row['step_gib']:9.2f} {row['step_ratio']:6.2f} "
            f"{100 * row['loading_seconds'] / row['seconds']:7.2f} %"
        )
    print(f"\na batch of the phantom, read, augmented and collated: {1e3 * loading:.1f} ms of one core")


def print_costs(parts: Mapping[Kind, Costs]) -> None:
    """Print one line per part, with parameters, multiply-adds and saved activations of each kind of network."""
    columns = [(cost, kind) for cost in UNITS for kind in parts]
    heads = {"parameters": "M parameters", "multiply_adds": "G multiply-adds", "saved": "MiB saved"}
    width = 13 * len(parts)
    print("\n" + " " * 16 + "".join(f"{heads[cost]:>{width}}" for cost in UNITS))
    print(f"{'part':16}" + "".join(f"{kind:>13}" for _, kind in columns))
    for row in _cost_rows(parts):
        print(f"{row['part']:16}" + "".join(f"{row[f'{kind}_{cost}']:13.2f}" for cost, kind in columns))
    total = _cost_rows(parts)[-1]
    for kind in parts:
        share = total[f"{kind}_saved"] / total["published_saved"]
        print(f"{NAMES[kind]}: saves {share:.2f} of the published network's activations")
    print("multiply-adds: of one forward pass; saved: kept for backward in float32, without checkpointing\n")


def write_steps(path: Path, setting: Setting, steps: int, seconds: Seconds, memory: Memory, loading: float) -> None:
    """Write one row per variant, each with setting, machine, versions and date."""
    common = {**vars(setting), "steps": steps, **machine()}
    _write(path, [{**row, **common} for row in _step_rows(seconds, memory, loading)])


def write_costs(path: Path, setting: Setting, parts: Mapping[Kind, Costs]) -> None:
    """Write one row per part: millions of parameters, 1e9 multiply-adds, MiB saved."""
    _write(path, [{**row, **vars(setting)} for row in _cost_rows(parts)])


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.4g}" if isinstance(value, float) else value for key, value in row.items()})


def write_plot(path: Path, setting: Setting, seconds: Seconds, memory: Memory) -> None:
    """Draw bars of seconds and of peak memory."""
    rows, where = _step_rows(seconds, memory, 0.0), machine()
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 3.4), sharey=True)
    names = [row["variant"] for row in rows]
    colours = ["tab:gray" if variant.kind == "published" else "tab:blue" for variant in seconds]
    for axis, key, label in zip(axes, ("seconds", "peak_gib"), ("seconds a step", "peak memory, GiB"), strict=True):
        bars = axis.barh(names, [row[key] for row in rows], color=colours)
        axis.bar_label(bars, fmt="%.2f", padding=3)
        axis.set_xlabel(label)
        axis.margins(x=0.15)
    axes[0].invert_yaxis()
    figure.suptitle(f"{_title(setting)}; {where['processor']}, {where['instructions']}, {where['date']}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _title(setting: Setting) -> str:
    return f"UML {setting.profile}, width {setting.width:g}, batch {setting.batch} at {setting.size} x {setting.size}"
