"""Tries block sizes, iterations and warps of every kernel on the GPU, and prints rows for uml_kernels/table.py.

Candidates take turns in every round; the first of the fastest (within 2 %) is taken. Nothing is written.

    PYTHONPATH=kernels:kernels/bench:tests/support python kernels/bench/tune.py --brief
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from statistics import median
from time import perf_counter

import torch

from micro import modes_of
from timing import in_turns
from uml_kernels.table import TABLE, Row, Tiles, architecture
from workloads import WORKLOADS, Setting, available, make_inputs

TUNED = {
    "evidential_forward": ("mutual", "forward"),
    "evidential_backward": ("mutual", "backward"),
    "level_forward": ("levels", "forward"),
    "level_backward": ("levels", "backward"),
    "opinion_forward": ("opinion", "forward"),
    "opinion_backward": ("opinion", "backward"),
    "gated_forward": ("gated", "forward"),
    "gated_backward": ("gated", "backward"),
    "resized_forward": ("resized", "forward"),
    "resized_backward": ("resized", "backward"),
}
"""A kernel's name in the table -> the workload and mode in which it is timed."""

CLASSES, DTYPES, LAYOUTS = (2, 3, 4, 8, 16), ("float32", "bfloat16"), ("first", "last")
BRIEF = ((3,), ("float32", "bfloat16"), ("first",))
BLOCKS, ITERATIONS, WARPS = (64, 128, 256, 512, 1024, 2048), (1, 2, 4, 8, 16), (2, 4, 8)
CLOSE = 1.02


def candidates(kernel: str) -> list[Tiles]:
    """Tiles of 1 to 16 pixels a thread; several iterations for the kernels that have them now."""
    several = any(row.tiles.iterations > 1 for row in TABLE[kernel]["any"])
    every = (Tiles(*each) for each in product(BLOCKS, ITERATIONS if several else (1,), WARPS))
    return [one for one in every if 1 <= one.block / (32 * one.warps) <= 16]


@contextmanager
def only(kernel: str, tiles: Tiles) -> Iterator[None]:
    """The table without any row of the kernel but one."""
    before = TABLE[kernel]
    TABLE[kernel] = {"any": (Row(1 << 30, tiles),)}
    try:
        yield
    finally:
        TABLE[kernel] = before


def best(
    kernel: str, setting: Setting, device: torch.device, rounds: int, tried: Sequence[Tiles]
) -> tuple[Tiles, float]:
    """The fastest tiles and their milliseconds, of those that the compiler accepts."""
    workload, mode = TUNED[kernel]
    function = modes_of(WORKLOADS[workload].ours, make_inputs(setting, device))[mode]

    def run(tiles: Tiles) -> object:
        with only(kernel, tiles):
            return function()

    functions = {}
    for tiles in tried:
        try:
            run(tiles)
        except Exception as error:  # whatever the compiler or the GPU finds too large
            print(f"{kernel} {tiles}: {type(error).__name__}", file=sys.stderr)
            continue
        functions[tiles] = partial(run, tiles)
    named = {str(index): function for index, function in enumerate(functions.values())}
    times = [median(values) for values in in_turns(named, rounds, 2, device).values()]
    fastest = min(times)
    return next((tiles, time) for tiles, time in zip(functions, times, strict=True) if time <= CLOSE * fastest)


def settings(kernel: str, brief: bool) -> Iterator[Setting]:
    """What the kernel is tuned for: few classes first."""
    classes, dtypes, layouts = BRIEF if brief else (CLASSES, DTYPES, LAYOUTS)
    for each in product(classes, layouts, dtypes):
        yield Setting(TUNED[kernel][0], each[0], each[2], each[1])


def row_of(setting: Setting, tiles: Tiles) -> str:
    """As in uml_kernels/table.py."""
    width = 4 if setting.dtype == "float32" else 2
    return f"Row({setting.classes}, Tiles{tuple(tiles)}, {setting.layout == 'last'}, {width})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune and print; 2 where there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", choices=TUNED, action="append", help="this one alone; may be given again")
    parser.add_argument("--brief", action="store_true", help="3 classes, channels first")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=3600, help="begin no setting after these")
    parser.add_argument("--rehearse", action="store_true", help="tiny maps and two candidates, on the CPU")
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available() and not chosen.rehearse:
        print("error: no GPU: tiles are measured on one", file=sys.stderr)
        return 2
    device = torch.device("cpu" if chosen.rehearse else "cuda")
    start, left_out = perf_counter(), []
    kernels = [one for one in chosen.kernel or TUNED if one in TABLE and TUNED[one][0] in available()]
    print(f"# {architecture(device)}, torch {torch.__version__}")
    for kernel in kernels:
        rows = []
        for setting in settings(kernel, chosen.brief or chosen.rehearse):
            if perf_counter() - start > chosen.seconds:
                left_out.append(kernel)
                break
            if chosen.rehearse:
                setting = setting._replace(batch=1, side=16)
            tried = candidates(kernel)[: 2 if chosen.rehearse else None]
            tiles, time = best(kernel, setting, device, 2 if chosen.rehearse else chosen.rounds, tried)
            rows.append(f"{row_of(setting, tiles)},  # {time:.4f} ms")
        if rows:
            print(f'"{kernel}": {{"{architecture(device)}": (\n    ' + "\n    ".join(rows) + "\n)},", flush=True)
    print(f"# not measured: {', '.join([*left_out, *sorted(set(TABLE) - set(kernels))]) or 'nothing'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
