"""Train and evaluate several arms of one configuration with several seeds, on any shards: tables, CSV and plot.

The arms are in a TOML file: what each of them changes. All have the same optimiser steps, batches and augmentation.
The runs form a queue. Finished runs in --out are reused, and a stopped run is resumed if you repeat the same command.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ablation_arms import Arm, read_arms
from ablation_plan import draw_list, shared_tree, trees_of
from ablation_plot import write_plot
from ablation_report import markdown_table, printed_table
from comparison_jobs import Bench, Job, plan_jobs
from comparison_queue import add_options, bench_of, run_jobs
from comparison_report import write_rows
from comparison_results import Result, compare
from comparison_rows import ABLATION
from uml_dist.errors import UmlError
from uml_shards.durable import replace_text
from uml_shards.errors import ShardError, run_command
from uml_shards.output import keep_output


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python launchers/bench/ablation.py train.steps=400 --arms mean_teacher ugmcl --seeds 0 1",
    )
    parser.add_argument(
        "settings", nargs="*", metavar="table.key=value",
        help="settings of all arms; ARM.table.key=value for one of them",
    )  # fmt: skip
    parser.add_argument(
        "--file", type=Path, default=Path(__file__).parent / "ugmcl_arms.toml",
        help="TOML file of the arms (default: ugmcl_arms.toml beside this program)",
    )  # fmt: skip
    parser.add_argument("--config", type=Path, help="configuration that the arms change (default: the file's)")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="arms to run (default: the file's default ones)")
    parser.add_argument("--reference", metavar="ARM", help="arm to compare with; it always runs (default: the file's)")
    parser.add_argument(
        "--labelled", type=float, metavar="NUMBER",
        help="training samples that count as labelled, or a share of them if below 1 (default: the file's number)",
    )  # fmt: skip
    parser.add_argument(
        "--checkpoint", choices=("latest", "best"), default="latest",
        help="checkpoint to evaluate: latest does not depend on a validation split, as in published protocols; best: "
        "the best one by train.best on the validation split (default: latest)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="check and list all runs, then exit")
    add_options(parser, "runs/bench/ablation")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the ablation; return the exit code: 0 success, 1 a training failed, 2 the user must change something."""
    keep_output()
    options = parse(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: run(options), options.debug, (UmlError, ShardError))


def run(options: argparse.Namespace) -> int:
    """Check all runs, then train and evaluate one after the other, and report; return the exit code."""
    file = read_arms(options.file)
    reference = options.reference or file.reference
    arms = file.chosen(options.arms, reference)
    bench = bench_of(options, options.config or file.config, options.checkpoint, "python launchers/bench/ablation.py")
    labelled = file.labelled if options.labelled is None else options.labelled
    shared = shared_tree(bench, file.arms, labelled)
    trees = trees_of(bench, shared, arms)
    if labelled is not None and (line := draw_list(bench, shared, labelled)):
        print(line, flush=True)
    jobs = plan_jobs(bench, trees, options.seeds)
    print_plan(bench, arms, jobs)
    if options.dry_run:
        return 0
    code, results = run_jobs(bench, jobs)
    if code == 0:
        report(bench, arms, reference, results)
    return code


def print_plan(bench: Bench, arms: Mapping[str, Arm], jobs: Sequence[Job]) -> None:
    """Print a line per arm, and what all runs have in common."""
    width = max(map(len, arms))
    for name, arm in arms.items():
        print(f"  {name:<{width}}  {arm.summary}" + (f" [{arm.changes}]" if arm.changes else ""))
    done = sum(job.is_done() for job in jobs)
    steps, seeds = jobs[0].setup.steps, len(jobs) // len(arms)
    print(
        f"{len(jobs)} runs of {steps} steps: {len(arms)} arms, {seeds} seeds, {bench.ranks} workers; {done} are "
        f"finished; {bench.checkpoint} checkpoint on {bench.split}",
        flush=True,
    )


def report(bench: Bench, arms: Mapping[str, Arm], reference: str, results: Sequence[Result]) -> None:
    """Print the tables, and write tables, CSV and plot."""
    described = [
        replace(one, facts={**one.facts, "checkpoint": bench.checkpoint, "changes": arms[one.method].changes})
        for one in results
    ]
    comparison = compare(described, ABLATION, reference)
    facts = described[0].facts
    title = "{dataset} {split}, {cases} cases; {steps} steps; {checkpoint} checkpoint".format_map(facts)
    table = printed_table(title, comparison, arms)
    print(f"\n{table}\n")
    replace_text(bench.out / "ablation.txt", table + "\n")
    replace_text(bench.out / "ablation.md", markdown_table(title, comparison, arms) + "\n")
    write_rows(bench.out / "ablation.csv", described)
    write_plot(bench.out / "ablation.png", title, comparison)
    print(f"written to {bench.out}: ablation.txt, .md, .csv and .png; runs: {bench.out / 'runs'}")


if __name__ == "__main__":
    sys.exit(main())
