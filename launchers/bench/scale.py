"""Measure what can be measured of large trainings on one machine: `make bench-scale`.

index: the start of ranks of a large world on a split of many shards, as far as it depends on the data: manifest, index,
plan, and the first batch in the middle of an epoch. The shards have no data and their indices are the same file, but
each is read, checked and joined. Processes are started one after the other and stay until all are measured.

world: a training of the phantom on many CPU processes: the seconds until its first step, and the memory of its ranks.

prediction: trainings of the phantom on 1, 2 and 4 CPU processes, and what the model of `--dry-run --gpus` predicts for
them from two others on one process and a measured all-reduce of two processes.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import scale_index
import scale_prediction
import scale_world
from bench_machine import facts
from uml_dist.errors import UmlError
from uml_shards.durable import replace_text
from uml_shards.errors import ShardError, run_command
from uml_shards.output import keep_output
from uml_shards.text import csv_table

PARTS = {"index": scale_index.measure, "world": scale_world.measure, "prediction": scale_prediction.measure}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "settings", nargs="*", metavar="table.key=value", help="settings of the trainings of the prediction"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (default: all)")
    parser.add_argument("--shards", type=int, default=100_000, help="shards of 1000 samples of the index (100 000)")
    parser.add_argument("--ranks", type=int, default=4096, help="ranks that share the index (4096)")
    parser.add_argument("--processes", type=int, default=64, help="ranks of the world (64)")
    parser.add_argument("--steps", type=int, default=60, help="steps of each training of the prediction (60)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of scale_*.csv (runs/bench)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; return the exit code: 0 success, 2 something must be changed."""
    keep_output()
    options = parse(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: run(options), options.debug, (UmlError, ShardError))


def run(options: argparse.Namespace) -> int:
    """Measure every part."""
    if min(options.shards, options.ranks, options.processes) < 1 or options.steps < 30:
        raise UmlError("--shards, --ranks and --processes must be at least 1, and --steps at least 30")
    options.out.mkdir(parents=True, exist_ok=True)
    machine = facts()
    for part in options.parts:
        rows = PARTS[part](options)
        print("\n".join("  ".join(f"{cell:>18}" for cell in row) for row in rows))
        path = options.out / f"scale_{part}.csv"
        replace_text(path, csv_table([[*rows[0], *machine], *([*row, *machine.values()] for row in rows[1:])]))
        print(f"written to {path}\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
