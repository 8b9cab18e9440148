"""Times the library's calls and the same functions of torch's own operations, on the GPU or else on the CPU.

It varies classes, dtype, layout and size one at a time around 8 x 3 x 512 x 512 in float32 and measures forward,
backward and both; on a GPU also memory, CUDA graphs and the limits of the hardware. All kernels are compiled first, in
as many processes as there are cores. The most informative settings come first, so that --seconds can cut the rest.

    PYTHONPATH=kernels:kernels/bench:tests/support python kernels/bench/micro.py --seconds 240
"""

import argparse
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from ahead import Task, do_tasks, prepare
from measure import compiled_modes, label, measure, modes_of, release
from processes import DEVICE_LOST, cores
from report import Progress, default_folder, read_rows, write_rows
from roofline import REHEARSED, Demand, Machine, demands, machine
from timing import usable
from uml_kernels.table import architecture
from workloads import WORKLOADS, Setting, available, make_inputs

COMPILED = {"cpu": ("mutual",), "cuda": ("mutual", "uml-v2", "maps")}
"""Workloads whose first setting includes torch.compile, which takes minutes to compile the others."""

REHEARSED_LIMITS = ("mutual", "gated")
"""Workloads whose kernels --quick compiles to find their limits: one with all counts, one with memory only."""

AHEAD = 0.35
"""Share of --seconds for compiling kernels before anything is measured."""


def settings(names: Sequence[str], quick: bool) -> Iterator[Setting]:
    """Yield the central setting of every workload first, then other sizes, classes, dtypes and layouts."""
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


def backend_of(setting: Setting, first: bool, device: torch.device, chosen: argparse.Namespace) -> str:
    """Return the backend of torch.compile for eager's composition; empty if it is not measured."""
    if not first or chosen.no_compile or setting.workload not in COMPILED[device.type]:
        return ""
    return "aot_eager" if chosen.quick else "inductor"  # a rehearsal does not wait for generated code


def tasks(every: Sequence[Setting], device: torch.device, chosen: argparse.Namespace) -> Iterator[Task]:
    """Yield the tasks that can run before the measurements; torch.compile comes first because it takes longest."""
    seen: set[str] = set()
    calls: list[Task] = []
    for setting in every:
        first = setting.workload not in seen
        seen.add(setting.workload)
        if backend := backend_of(setting, first, device, chosen):
            yield Task(f"compile {label(setting)}", partial(_compile, setting, device, backend))
        calls.append(Task(f"call {label(setting)}", partial(_call, setting, device)))
        if (first or setting.dtype == "bfloat16") and (not chosen.quick or setting.workload in REHEARSED_LIMITS):
            calls.append(Task(f"demands {label(setting)}", partial(_demands, setting, device)))
    yield from calls


def _compile(setting: Setting, device: torch.device, backend: str) -> None:
    for function in compiled_modes(setting, make_inputs(setting, device), backend).values():
        function()


def _call(setting: Setting, device: torch.device) -> None:
    for function in modes_of(WORKLOADS[setting.workload].ours, make_inputs(setting, device)).values():
        function()


def _demands(setting: Setting, device: torch.device) -> list[Demand]:
    name = architecture(device)
    return demands(setting, "sm_90" if name == "any" else name)


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print one line of medians per setting and mode, with the limit if known."""
    lines: dict[tuple[Any, ...], dict[str, str]] = {}
    times: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("kernel", "classes", "dtype", "layout", "batch", "height", "mode"))
        words = lines.setdefault(key, {})
        if row["metric"] in ("time", "graph"):
            times.setdefault((*key, row["metric"]), {})[row["provider"]] = row["p50"]
        elif row["metric"] == "share of limit":
            words["limit"] = f"  {row['p50']:.0%} of {row['limit']}"
    for (kernel, classes, dtype, layout, batch, side, mode, metric), by in times.items():
        shape = f"{batch} x {classes} x {side}²"
        figures = "  ".join(f"{name} {value:8.3f}" for name, value in by.items())
        ratio = f"  x{by['eager'] / by['ours']:.1f}" if {"ours", "eager"} <= set(by) else ""
        limit = lines[kernel, classes, dtype, layout, batch, side, mode].get("limit", "") if metric == "time" else ""
        print(f"{kernel:10} {shape:15} {dtype:9} {layout:6} {mode:9} {metric:6} {figures}{ratio}{limit}", flush=True)


class Run:
    """The measurements of one run of this command.

    Args:
        chosen: arguments of the command.
        device: device to measure on.
    """

    def __init__(self, chosen: argparse.Namespace, device: torch.device) -> None:
        self.chosen, self.device = chosen, device
        self.path = chosen.out / "micro.csv"
        self.rows = read_rows(self.path) if chosen.resume else []
        self.failed: list[str] = []
        self.machine: Machine | None = None
        self.ahead: dict[str, Any] = {}

    def prepare(self, words: Sequence[str], seconds: float) -> None:
        """Compile the calls that will be measured."""
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            done, errors = prepare(__file__, words, Path(folder), seconds, self.chosen.processes)
        self.ahead = done
        print(f"{len(done)} tasks compiled ahead" + "".join(f"\n  {name}: {text}" for name, text in errors.items()))
        try:
            speeds = machine(self.device) if self.device.type == "cuda" else REHEARSED
        except Exception:  # times can still be measured without the limits
            traceback.print_exc()
            return
        self.machine = speeds
        words = [f"{speeds.bytes / 1e12:.2f} TB/s copied", f"{speeds.special / 1e12:.2f}e12 MUFU/s"]
        print(", ".join([*words, f"{speeds.issued / 1e12:.1f}e12 instructions/s"]), flush=True)

    def one(self, setting: Setting, first: bool) -> bool:
        """Measure a setting and write its rows; return False if the device is lost."""
        backend = backend_of(setting, first, self.device, self.chosen)
        if backend and self.chosen.processes and f"compile {label(setting)}" not in self.ahead:
            print(f"{label(setting)}: torch.compile is skipped: it was not ready in time")
            backend = ""
        needed = [Demand(*each) for each in self.ahead.get(f"demands {label(setting)}", ())]
        rounds, new = 3 if self.chosen.quick else self.chosen.rounds, []
        try:
            for row in measure(setting, self.device, rounds, backend, needed, self.machine):
                new.append(row)
        except Exception:  # the other settings can still be measured
            self.failed.append(label(setting))
            traceback.print_exc()
        show(new)
        self.rows += new
        write_rows(self.path, self.rows)
        if label(setting) in self.failed and not usable(self.device):
            return False
        release(self.device)
        return True


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", choices=WORKLOADS, action="append", help="run only this workload; repeatable")
    parser.add_argument("--rounds", type=int, default=50, help="rounds of all providers; the median is reported")
    parser.add_argument("--seconds", type=float, default=900, help="start no setting after this time")
    parser.add_argument("--quick", action="store_true", help="tiny maps and 3 rounds")
    parser.add_argument("--cpu", action="store_true", help="use the CPU even if there is a GPU")
    parser.add_argument("--no-compile", action="store_true", help="omit torch.compile of the eager composition")
    parser.add_argument("--no-pictures", action="store_true", help="omit the plots; plots.py can draw them later")
    parser.add_argument(
        "--processes", type=int, help="processes that compile first; default: one a core on a GPU, none on the CPU"
    )
    parser.add_argument("--resume", action="store_true", help="skip settings that an earlier run into --out started")
    parser.add_argument("--ahead", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=default_folder(), help="folder of micro.csv and the PNG files")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write and plot; return 1 if our own calls failed or were wrong, 3 if the GPU is lost."""
    words, chosen, start = list(sys.argv[1:] if arguments is None else arguments), parse(arguments), perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() and not chosen.cpu else "cpu")
    if chosen.processes is None:
        chosen.processes = cores() if device.type == "cuda" else 0
    every = list(settings([name for name in chosen.workload or WORKLOADS if name in available()], chosen.quick))
    if chosen.ahead is not None:
        return do_tasks(tasks(every, device, chosen), chosen.ahead, device)
    progress, run, done = Progress(chosen.out / "micro.begun", chosen.resume), Run(chosen, device), 0
    write_rows(run.path, run.rows)
    if chosen.processes and chosen.seconds > 0:
        run.prepare(words, AHEAD * chosen.seconds)
    firsts = {setting.workload: setting for setting in reversed(every)}
    for setting in every:
        if perf_counter() - start > chosen.seconds:
            break
        done += 1
        if progress.begin(label(setting)) and not run.one(setting, firsts[setting.workload] == setting):
            return DEVICE_LOST
    pictures = [] if chosen.no_pictures else draw_all(run.rows, chosen.out)
    skipped = f"; skipped for lack of time: {len(every) - done} settings" if done < len(every) else ""
    print(f"{done} settings{skipped}; written to {chosen.out}: micro.csv {' '.join(pictures)}")
    if run.failed:
        print(f"FAILED: {', '.join(run.failed)}")
    return 1 if run.failed else 0


def draw_all(rows: Sequence[dict[str, Any]], out: Path) -> list[str]:
    """Draw the plots; return their names, or the reason why there are none."""
    try:
        from plots import draw
    except ImportError:
        return ["(no plots: install matplotlib)"]
    return draw(rows, out)


if __name__ == "__main__":
    sys.exit(main())
