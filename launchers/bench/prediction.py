"""Cases per processor second of predict.py beside evaluate.py, and their memory: `make bench-predict`.

All commands predict the same split of shards with the same model on one worker, from start to end: starting Python and
loading the model are part of the time, as they are for whoever types the command.

    python launchers/bench/prediction.py --shards data/shards/phantom --split test
"""

import argparse
import csv
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench_machine import facts
from measured_command import Used, run_measured
from uml_dist.errors import UmlError
from uml_dist.models import shipped
from uml_shards import open_split
from uml_shards.errors import ShardError, run_command

LAUNCHERS = Path(__file__).parents[1]


def commands(model: Path, shards: Path, split: str, folder: Path) -> dict[str, list[str]]:
    """Return the measured commands by what they do; each writes below a folder."""
    python = [sys.executable, "-u"]
    predict = [*python, str(LAUNCHERS / "predict.py"), "--run", str(model), "--cpu", str(shards / split)]
    evaluate = [*python, str(LAUNCHERS / "evaluate.py"), "--run", str(model), "--cpu"]
    return {
        "evaluate: metrics with intervals, table, picture": [*evaluate, "--shards", str(shards), "--split", split],
        "predict: table only": [*predict, "--write", "none", "--out", str(folder / "table")],
        "predict: masks and table": [*predict, "--write", "masks", "--out", str(folder / "masks")],
        "predict: all files": [*predict, "--out", str(folder / "all")],
    }


def rows(measured: Mapping[str, Used], cases: int) -> list[dict[str, str | int | float]]:
    """Return a row for each command."""
    return [
        {
            "command": what,
            "cases": cases,
            "processor_seconds": round(used.processor_seconds, 2),
            "cases_per_processor_second": round(cases / used.processor_seconds, 1),
            "peak_gigabytes": round(used.peak_gigabytes, 3),
        }
        for what, used in measured.items()
    ]


def table(found: Sequence[Mapping[str, str | int | float]]) -> str:
    """Return the rows as a table in Markdown."""
    names = list(found[0])
    lines = [f"| {' | '.join(name.replace('_', ' ') for name in names)} |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *(f"| {' | '.join(str(row[name]) for name in names)} |" for row in found)])


def measure(model: Path, shards: Path, split: str) -> list[dict[str, str | int | float]]:
    """Run and measure all commands; return their rows.

    Raises:
        UmlError: a command has failed.
    """
    cases = len(open_split(shards / split))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy = shutil.copytree(model, folder / "model")  # evaluations are written beside the weights
        measured = {}
        for what, command in commands(copy, shards, split, folder).items():
            print(what, file=sys.stderr, flush=True)
            code, used = run_measured(command, {**os.environ, "OMP_NUM_THREADS": "1"})
            if code or used is None:
                raise UmlError(f"{what}: the command has ended with code {code}")
            measured[what] = used
    return rows(measured, cases)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write it; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of exported weights (default: the shipped model)")
    parser.add_argument("--shards", type=Path, default=Path("data/shards/phantom"), help="folder of the data set")
    parser.add_argument("--split", default="test", help="split to predict (default: test)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/prediction.csv"), help="CSV file to write")
    options = parser.parse_args(arguments)
    return run_command(lambda: _measure_and_write(options), False, (UmlError, ShardError))


def _measure_and_write(options: argparse.Namespace) -> int:
    found = [row | facts() for row in measure(options.model or shipped("phantom"), options.shards, options.split)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    shown = ("command", "cases", "processor_seconds", "cases_per_processor_second", "peak_gigabytes")
    print(table([{name: row[name] for name in shown} for row in found]))
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
