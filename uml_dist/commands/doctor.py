"""Check whether this machine and environment can train, and show remedies for problems."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from uml_shards.arguments import ArgumentParser
from uml_shards.errors import run_command
from uml_shards.output import keep_output

from ..doctor.checks import run_checks
from ..doctor.report import as_json, exit_code, table, verdict


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(
        description=__doc__,
        epilog="example: python launchers/doctor.py --run runs/isic. Exit code: 0 without problems, 2 with problems.",
    )
    parser.add_argument(
        "--run", type=Path, default=Path("runs"), help="run folder, or folder for runs (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of checks that could not be completed")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None, root: Path | None = None) -> int:
    """Run all checks and print their findings; return the exit code.

    Args:
        arguments: the command line; by default that of this process.
        root: the checkout, if there is one.
    """
    keep_output()
    options = parse(sys.argv[1:] if arguments is None else arguments)
    if options.debug:
        logging.basicConfig()
        logging.getLogger("uml_dist.doctor").setLevel(logging.DEBUG)
    return run_command(lambda: check(options, root), options.debug, ())


def check(options: argparse.Namespace, root: Path | None) -> int:
    """Print the findings."""
    findings, gpus = run_checks(options.run, root, os.environ)
    print(as_json(findings) if options.json else f"{table(findings)}\n\n{verdict(findings, gpus)}")
    return exit_code(findings)
