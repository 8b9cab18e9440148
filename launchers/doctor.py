"""Check whether this machine and environment can train, and show remedies for problems."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    from uml_dist.doctor.checks import run_checks
    from uml_dist.doctor.report import as_json, exit_code, table, verdict
    from uml_dist.launch import end_process
except ModuleNotFoundError as missing:
    print(
        f"error: {sys.executable} has no {missing.name}: run make install, then .venv/bin/python launchers/doctor.py",
        file=sys.stderr,
    )
    raise SystemExit(2) from None

ROOT = Path(__file__).resolve().parents[1]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python launchers/doctor.py --run runs/isic. Exit code: 0 without problems, 2 with problems.",
    )
    parser.add_argument(
        "--run", type=Path, default=Path("runs"), help="run folder, or folder for runs (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of checks that could not be completed")
    return parser.parse_args(arguments)


def main() -> int:
    """Run all checks and print their findings; return the exit code."""
    options = parse(sys.argv[1:])
    if options.debug:
        logging.basicConfig()
        logging.getLogger("uml_dist.doctor").setLevel(logging.DEBUG)
    findings, gpus = run_checks(options.run, ROOT, os.environ)
    print(as_json(findings) if options.json else f"{table(findings)}\n\n{verdict(findings, gpus)}")
    return exit_code(findings)


if __name__ == "__main__":
    # Not sys.exit, because the thread of a hanging check may still run.
    end_process(main())
