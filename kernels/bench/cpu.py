"""Times UML's mutual loss on the CPU, forward and backward: `make bench`.

Three variants take turns in one process: a composition of torch's operations, the library's CPU implementations, and
these compiled. The peak memory and the compilation time of each are measured in separate processes.

    PYTHONPATH=kernels:kernels/bench:tests/support python kernels/bench/cpu.py --rounds 20
"""

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from cpu_process import VARIANTS, Measured, can_compile, choose, measure, step_of
from report import RESULTS, measured, write_rows
from workloads import Setting, available, make_inputs

BASELINE = "eager"


def in_turns(variants: Sequence[str], setting: Setting, rounds: int, warm_up: int) -> dict[str, list[float]]:
    """Measure the seconds of a forward and backward pass of each variant in each round."""
    inputs = make_inputs(setting, torch.device("cpu"))
    steps = {variant: step_of(variant, setting, inputs) for variant in variants}
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    for turn in range(warm_up + rounds):
        for variant, step in steps.items():
            choose(variant)
            start = perf_counter()
            step()
            if turn >= warm_up:
                seconds[variant].append(perf_counter() - start)
    return seconds


def alone(variants: Sequence[str], setting: Setting, threads: int) -> dict[str, tuple[Measured, Measured]]:
    """Measure each variant in its own process, twice: with an empty cache of compiled code and with a filled one."""
    results = {}
    for variant in variants:
        with tempfile.TemporaryDirectory() as cache:
            cold = measure(variant, setting, threads, Path(cache))
            results[variant] = (
                cold,
                measure(variant, setting, threads, Path(cache)) if "compiled" in variant else cold,
            )
    return results


def rows(
    setting: Setting, seconds: dict[str, list[float]], processes: dict[str, tuple[Measured, Measured]]
) -> list[dict[str, Any]]:
    """Return the results as rows of `report.COLUMNS`."""
    lines = []
    for variant, times in seconds.items():
        cold, warm = processes[variant]
        figures: list[tuple[str, str, Sequence[float]]] = [
            ("time", "ms", [1e3 * each for each in times]),
            ("memory", "MiB", [warm["mebibytes"]]),
            ("first call, cold", "s", [cold["first"]]),
            ("first call, cached", "s", [warm["first"]]),
        ]
        lines += [
            measured(
                torch.device("cpu"), values, kernel=setting.workload, provider=variant, mode="full", metric=metric,
                unit=unit, classes=setting.classes, dtype=setting.dtype, layout=setting.layout, batch=setting.batch,
                height=setting.side, width=setting.side,
            )
            for metric, unit, values in figures
        ]  # fmt: skip
    return lines


def print_table(setting: Setting, lines: Sequence[dict[str, Any]]) -> None:
    """Print one line per variant, with ratios to the baseline."""
    value = {(line["provider"], line["metric"]): line["p50"] for line in lines}
    where = f"{setting.batch} x {setting.classes} x {setting.side} x {setting.side}, {setting.dtype}"
    print(f"\n{setting.workload} loss forward and backward, {where}; {lines[0]['device']}, torch {lines[0]['torch']}\n")
    print(f"{'variant':18}{'ms':>9}{'speed-up':>10}{'peak MiB':>10}{'ratio':>7}{'first call s':>14}{'cached s':>10}")
    for variant in dict.fromkeys(line["provider"] for line in lines):
        time, memory = value[variant, "time"], value[variant, "memory"]
        first, cached = value[variant, "first call, cold"], value[variant, "first call, cached"]
        ratio = memory / value[BASELINE, "memory"] if value[BASELINE, "memory"] else math.nan
        print(
            f"{variant:18}{time:9.1f}{value[BASELINE, 'time'] / time:9.2f}x{memory:10.1f}{ratio:7.2f}"
            f"{first:14.1f}{cached:10.1f}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--side", type=int, default=256, help="height and width")
    parser.add_argument("--rounds", type=int, default=20, help="passes of each variant; the median is reported")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="tiny maps, 3 rounds, no compilation")
    parser.add_argument("--out", type=Path, default=RESULTS / "cpu.csv")
    chosen = parser.parse_args(arguments)
    if chosen.quick:
        chosen.batch, chosen.side, chosen.rounds = 2, 32, 3
    torch.set_num_threads(chosen.threads)
    setting = Setting("mutual", chosen.classes, "float32", "first", chosen.batch, chosen.side)
    if setting.workload not in available():
        raise SystemExit("error: this version of uml_kernels has no evidential_sums: install a newer one")
    variants = [one for one in VARIANTS if "compiled" not in one or (can_compile(one) and not chosen.quick)]
    for skipped in set(VARIANTS) - set(variants):
        print(f"skipped: {skipped}")
    processes = alone(variants, setting, chosen.threads)
    lines = rows(setting, in_turns(variants, setting, chosen.rounds, min(3, chosen.rounds)), processes)
    print_table(setting, lines)
    write_rows(chosen.out, lines)
    print(f"\nmedians of {chosen.rounds} interleaved rounds; peak: above the idle process; written to {chosen.out}")


if __name__ == "__main__":
    main()
