"""Times the library's calls beside torch's own operations, on the GPU or else on the CPU.

Forward, backward and both, over classes, dtype, layout and size, one of them at a time around 8 x 3 x 512 x 512 in
float32; on a GPU memory and the share of what the hardware could do too. What is most telling comes first, so that
--seconds may cut the rest.

    PYTHONPATH=kernels:kernels/bench:tests/support python kernels/bench/micro.py --seconds 240
"""

import argparse
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from report import RESULTS, measured, write_rows
from timing import in_turns, peak_mebibytes, with_launches
from workloads import WORKLOADS, Function, Inputs, Setting, available, make_inputs

COMPILED = {"cpu": ("mutual",), "cuda": ("mutual", "uml-v2", "maps")}
"""Workloads at whose first setting torch.compile takes part; compiling the others takes it minutes."""


def settings(names: Sequence[str], quick: bool) -> Iterator[Setting]:
    """The centre of every workload first, then other sizes, classes, dtypes and layouts."""
    centre = [Setting(name, batch=2, side=32) if quick else Setting(name) for name in names]
    yield from centre
    if quick:
        yield from (one._replace(dtype="bfloat16", layout="last", classes=2) for one in centre)
        return
    others: list[dict[str, Any]] = [
        {"dtype": "bfloat16"}, {"classes": 2}, {"layout": "last"}, {"side": 256}, {"side": 1024}, {"side": 128},
        {"layout": "last", "dtype": "bfloat16"}, {"classes": 8}, {"classes": 16}, {"classes": 2, "dtype": "bfloat16"},
    ]  # fmt: skip
    yield from (one._replace(**change) for change in others for one in centre)


def tuple_of(result: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """One tensor, or several, as a tuple."""
    return (result,) if isinstance(result, torch.Tensor) else result


def modes_of(function: Function, inputs: Inputs) -> dict[str, Callable[[], object]]:
    """Forward with a graph, backward through a graph that is there, and both; forward alone where nothing is asked."""

    def forward() -> tuple[torch.Tensor, ...]:
        return tuple_of(function(inputs))

    there = forward()
    asked = [i for i, one in enumerate(there) if one.requires_grad]
    if not asked:
        return {"forward": forward}
    upstream = [torch.ones_like(there[i]) for i in asked]

    def backward(outputs: tuple[torch.Tensor, ...] = there, keep: bool = True) -> object:
        return torch.autograd.grad([outputs[i] for i in asked], inputs.maps, upstream, retain_graph=keep)

    return {"forward": forward, "backward": backward, "full": lambda: backward(forward(), keep=False)}


def copies(inputs: Inputs, outputs: tuple[torch.Tensor, ...]) -> dict[str, Callable[[], object]]:
    """Copies of as many bytes as must be read and written: maps, target and results; backward gradients too."""
    device = inputs.target.device
    maps = sum(one.numel() * one.element_size() for one in inputs.maps)
    forward = maps + inputs.target.numel() + sum(one.numel() * one.element_size() for one in outputs)
    sizes = {"forward": forward, "backward": forward + maps, "full": 2 * forward + maps}
    functions: dict[str, Callable[[], object]] = {}
    for mode, size in sizes.items():
        source = torch.zeros(size // 2, dtype=torch.uint8, device=device)
        functions[mode] = partial(torch.empty_like(source).copy_, source)
    return functions


def providers(setting: Setting, device: torch.device, compiled: bool) -> dict[str, Mapping[str, Callable[[], object]]]:
    """By provider and mode, what is timed; all of one setting share its inputs."""
    inputs, workload = make_inputs(setting, device), WORKLOADS[setting.workload]
    outputs = tuple_of(workload.ours(inputs))
    found: dict[str, Mapping[str, Callable[[], object]]] = {
        "ours": modes_of(workload.ours, inputs),
        "eager": modes_of(workload.eager, inputs),
        "copy": copies(inputs, outputs),
    }
    if compiled:
        found["compiled"] = modes_of(torch.compile(workload.eager, dynamic=False), inputs)
    return found


def measure(setting: Setting, device: torch.device, rounds: int, compiled: bool) -> list[dict[str, Any]]:
    """Rows of `report.COLUMNS` for one setting."""
    words = {
        "kernel": setting.workload, "classes": setting.classes, "dtype": setting.dtype, "layout": setting.layout,
        "batch": setting.batch, "height": setting.side, "width": setting.side,
    }  # fmt: skip
    found, rows = providers(setting, device, compiled), []

    def note(provider: str, mode: str, metric: str, unit: str, values: Sequence[float]) -> None:
        rows.append(
            measured(device, values, **words, provider=provider, mode=mode, metric=metric, unit=unit),
        )

    modes = list(found["ours"])
    for mode in modes:
        times = in_turns({name: one[mode] for name, one in found.items()}, rounds, min(5, rounds), device)
        for name, values in times.items():
            note(name, mode, "time", "ms", values)
    if device.type == "cuda":
        for name, one in found.items():
            whole = one[modes[-1]]
            note(name, modes[-1], "time with launches", "ms", with_launches(whole, min(rounds, 20), device))
            if name != "copy":
                note(name, modes[-1], "memory", "MiB", [peak_mebibytes(whole, device)])
    return rows


def roofline(rows: list[dict[str, Any]], chosen: Sequence[Setting], device: torch.device) -> list[dict[str, Any]]:
    """Rows with the shares of our time that memory or instructions alone would take."""
    from roofline import demands, machine
    from uml_kernels.table import architecture

    speeds, added = machine(device), []
    for setting in chosen:
        needed = demands(setting, architecture(device))
        for row in rows:
            same = (row["kernel"], row["classes"], row["dtype"], row["layout"], row["batch"], row["height"]) == setting
            if not same or (row["provider"], row["metric"]) != ("ours", "time"):
                continue
            for metric, bound in needed[row["mode"]].milliseconds(speeds).items():
                if math.isnan(bound):
                    continue
                shares = {key: bound / row[old] for key, old in (("p20", "p80"), ("p50", "p50"), ("p80", "p20"))}
                added.append(row | {"metric": metric, "unit": "1"} | shares)
    return added


def show(rows: Sequence[dict[str, Any]]) -> None:
    """One line of medians a setting and mode."""
    times: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in rows:
        if row["metric"] == "time":
            key = tuple(row[name] for name in ("kernel", "classes", "dtype", "layout", "batch", "height", "mode"))
            times.setdefault(key, {})[row["provider"]] = row["p50"]
    for (kernel, classes, dtype, layout, batch, side, mode), by in times.items():
        shape = f"{batch} x {classes} x {side}²"
        figures = "  ".join(f"{name} {value:8.3f}" for name, value in by.items())
        print(f"{kernel:10} {shape:15} {dtype:9} {layout:6} {mode:9} {figures}  x{by['eager'] / by['ours']:.1f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, action="append", help="this one alone; may be given again")
    parser.add_argument("--rounds", type=int, default=50, help="of all providers, whose median is taken")
    parser.add_argument("--seconds", type=float, default=900, help="begin no setting after these")
    parser.add_argument("--quick", action="store_true", help="tiny maps and 3 rounds")
    parser.add_argument("--cpu", action="store_true", help="the CPU although there is a GPU")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile of the eager composition")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of micro.csv and the PNG files")
    chosen = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() and not chosen.cpu else "cpu")
    rounds, start = 3 if chosen.quick else chosen.rounds, perf_counter()
    every = list(settings([name for name in chosen.workload or WORKLOADS if name in available()], chosen.quick))
    rows, done = [], []
    for setting in every:
        if perf_counter() - start > chosen.seconds:
            break
        centre = setting == Setting(setting.workload)
        compiled = centre and setting.workload in COMPILED[device.type] and not chosen.no_compile
        new = measure(setting, device, rounds, compiled)
        show(new)
        rows, done = rows + new, [*done, setting]
        write_rows(chosen.out / "micro.csv", rows)  # kept even if this is stopped
    if device.type == "cuda":
        rows += roofline(rows, [one for one in done if one == Setting(one.workload)], device)
    write_rows(chosen.out / "micro.csv", rows)
    try:
        from plots import draw

        pictures = draw(rows, chosen.out)
    except ImportError:
        pictures = ["(no pictures: matplotlib is missing)"]
    left_out = f"; left out for lack of time: {len(every) - len(done)} settings" if len(done) < len(every) else ""
    print(f"{len(done)} settings{left_out}; written to {chosen.out}: micro.csv {' '.join(pictures)}")


if __name__ == "__main__":
    main()
