"""Check this machine: all-reduce, equal losses at any ZeRO stage and number of ranks, resume on fewer, images/s."""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from uml_dist.cluster import report
from uml_dist.cluster.all_reduce import Collectives, read_collectives, run_rank
from uml_dist.cluster.compare import Check
from uml_dist.cluster.plan import judge, plan, speeds
from uml_dist.cluster.process import run_process
from uml_dist.cluster.training import Outcome, Training, Work, make_shards, train
from uml_dist.errors import UmlError
from uml_dist.launch import Devices, end_process, ensure_world, find_devices, read_world
from uml_shards.errors import run_command
from uml_shards.output import keep_output

HERE = Path(__file__).parent
MARK = "cluster-check.txt"
PARTS = ("shards", "trainings", "logs", "checks.csv", "all_reduce.csv", "all_reduce.json", "speed.csv", "speed.png")
CPU_RANKS = 4
WORK = {"cpu": (32, 2, 1 / 16), "cuda": (128, 16, 1 / 8)}
"""Size of the images, images per step and rank, and width factor of the model, by kind of device."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python launchers/cluster_check.py --ranks 8 --out runs/cluster-check"
    )
    parser.add_argument("--ranks", type=int, help=f"number of workers (default: all GPUs; {CPU_RANKS} on the CPU)")
    parser.add_argument("--cpu", action="store_true", help="use CPU processes even if there are GPUs")
    parser.add_argument("--steps", type=int, default=8, help="steps of each training, at least 4 (default: 8)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/cluster-check"), help="folder for the results (default: %(default)s)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--all-reduce", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> int:
    """Run the check; return the exit code: 0 passed, 1 a check failed, 2 the user must change something."""
    keep_output()
    options = parse(sys.argv[1:])
    return run_command(lambda: run(options), options.debug, (UmlError,))


def run(options: argparse.Namespace) -> int:
    """Run the check, or a rank that the check has started."""
    if options.all_reduce:
        run_rank(options.all_reduce, ensure_world(options.ranks, options.cpu).kind)
        return 0
    return check(options)


def check(options: argparse.Namespace) -> int:
    """Run all measurements, one after another, and print the results."""
    if read_world(os.environ):
        raise UmlError("run this without a launcher, it starts its ranks itself: python launchers/cluster_check.py")
    if options.steps < 4:
        raise UmlError(f"--steps {options.steps}: at least 4 steps are needed, 2 before and 2 after the resume")
    devices = find_devices(options.cpu)
    ranks = find_ranks(options.ranks, devices)
    trainings = plan(ranks)
    folder = clear(options.out)
    cpu = devices.kind == "cpu"
    size, images, width = WORK[devices.kind]
    work = Work(HERE / "train.py", folder, cpu, size, images * ranks, width, options.steps)
    workers = f"{ranks} {'CPU processes' if cpu else 'GPUs'}"
    print(f"{workers}, {len(trainings)} trainings of {work.steps} steps of {work.batch} images")
    start = time.perf_counter()
    found, checks = all_reduce(ranks, work)
    outcomes: dict[str, Outcome] = {}
    # Ranks that cannot communicate would hang in every training run.
    if all(one.passed for one in checks):
        make_shards(HERE / "shards.py", work)
        outcomes = run_all(trainings, work)
        checks += judge(trainings, outcomes, devices.kind, work.half)
    show_results(work, found, checks, report.speed_rows(speeds(trainings, outcomes)))
    failed = sum(not one.passed for one in checks)
    verdict = f"{failed} of {len(checks)} checks FAILED" if failed else f"all {len(checks)} checks passed"
    print(f"\n{verdict} in {time.perf_counter() - start:.0f} s; tables, plot and logs are in {folder}")
    return 1 if failed else 0


def find_ranks(asked: int | None, devices: Devices) -> int:
    """Return the number of ranks: as requested, else all GPUs, else a few CPU processes."""
    if devices.kind == "cpu":
        return CPU_RANKS if asked is None else asked
    if asked is not None and asked > devices.count:
        raise UmlError(
            f"{asked} GPUs were requested, but only {devices.count} can be used here: pass --ranks {devices.count}, "
            "or --cpu for CPU processes"
        )
    return devices.count if asked is None else asked


def clear(folder: Path) -> Path:
    """Prepare the output folder; remove the files of an earlier check, and nothing else.

    Raises:
        UmlError: the folder contains other files.
    """
    if folder.exists() and not folder.is_dir():
        raise UmlError(f"{folder} is a file: choose another --out")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).is_file():
        raise UmlError(f"folder {folder} holds files that are not from a cluster check: choose another --out")
    for name in PARTS:
        part = folder / name
        shutil.rmtree(part) if part.is_dir() else part.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).write_text("Created by `make cluster-check`, which replaces the files in this folder.\n")
    return folder


def all_reduce(ranks: int, work: Work) -> tuple[Collectives | None, list[Check]]:
    """Run the all-reduces on all ranks, in a separate world."""
    path = work.folder / "all_reduce.json"
    words = ["--ranks", str(ranks), "--all-reduce", str(path), *(["--cpu"] if work.cpu else [])]
    name = f"all-reduce over {ranks} ranks"
    print(f"  {name} ...", end="", flush=True)
    start = time.perf_counter()
    ended = run_process([sys.executable, str(HERE / "cluster_check.py"), *words], work.folder / "logs/all_reduce.log")
    print(f" {time.perf_counter() - start:.0f} s", flush=True)
    if ended.problem:
        return None, [Check(name, False, ended.problem, "FAILED")]
    found = read_collectives(path)
    right = all(row.right for row in found.rows)
    detail = f"{found.backend}, {len(found.rows)} sizes, " + ("all sums are right" if right else "wrong sums")
    return found, [Check(name, right, detail, "right" if right else "WRONG")]


def run_all(trainings: Sequence[Training], work: Work) -> dict[str, Outcome]:
    """Train one run after another and print a line for each; stop after a run that hangs."""
    outcomes: dict[str, Outcome] = {}
    for number, training in enumerate(trainings, 1):
        print(f"  training {number} of {len(trainings)}: {training} ...", end="", flush=True)
        start = time.perf_counter()
        outcome = outcomes[training.name] = train(training, work)
        print(f" {time.perf_counter() - start:.0f} s" + (f", {outcome.problem}" if outcome.problem else ""), flush=True)
        if outcome.hung:
            break
    return outcomes


def show_results(work: Work, found: Collectives | None, checks: Sequence[Check], rows: list[dict[str, float]]) -> None:
    """Print the tables, and write the CSV files and the plot."""
    print(f"\n{report.checks_table(checks)}")
    report.write_checks(work.folder / "checks.csv", checks)
    if found:
        print(f"\n{report.collectives_table(found.rows)}")
        report.write_collectives(work.folder / "all_reduce.csv", found)
    if found and rows:
        print(f"\n{report.speed_table(rows)}")
        report.write_speeds(work.folder / "speed.csv", rows, work, found.device)
        report.write_plot(work.folder / "speed.png", rows, work, found.device)


if __name__ == "__main__":
    end_process(main())
