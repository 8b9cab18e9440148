"""Train: `deepspeed launchers/train.py --num_gpus 8 --config launchers/configs/uml_isic2017.toml train.steps=20000`."""

import argparse
import os
import sys
from collections.abc import Sequence
from math import gcd
from pathlib import Path

from uml_shards import ShardError
from uml_shards.arguments import ArgumentParser
from uml_shards.output import keep_output

from ..config.faults import check_injection
from ..config.loading import dump, read_config, validate
from ..errors import UmlError
from ..launch import (
    Restarts,
    ensure_world,
    exit_stopped,
    exit_with_error,
    find_devices,
    machine_count,
    planned_ranks,
    read_world,
)
from ..launch.resources import raise_open_files
from ..run.checkpoint import read_state, verify
from ..run.checkpoint_folder import checkpoints_in
from ..run.owner import refuse_owned
from ..run.reader import run_folder
from ..scale.options import add_scale_options, check_scale_options, question_of
from ..telemetry.tensorboard import check_tensorboard
from ..train.exporter import check_export
from ..train.loading import loader_workers, of_training
from ..train.setup import check_start, find_resume, prepare


def parse(arguments: Sequence[str], default_config: Path | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(
        description="Train a recipe on GPUs, or on CPU processes if there are none.",
        epilog="example: deepspeed launchers/train.py --num_gpus 8 train.steps=2000 zero.stage=2",
    )
    parser.add_argument("settings", nargs="*", metavar="table.key=value", help="settings that override the file")
    default = " (default: that of the phantom)" if default_config else ""
    parser.add_argument("--config", type=Path, default=default_config, help=f"TOML file{default}")
    parser.add_argument("--num_gpus", type=int, help="workers on this node: GPUs, or CPU processes without GPUs")
    parser.add_argument("--cpu", action="store_true", help="train on the CPU even if there are GPUs")
    parser.add_argument("--run", type=run_folder, help="run folder (default: runs/<recipe>-<data>-<time>)")
    parser.add_argument(
        "--resume",
        choices=["never", "auto"],
        help="auto (default): resume the run in --run if there is one; never: refuse a folder that holds a run",
    )
    parser.add_argument(
        "--restarts",
        type=int,
        default=0,
        metavar="N",
        help="start the workers again after a failure, up to N times in a row without a newer checkpoint; needs --run",
    )
    parser.add_argument(
        "--replay",
        type=Path,
        metavar="FOLDER",
        help="repeat the step whose gradient was not finite, from RUN/faults/not-finite/step-N, and say where",
    )
    parser.add_argument("--dry-run", action="store_true", help="print parameters, memory, steps per epoch, and exit")
    add_scale_options(parser)
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration, then exit")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args(list(arguments))
    check_scale_options(parser, options)
    if options.restarts < 0 or (options.restarts and options.run is None):
        parser.error("--restarts needs a number from 0 on, and --run runs/NAME")
    if options.restarts and options.resume == "never":
        parser.error("--restarts resumes the run: leave out --resume never")
    return options


def main(arguments: Sequence[str] | None = None, default_config: Path | None = None) -> int:
    """Check everything, start the requested number of workers, then train; return the exit code."""
    keep_output()
    raise_open_files()
    options = parse(sys.argv[1:] if arguments is None else arguments, default_config)
    try:
        return train(options)
    except KeyboardInterrupt:
        exit_stopped()


def replay(options: argparse.Namespace) -> int:
    """Repeat a step whose gradient was not finite, as the command line states; return the exit code."""
    if options.settings:
        raise UmlError("--replay uses the configuration of its run: leave out the settings")
    verify(options.replay)
    config = validate(read_state(options.replay).config, str(options.replay / "state.json"))
    setup = prepare(config, planned_ranks(options.num_gpus, options.cpu))
    devices = ensure_world(options.num_gpus, options.cpu)
    from ..train.replay import replay_rank

    return replay_rank(setup, options.replay, devices)


def train(options: argparse.Namespace) -> int:
    """Check, start and train as the command line states; return the exit code."""
    try:
        if options.replay is not None:
            return replay(options)
        if options.config is None and not any(word.startswith("recipe=") for word in options.settings):
            raise UmlError("name a configuration: --config FILE.toml")
        config = read_config(options.config, options.settings)
        is_main = os.environ.get("LOCAL_RANK", "0") == "0"
        if options.print_config:
            print(dump(config) if is_main else "", end="")
            return 0
        ranks = planned_ranks(options.num_gpus, options.cpu)
        check_injection(config.faults.inject, ranks, os.environ)
        if options.gpus is not None:
            # As many of them as can share the configured global batch.
            ranks = gcd(options.gpus, *(stream.count for stream in config.streams.values()))
        setup = prepare(config, ranks)
        if options.resume == "auto" and options.run is None:
            raise UmlError("--resume auto needs the run to resume: add --run runs/NAME")
        notes: list[str] = []
        found = tuple(path.name for path in checkpoints_in(options.run / "checkpoints")) if options.run else ()
        resume = find_resume(setup, options.run, options.resume or "auto", notes.append) if options.run else None
        if resume is None:
            check_start(setup)
        notes += check_export(config.metrics)
        if config.metrics.tensorboard:
            check_tensorboard()
        if options.dry_run:
            from ..train.dry_run import dry_run

            text = dry_run(setup, ranks, question_of(options) if options.gpus is not None else None)
            print("\n".join([*notes, text, ""]) if is_main else "", end="")
            return 0
        if read_world(os.environ) is None:  # else the ranks check it together
            if options.run:
                refuse_owned(options.run)
            on_gpu = find_devices(options.cpu).kind == "cuda"
            loader_workers(config, on_gpu, ranks // machine_count(os.environ), of_training(setup, ranks))
        restarts = Restarts.of(options.run.absolute(), options.restarts) if options.restarts else None
        devices = ensure_world(options.num_gpus, options.cpu, restarts=restarts)
    except (UmlError, ShardError, OSError) as error:
        if options.debug:
            raise
        exit_with_error(error)
    # Imported here because it imports deepspeed, which needs the environment that ensure_world sets up.
    from ..train.main import Start, default_run_name, train_rank

    run = options.run or Path("runs") / default_run_name(setup)
    return train_rank(setup, Start(run, resume, tuple(notes), found), devices)
