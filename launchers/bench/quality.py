"""Compare UML with a plain U-Net, with the same loader, steps, seeds and budget, on any shards; table, CSV and plot.

Both methods are trained and evaluated for every seed, one after the other. Finished runs in --out are reused, and a
stopped run is resumed if you repeat the same command.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from comparison_jobs import Bench
from comparison_queue import LAUNCHERS, add_options, bench_of, run_jobs
from comparison_report import write_rows
from comparison_results import Result, compare
from comparison_rows import QUALITY
from quality_plan import METHODS, plan
from quality_plot import write_plot
from quality_report import printed_table
from uml_dist.errors import UmlError
from uml_shards.errors import ShardError, run_command
from uml_shards.output import keep_output


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python launchers/bench/quality.py train.steps=300 plain.optimizer.lr=3e-3 --seeds 0 1 2",
    )
    parser.add_argument(
        "settings", nargs="*", metavar="table.key=value",
        help="settings of both methods; uml.table.key=value or plain.table.key=value for one of them",
    )  # fmt: skip
    parser.add_argument(
        "--config", type=Path, default=LAUNCHERS / "configs" / "uml_phantom.toml",
        help="uml's file; the plain U-Net uses all but [model], [objective] and [networks] (default: the phantom)",
    )  # fmt: skip
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="default: both")
    add_options(parser, "runs/bench/quality")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code: 0 success, 1 a training failed, 2 the user must change something."""
    keep_output()
    options = parse(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: run(options), options.debug, (UmlError, ShardError))


def run(options: argparse.Namespace) -> int:
    """Check all runs, then train and evaluate one after the other, and report; return the exit code."""
    bench = bench_of(options, options.config, "best", "python launchers/bench/quality.py")
    code, results = run_jobs(bench, plan(bench, options.methods, options.seeds))
    if code == 0:
        report(bench, results)
    return code


def report(bench: Bench, results: Sequence[Result]) -> None:
    """Print the table, and write the table, the CSV and the plot."""
    comparison = compare(results, QUALITY, reference=results[-1].method)
    facts = results[0].facts
    title = "{dataset} {split}, {cases} images; {steps} steps of {batch} images".format_map(facts)
    table = printed_table(title, comparison)
    print(f"\n{table}\n")
    (bench.out / "quality.txt").write_text(table + "\n", encoding="utf-8")
    write_rows(bench.out / "quality.csv", results)
    write_plot(bench.out / "quality.png", title, comparison)
    print(f"written to {bench.out}: quality.txt, quality.csv, quality.png; runs: {bench.out / 'runs'}")


if __name__ == "__main__":
    sys.exit(main())
