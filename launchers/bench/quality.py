"""Compare UML with a plain U-Net, with the same loader, steps, seeds and budget, on any shards; table, CSV and plot.

Both methods are trained and evaluated for every seed, one after the other. Finished runs in --out are reused, and a
stopped run is resumed if you repeat the same command.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from quality_plan import METHODS, Bench, plan
from quality_plot import write_plot
from quality_report import printed_table, write_rows
from quality_results import Result, compare, summarise
from quality_runs import evaluate, train
from uml_dist.errors import UmlError
from uml_dist.launch import find_devices, planned_ranks, read_world
from uml_shards.errors import ShardError, run_command
from uml_shards.output import keep_output

LAUNCHERS = Path(__file__).resolve().parents[1]


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
    parser.add_argument("--shards", help="folder or URL of the data set (default: as in the configuration)")
    parser.add_argument("--split", default="test", help="split to evaluate (default: test)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (default: 0 1 2)")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="default: both")
    parser.add_argument("--num_gpus", type=int, help="workers (default: all GPUs, else 2 CPU processes)")
    parser.add_argument("--cpu", action="store_true", help="use the CPU even if there are GPUs")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench/quality"), help="folder of runs and results (default: %(default)s)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code: 0 success, 1 a training failed, 2 the user must change something."""
    keep_output()
    options = parse(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: run(options), options.debug, (UmlError, ShardError))


def run(options: argparse.Namespace) -> int:
    """Check all runs, then train and evaluate one after the other, and report; return the exit code."""
    if read_world(os.environ):
        raise UmlError("run this without a launcher, it starts its workers itself: python launchers/bench/quality.py")
    devices = find_devices(options.cpu)
    asked = options.num_gpus if options.num_gpus is not None else devices.count or 2
    bench = Bench(
        launcher=LAUNCHERS / "train.py",
        out=options.out,
        config=options.config,
        shards=options.shards,
        words=tuple(options.settings),
        split=options.split,
        ranks=planned_ranks(asked, options.cpu),
        device=devices.kind,
    )
    jobs = plan(bench, options.methods, options.seeds)
    results = []
    for number, job in enumerate(jobs, 1):
        print(f"\n{number} of {len(jobs)}: {job.method}, seed {job.seed}", flush=True)
        if code := train(bench, job):
            return code
        results.append(summarise(evaluate(bench, job)))
        print(f"{job.method}, seed {job.seed}: {main_metrics(results[-1])}", flush=True)
    report(bench, results)
    return 0


def main_metrics(result: Result) -> str:
    """Format the main metrics of a run in one line."""
    names = {"dice": "Dice", "auroc": "AUROC", "accuracy": "accuracy"}
    return "  ".join(f"{title} {result.values[name]:.3f}" for name, title in names.items() if name in result.values)


def report(bench: Bench, results: Sequence[Result]) -> None:
    """Print the table, and write the table, the CSV and the plot."""
    comparison = compare(results)
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
