"""Join the evaluations of several runs, of seeds or of folds, in one report: a file of HTML that needs nothing else."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from uml_shards.arguments import ArgumentParser
from uml_shards.durable import replace_text
from uml_shards.errors import run_command
from uml_shards.output import keep_output
from uml_shards.text import message_of

from ..errors import UmlError
from ..run.reader import run_folder


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(
        description=__doc__, epilog="example: python launchers/report.py runs/seed0 runs/seed1 runs/seed2 --split test"
    )
    parser.add_argument("runs", nargs="+", type=run_folder, metavar="RUN", help="run folders that were evaluated alike")
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="folder of the evaluations below RUN/evaluation, such as test, or fold for those of held-out folds "
        "(default: the only one that all runs have)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), metavar="FILE", help="file to write (default: report.html)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report; return the exit code."""
    keep_output()
    options = parse(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: report(options), options.debug, (UmlError,))


def report(options: argparse.Namespace) -> int:
    """Read the evaluations, check that they belong together, and write the report."""
    from ..report.joined import joined_page, printed  # with matplotlib, which takes a second
    from ..report.joining import join
    from ..report.pooled import pool
    from ..report.records import read_evaluations

    joined = join(read_evaluations(options.runs, options.split))
    pooled = pool(joined.runs, list(joined.metrics)) if joined.kind == "folds" else None
    for line in joined.warnings:
        print(f"warning: {message_of(line)}", file=sys.stderr)
    print(printed(joined, pooled))
    replace_text(options.out, joined_page(joined, pooled))
    print(options.out)
    return 0
