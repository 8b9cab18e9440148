"""Tunes block size, iterations and warps of every kernel on the GPU, and prints rows for uml_kernels/table.py.

The candidates are the table's tiles and their neighbours, about a dozen per kernel. The table was chosen by the
compiler's counts (128-bit loads, no spills), so a better choice is only a step or two away, while compiling all 70
combinations would take four minutes per kernel. The candidates are compiled first, in as many processes as there are
cores; then they take turns in every round, and the first of the fastest (within 2 %) is chosen. Each row is printed and
written to tune.txt and tune.csv immediately.

    PYTHONPATH=kernels:kernels/bench:tests/support python kernels/bench/tune.py --brief
"""

import argparse
import csv
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any
from unittest.mock import patch

import torch
from torch.utils import _pytree

from ahead import Task, do_tasks, prepare
from launches import recorded
from measure import modes_of
from processes import DEVICE_LOST, cores
from report import Progress, default_folder, stamp, write_rows
from timing import in_turns, usable
from uml_kernels import table
from uml_kernels.table import TABLE, Row, Tiles, architecture
from workloads import WORKLOADS, Setting, available, make_inputs

if os.environ.get("TRITON_INTERPRET", "") == "1":  # a rehearsal
    from interpreter import repair_interpreter

    repair_interpreter()

TUNED = {
    "evidential_forward": ("mutual", "forward"),
    "evidential_backward": ("mutual", "backward"),
    "level_forward": ("levels", "forward"),
    "level_backward": ("levels", "backward"),
    "opinion_forward": ("opinion", "forward"),
    "opinion_backward": ("opinion", "backward"),
    "predictive_maps": ("maps", "forward"),
    "gated_forward": ("gated", "forward"),
    "gated_backward": ("gated", "backward"),
    "resized_forward": ("resized", "forward"),
    "resized_backward": ("resized", "backward"),
    "consistency_forward": ("consistency", "forward"),
    "consistency_backward": ("consistency", "backward"),
    "add_probability": ("passes", "forward"),
    "passes_entropy": ("passes", "forward"),
}
"""Name of a kernel in the table -> workload and mode in which it is timed."""

CLASSES, DTYPES, LAYOUTS = (2, 3, 4, 8, 16), ("float32", "bfloat16"), ("first", "last")
BRIEF = ((3,), ("float32", "bfloat16"), ("first",))
CLOSE = 1.02
STEPS = (
    (1, 1, 1), (2, 1, 1), (0.5, 1, 1), (1, 1, 2), (1, 1, 0.5), (2, 1, 2), (0.5, 1, 0.5), (1, 2, 1), (1, 0.5, 1),
    (1, 4, 1), (1, 0.25, 1), (2, 0.5, 1), (0.5, 2, 1),
)  # fmt: skip
"""Factors of block, iterations and warps: more or less work per thread, larger or smaller programs, or both."""

AHEAD = 0.5
"""Share of --seconds for compiling candidates before any is measured."""

TOLERANCE = 2e-2
"""Maximum difference between the results of two candidates, relative to the largest value: they differ in the order of
sums and by one rounding to bfloat16."""


class WrongResultError(RuntimeError):
    """A candidate computes a different result than the table's tiles."""


def present(kernel: str, setting: Setting, name: str = "any") -> Tiles:
    """Return the table's tiles for a kernel, the maps of a setting and an architecture."""
    inputs = make_inputs(setting._replace(batch=1, side=16), torch.device("meta"))
    with patch.object(table, "architecture", lambda device: name):
        return table.tiles(kernel, (*inputs.maps, *inputs.fixed)[0].flatten(2))


def candidates(kernel: str, setting: Setting, name: str = "any") -> list[Tiles]:
    """Return the table's tiles first, then those neighbours whose launches differ from all before."""
    centre, found, known = present(kernel, setting, name), [], set()
    for factors in STEPS:
        block, iterations, warps = (int(factor * value) for factor, value in zip(factors, centre[:3], strict=True))
        several = centre.iterations > 1 or iterations == 1
        if not several or iterations < 1 or not 1 <= warps <= 16 or block < 16:
            continue
        as_much_work = block * centre.warps == centre.block * warps
        one = Tiles(block, iterations, warps, centre.registers if as_much_work else None)
        try:
            launched = _launched(kernel, setting, one)
        except Exception as error:  # a launcher may reject tiles
            print(f"{kernel} {tuple(one)}: {type(error).__name__}", file=sys.stderr)
            continue
        if launched not in known:
            known.add(launched)
            found.append(one)
    return found


def _launched(kernel: str, setting: Setting, one: Tiles) -> tuple[Any, ...]:
    """Return the parameters that distinguish launches: a small map may use fewer iterations than its tiles have."""
    inputs = make_inputs(setting, torch.device("meta"))
    with only(kernel, one):
        launches = recorded(partial(WORKLOADS[setting.workload].ours, inputs))
    return tuple((each.name, each.programs, tuple(each.constants.items()), each.warps) for each in launches)


@contextmanager
def only(kernel: str, tiles: Tiles) -> Iterator[None]:
    """Replace the kernel's rows in the table by a single one within the context."""
    before = TABLE[kernel]
    TABLE[kernel] = {"any": (Row(1 << 30, tiles),)}
    try:
        yield
    finally:
        TABLE[kernel] = before


class Candidates:
    """The calls to compare for one kernel and setting; all share the same inputs."""

    def __init__(self, kernel: str, setting: Setting, device: torch.device) -> None:
        self.kernel, workload, mode = kernel, *TUNED[kernel]
        self._function = modes_of(WORKLOADS[workload].ours, make_inputs(setting, device))[mode]

    def run(self, tiles: Tiles) -> object:
        """Run the call with these tiles."""
        with only(self.kernel, tiles):
            return self._function()


def agree(found: object, expected: object) -> bool:
    """Return whether the results of two candidates agree."""
    for one, other in zip(_pytree.tree_leaves(found), _pytree.tree_leaves(expected), strict=True):
        error = (one.double() - other.double()).abs().max() / other.double().abs().max().clamp(min=1e-30)
        if not error.item() <= TOLERANCE:
            return False
    return True


def times_of(
    kernel: str, setting: Setting, device: torch.device, rounds: int, tried: Sequence[Tiles]
) -> dict[Tiles, float]:
    """Measure the milliseconds of the tiles that the compiler accepts, the table's tiles first.

    Raises:
        WrongResultError: tiles change the result.
        RuntimeError: no tiles can be launched.
    """
    calls = Candidates(kernel, setting, device)
    functions, expected, refused = {}, None, None
    for tiles in tried:
        try:
            result = calls.run(tiles)
        except Exception as error:  # such as too many resources for the compiler or the GPU
            print(f"{kernel} {tuple(tiles)}: {type(error).__name__}", file=sys.stderr)
            refused = error
            if not usable(device):
                raise
            continue
        expected = result if expected is None else expected
        if not agree(result, expected):
            raise WrongResultError(f"{kernel}: the result with {tiles} differs from that with {next(iter(functions))}")
        functions[tiles] = partial(calls.run, tiles)
    if not functions:
        raise RuntimeError(f"{kernel}: no tiles can be launched") from refused
    named = {str(index): function for index, function in enumerate(functions.values())}
    times = in_turns(named, rounds, min(4, rounds // 2), device)
    return dict(zip(functions, map(median, times.values()), strict=True))


def best(times: Mapping[Tiles, float]) -> Tiles:
    """Return the first of the fastest tiles."""
    fastest = min(times.values())
    return next(tiles for tiles, time in times.items() if time <= CLOSE * fastest)


def settings(kernel: str, brief: bool) -> Iterator[Setting]:
    """Yield the settings for which the kernel is tuned, few classes first."""
    classes, dtypes, layouts = BRIEF if brief else (CLASSES, DTYPES, LAYOUTS)
    for each in product(classes, layouts, dtypes):
        yield Setting(TUNED[kernel][0], each[0], each[2], each[1])


def row_of(setting: Setting, tiles: Tiles) -> str:
    """Format a row for uml_kernels/table.py, where the classes of features are their channels."""
    workload = WORKLOADS[setting.workload]
    channels = (*workload.channels, *workload.fixed)[0][0] or setting.classes
    width = 4 if setting.dtype == "float32" else 2
    numbers = tuple(each for each in tiles if each is not None)
    return f"Row({channels}, Tiles{numbers}, {setting.layout == 'last'}, {width})"


def every(chosen: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, Setting, list[Tiles]]]:
    """Yield kernels, settings and their candidates."""
    name = architecture(device)
    for kernel in chosen.kernel or TUNED:
        if kernel not in TABLE or TUNED[kernel][0] not in available():
            continue
        for setting in settings(kernel, chosen.brief or chosen.rehearse):
            if chosen.rehearse:
                setting = setting._replace(batch=1, side=8)
            yield kernel, setting, candidates(kernel, setting, name)[: 2 if chosen.rehearse else None]
            if chosen.rehearse:
                break


def tasks(chosen: argparse.Namespace, device: torch.device) -> Iterator[Task]:
    """Yield a compilation task for each candidate."""
    for kernel, setting, tried in every(chosen, device):
        for one in tried:
            yield Task(f"{kernel} {setting} {one}", partial(_compile, kernel, setting, one, device))


def _compile(kernel: str, setting: Setting, one: Tiles, device: torch.device) -> None:
    Candidates(kernel, setting, device).run(one)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the arguments of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", choices=TUNED, action="append", help="tune only this kernel; repeatable")
    parser.add_argument("--brief", action="store_true", help="3 classes, channels first")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=3600, help="start no setting after this time")
    parser.add_argument("--rehearse", action="store_true", help="tiny maps and two candidates, on the CPU")
    parser.add_argument("--processes", type=int, default=cores(), help="processes that compile first; 0: none")
    parser.add_argument("--resume", action="store_true", help="skip settings that an earlier run into --out started")
    parser.add_argument("--ahead", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=default_folder(), help="folder of tune.csv and tune.txt")
    return parser.parse_args(arguments)


class Results:
    """Writes the measurements to tune.csv and the rows for the table to tune.txt.

    Args:
        out: folder of the files.
        resume: whether to keep existing measurements.
        device: device of the measurements.
    """

    def __init__(self, out: Path, resume: bool, device: torch.device) -> None:
        self._text, self._table = out / "tune.txt", out / "tune.csv"
        self._architecture = architecture(device)
        self._rows: list[dict[str, Any]] = []
        if resume and self._table.exists():
            with self._table.open(newline="", encoding="utf-8") as file:
                self._rows += csv.DictReader(file)
        self._write()

    def add(self, kernel: str, setting: Setting, times: Mapping[Tiles, float]) -> None:
        """Print and write the row of a kernel and setting."""
        fastest, before = best(times), next(iter(times))
        comment = f"{times[fastest]:.4f} ms, {times[before]:.4f} ms before"
        row = f"{row_of(setting, fastest)},  # {comment}"
        print(f"{kernel}: {row}", flush=True)
        for tiles, time in times.items():
            words = {"kernel": kernel, "architecture": self._architecture, **setting._asdict(), **tiles._asdict()}
            notes = {"ms": time, "before": int(tiles == before), "row": row if tiles == fastest else ""}
            self._rows.append({**words, **notes, "torch": torch.__version__, **stamp()})
        self._write()

    def _write(self) -> None:
        write_rows(self._table, self._rows)
        rows: dict[str, list[str]] = {}
        for one in self._rows:
            rows.setdefault(one["kernel"], []).extend([one["row"]] if one["row"] else [])
        lines = [f"# {self._architecture}, torch {torch.__version__}"]
        for kernel, each in rows.items():
            lines += [f'"{kernel}": {{"{self._architecture}": (', *(f"    {row}" for row in each), ")},"]
        self._text.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune and print the rows.

    Returns:
        The exit code: 0, or 1 if tuning a kernel failed (such as tiles that change a result), 2 without a GPU, 3 if the
        GPU is lost.
    """
    words, chosen, start = list(sys.argv[1:] if arguments is None else arguments), parse(arguments), perf_counter()
    if not torch.cuda.is_available() and not chosen.rehearse:
        print("error: no GPU found: tiles are measured on a GPU; test this command with --rehearse", file=sys.stderr)
        return 2
    device = torch.device("cpu" if chosen.rehearse else "cuda")
    if chosen.ahead is not None:
        return do_tasks(tasks(chosen, device), chosen.ahead, device)
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.processes:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            done, errors = prepare(__file__, words, Path(folder), AHEAD * chosen.seconds, chosen.processes)
        print(f"# {len(done)} candidates compiled, {len(errors)} rejected")
    progress, results = Progress(chosen.out / "tune.begun", chosen.resume), Results(chosen.out, chosen.resume, device)
    measured, skipped, failed, rounds = set(), [], [], 1 if chosen.rehearse else chosen.rounds
    for kernel, setting, tried in every(chosen, device):
        if perf_counter() - start > chosen.seconds:
            skipped.append(row_of(setting, tried[0]).partition(" Tiles")[0] + f" of {kernel}")
            continue
        measured.add(kernel)
        if not progress.begin(f"{kernel} {setting}"):
            continue
        try:
            results.add(kernel, setting, times_of(kernel, setting, device, rounds, tried))
        except Exception:  # the other kernels can still be measured
            traceback.print_exc()
            failed.append(kernel)
            if not usable(device):
                return DEVICE_LOST
    print(f"# not measured: {', '.join([*skipped, *sorted(set(TABLE) - measured)]) or 'none'}")
    if failed:
        print(f"# FAILED: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
