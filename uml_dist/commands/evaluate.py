"""Evaluate a trained run on a split: `python launchers/evaluate.py --run runs/isic --split test`."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import NoReturn, get_args

import torch.distributed as distributed

from uml_shards import ShardError, Split
from uml_shards.address import parse_location
from uml_shards.arguments import ArgumentParser
from uml_shards.errors import print_error
from uml_shards.output import keep_output
from uml_shards.read.folds import held_out_fold
from uml_shards.read.samples import Samples
from uml_shards.read.truth import EmptyRule

from ..config.schema import Weights
from ..distributed.ranks import device_of
from ..errors import UmlError
from ..evaluate import Oracle, evaluate
from ..evaluate.results import DRAWS, metrics_record, printed_table, write_cases, write_metrics
from ..evaluate.second import open_second
from ..evaluate.sheet import legend_of, write_sheet
from ..evaluate.thresholds import check_threshold_split, choose_thresholds
from ..launch import (
    Devices,
    World,
    ensure_world,
    exit_stopped,
    exit_with_error,
    find_devices,
    planned_ranks,
    read_world,
    watch_launchers,
)
from ..launch.resources import raise_open_files
from ..metrics.families import Tasks
from ..run.data import reads_whole
from ..run.death import note_death
from ..run.folder import versions
from ..run.load import Run, load_run
from ..run.reader import run_folder
from ..train.loading import InFlight, loader_workers, sample_bytes


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(
        description="Evaluate a trained run: metrics with intervals, a row per case, and a picture of a dozen cases.",
        epilog="example: python launchers/evaluate.py --run runs/isic --split test",
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="TABLE.KEY=VALUE",
        help="settings of [windows] and [evaluation] that replace those of the training, such as windows.stride=32",
    )
    parser.add_argument("--run", type=run_folder, required=True, help="run folder, or a folder of exported weights")
    parser.add_argument("--split", help="split of the data set (default: the validation split)")
    parser.add_argument(
        "--threshold-split",
        metavar="SPLIT",
        help="split of the same data set on which the threshold of each lesion is chosen, that of the largest Dice "
        "(default: a lesion is predicted from a probability of 0.5 on)",
    )
    parser.add_argument(
        "--second-split",
        metavar="NAME|FOLDER",
        help="split of the same data set, or folder or URL of any split, of images that should be more uncertain: how "
        "well each uncertainty tells them from those of the evaluated split",
    )
    parser.add_argument("--stream", help="stream whose data set has the split (default: the recipe's first)")
    parser.add_argument("--checkpoint", default="best", help="best (default), latest, or a name such as step-000500")
    parser.add_argument(
        "--shards",
        help="folder or URL of the stream's data set, if it has moved since training, or of another one of the same "
        "classes; with --tasks-only also of others",
    )
    parser.add_argument(
        "--tasks-only",
        action="store_true",
        help="evaluate only the binary tasks that the data set and the training both name: its classes may be others",
    )
    parser.add_argument(
        "--weights",
        choices=get_args(Weights),
        help="weights of the trained networks (default: those of the validations, train.evaluate_with)",
    )
    parser.add_argument(
        "--ceiling",
        action="store_true",
        help="evaluate the perfect model of generated data instead of the network: it predicts the true probabilities",
    )
    parser.add_argument("--num_gpus", type=int, help="workers on this node (default: 1, on a GPU if there is one)")
    parser.add_argument("--cpu", action="store_true", help="evaluate on the CPU even if there are GPUs")
    parser.add_argument("--batch-size", type=int, default=16, help="samples per worker and forward pass (default: 16)")
    parser.add_argument(
        "--empty-masks",
        choices=get_args(EmptyRule),
        help="Dice and IoU of a class that is neither in the mask nor predicted: 1, or leave the case out "
        "(default: as in the validations, train.empty_masks)",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="also write report.html, one file that needs nothing else: figures, diagrams and pictures of cases",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.batch_size < 1:
        parser.error("--batch-size must be at least 1")
    if options.ceiling and (options.threshold_split or options.second_split or options.tasks_only or options.weights):
        parser.error(
            "--ceiling evaluates no network: leave out --threshold-split, --second-split, --tasks-only and --weights"
        )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Check everything, start the requested number of workers, then evaluate; return the exit code."""
    keep_output()
    raise_open_files()
    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        return evaluate_as(options)
    except KeyboardInterrupt:
        exit_stopped()


def evaluate_as(options: argparse.Namespace) -> int:
    """Check, start and evaluate as the command line states; return the exit code."""
    try:
        if (died := note_death(options.run)) and os.environ.get("LOCAL_RANK", "0") == "0":
            print(died, file=sys.stderr, flush=True)
        words = (options.shards, options.weights, options.settings, options.stream)
        run = load_run(options.run, options.checkpoint, "cpu", *words)
        name = options.split or run.config.train.validate_split
        split = run.open_split(name, options.stream, options.tasks_only)
        other = None if options.threshold_split is None else run.open_split(options.threshold_split, options.stream)
        if other is not None:
            check_threshold_split(other, split)
        second = None
        if options.second_split is not None:
            shards = parse_location(run.config.streams[options.stream or run.first_stream].shards)
            second = open_second(options.second_split, shards, split, run.manifest)
        oracle = Oracle.of(run.recipe, split) if options.ceiling else None
        world, devices = enter(options)
    except (UmlError, ShardError, OSError) as error:
        if options.debug:
            raise
        exit_with_error(error)
    run = run.to(device_of(devices.kind, world.local_rank))
    for note in run.notes if world.rank == 0 else ():
        print(note, file=sys.stderr, flush=True)
    if world.size > 1:
        distributed.init_process_group("nccl" if run.device.type == "cuda" else "gloo")
    try:
        evaluate_run(run, split, oracle, other, second, options, world)
    except (UmlError, ShardError, OSError) as error:
        if options.debug:
            raise
        print_error(error)
        if world.size > 1:
            # Exit without synchronisation: a failed rank cannot take part in it, and the others must not wait for it.
            os._exit(2)
        return 2
    if world.size > 1:
        distributed.destroy_process_group()
    return 0


def enter(options: argparse.Namespace) -> tuple[World, Devices]:
    """Return this process's world and devices: a single process, unless workers are requested or launched."""
    launched = read_world(os.environ)
    if launched is None and (options.num_gpus is None or options.num_gpus == 1):
        return World(0, 1, 0, 1), find_devices(options.cpu)
    planned_ranks(options.num_gpus, options.cpu)
    devices = ensure_world(options.num_gpus, options.cpu)
    watch_launchers(_launcher_ended)
    world = read_world(os.environ)
    assert world is not None
    return world, devices


def _launcher_ended(reason: str) -> NoReturn:
    print_error(f"{reason}: repeat the command")
    os._exit(2)


def evaluate_run(
    run: Run,
    split: Split | Samples,
    oracle: Oracle | None,
    other: Split | Samples | None,
    second: Split | None,
    options: argparse.Namespace,
    world: World,
) -> None:
    """Evaluate on all ranks; rank 0 writes and prints the results.

    Args:
        run: the run.
        split: the split to evaluate.
        oracle: the perfect model, which is evaluated instead of the networks; None for these.
        other: the split on which thresholds are chosen; None: they are 0.5.
        second: the split of images that should be more uncertain, if any.
        options: the command line.
        world: this process's world.
    """
    manifest, stream = split.manifest, run.stream(split, options.stream)
    empty = options.empty_masks or run.config.train.empty_masks
    sizes = run.sizes[options.stream or run.first_stream]
    whole = reads_whole(run.config, manifest)
    known = [] if whole else [InFlight(options.batch_size * sample_bytes(manifest, sizes))]
    workers, fewer = loader_workers(run.config, run.device.type == "cuda", world.local_size, known)
    if fewer and world.rank == 0:
        print(fewer, file=sys.stderr)
    fold = held_out_fold(manifest)
    elsewhere = (split.path.parent.name or "other") if run.shards_given and run.data != "training" else ""
    if world.rank == 0:
        evaluated = f"{run.path}, {run.checkpoint.name}" if oracle is None else "the perfect model"
        of_fold = "" if fold is None else f", {fold[0]}"
        print(f"{evaluated}: {len(split)} samples of {split.path}{of_fold}", flush=True)
        if elsewhere:
            print(f"{split.path.parent} is not the data set of the training", flush=True)
    predictor = run.predictor
    if other is not None:
        chosen = choose_thresholds(predictor, run.stream(other, options.stream), options.batch_size, workers)
        predictor = replace(predictor, thresholds=chosen)
    families = (Tasks(run.tasks(split, options.stream)),) if options.tasks_only else None
    beside = None if second is None else run.stream(second, options.stream)
    source = predictor if oracle is None else oracle
    result = evaluate(source, stream, options.batch_size, workers, empty, DRAWS, families=families, second=beside)
    if world.rank != 0:
        return
    network = {"checkpoint": run.checkpoint.name, "step": run.state.step, "weights": run.weights}
    record = {
        "run": run.path.name,
        "recipe": run.config.recipe,
        **(network if oracle is None else {"ceiling": True}),
        "dataset": manifest.dataset,
        "split": manifest.split,
        "data_digest": split.digest,
        **({} if fold is None else {"fold": asdict(fold[0]), "folds_data_digest": fold[1]}),
        **({"shards": elsewhere} if elsewhere else {}),
        **metrics_record(result),
        **({"thresholds": asdict(predictor.thresholds)} if predictor.thresholds else {}),
        "versions": versions(),
    }
    other_weights = run.weights if run.weights != run.config.train.weights else ""
    parts = (elsewhere, options.stream, manifest.split, other_weights, "ceiling" if oracle is not None else "")
    folder = run.path / "evaluation" / "-".join(filter(None, parts))
    heading = f"{run.path.name}: {elsewhere or manifest.dataset} {manifest.split}, "
    heading += f"step {run.state.step}" if oracle is None else "the perfect model"
    write_cases(folder / "cases.csv", result)
    if result.examples:
        write_sheet(folder / "sheet.png", result.examples, legend_of(manifest), heading)
    write_metrics(folder / "metrics.json", record)
    print(f"\n{printed_table(record)}\n")
    print("  ".join(f"{name} {count}" for name, count in record["counts"].items()))
    for name in ("metrics.json", "cases.csv", *(["sheet.png"] if result.examples else [])):
        print(folder / name)
    if options.report:
        from ..report.single import write_report

        print(write_report(folder, record, result, source, stream, run.path, options.batch_size), flush=True)
