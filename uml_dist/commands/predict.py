"""Predict files with a trained run: `python launchers/predict.py --run runs/isic images/ --out predictions`."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from uml_shards.arguments import ArgumentParser
from uml_shards.errors import ShardError, print_error, run_command
from uml_shards.output import keep_output

from ..config.schema import Weights
from ..errors import UmlError
from ..inference import Predictions, PredictSettings, predict
from ..inference.predictions import EVALUATION_TABLES, FAILED, TABLE
from ..inference.settings import OUTPUTS
from ..launch import find_devices
from ..launch.resources import raise_open_files
from ..models import shipped
from ..run.load import load_run
from ..run.reader import run_folder


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = ArgumentParser(
        description="Predict images, volumes, folders of them, or shards: masks, maps of probability and vacuity and "
        "pictures in the size of each input, and a table with a row per case. A repeated command continues.",
        epilog="example: python launchers/predict.py --run runs/isic images/ --out predictions --coverage 0.9",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="images (PNG, JPEG, TIFF, BMP), volumes (.nii, .nii.gz, .nrrd, .h5), folders with them or with DICOM "
        "series, patterns in quotes, or folders of shards",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=run_folder, help="run folder, or a folder of exported weights")
    source.add_argument("--model", help="name of a model that is part of the installation, such as phantom")
    parser.add_argument("--out", type=Path, required=True, help="folder for the predictions")
    parser.add_argument(
        "--coverage",
        type=float,
        help="share of the cases to accept, such as 0.9; the most uncertain ones are referred to a person. The "
        "threshold is that share of the run's evaluated validation split, if there is one, or else of the inputs",
    )
    parser.add_argument("--flips", action="store_true", help="average over all flips: 4 of an image, 8 of a volume")
    parser.add_argument(
        "--write",
        default=",".join(OUTPUTS),
        metavar="KINDS",
        help=f"kinds of files to write, with commas; none for the table only (default: {','.join(OUTPUTS)})",
    )
    parser.add_argument(
        "--dicom-seg", action="store_true", help="also write a DICOM Segmentation of each series (extra dicomseg)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="setting that replaces one of the run: of [windows] or [evaluation], such as windows.stride=32, or of how "
        "its data were prepared, such as intensity=volume",
    )
    parser.add_argument("--checkpoint", default="best", help="best (default), latest, or a name such as step-000500")
    parser.add_argument("--weights", choices=get_args(Weights), help="weights to use (default: those of validations)")
    parser.add_argument(
        "--num_gpus", "--workers", type=int, default=1, help="workers on this node: GPUs, or processes of the CPU"
    )
    parser.add_argument("--cpu", action="store_true", help="predict on the CPU even if there are GPUs")
    parser.add_argument("--batch-size", type=int, default=16, help="images per worker and forward pass (default: 16)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    if options.num_gpus < 1:
        parser.error("--num_gpus must be at least 1")
    if wrong := [text for text in options.set if "=" not in text]:
        parser.error(f"--set {wrong[0]}: must be KEY=VALUE")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict as the command line states; return the exit code: 2 if a case has no prediction."""
    keep_output()
    raise_open_files()
    options = parse(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: predict_as(options), options.debug, (UmlError, ShardError))


def predict_as(options: argparse.Namespace) -> int:
    """Predict, and print what was made."""
    path = shipped(options.model) if options.model else options.run
    tables = tuple(f"{name}." for name in EVALUATION_TABLES)
    prepare = dict(text.split("=", 1) for text in options.set if not text.startswith(tables))
    settings = PredictSettings(
        batch_size=options.batch_size,
        flips=options.flips,
        outputs=() if options.write == "none" else tuple(options.write.split(",")),  # type: ignore[arg-type]
        dicom_seg=options.dicom_seg,
        coverage=options.coverage,
        prepare=prepare,
    )
    devices = _devices(options.num_gpus, options.cpu)
    changed = [text for text in options.set if text.startswith(tables)]
    run = load_run(path, options.checkpoint, devices[0] if len(devices) == 1 else "cpu", None, options.weights, changed)
    for note in run.notes:
        print(note, file=sys.stderr, flush=True)
    started = time.monotonic()
    made = predict(run, options.inputs, options.out, settings, devices=devices, progress=True)
    return _report(made, options.out, time.monotonic() - started)


def _devices(workers: int, cpu: bool) -> tuple[str, ...]:
    """Return the device of each worker.

    Raises:
        UmlError: there are fewer GPUs, or they cannot be used.
    """
    found = find_devices(cpu)
    if found.kind == "cpu":
        return ("cpu",) * workers
    if workers > found.count:
        raise UmlError(f"--num_gpus {workers}: there are {found.count} GPUs: ask for fewer workers, or pass --cpu")
    return tuple(f"cuda:{number}" for number in range(workers))


def _report(made: Predictions, out: Path, seconds: float) -> int:
    if made.unused:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(made.unused.items()))
        print(f"files not used: {kinds}", file=sys.stderr)
    fresh = len(made.rows) - made.earlier
    decided = [row["decision"] for row in made.rows if "decision" in row]
    parts = [f"{len(made.rows)} case{'s' * (len(made.rows) != 1)} predicted"]
    if made.earlier:
        parts.append(f"{made.earlier} of them by an earlier command")
    if fresh > 0:
        parts.append(f"{fresh / max(seconds, 1e-9):.1f} cases/s")
    if decided:
        parts.append(f"{decided.count('accept')} accepted, {decided.count('refer')} referred")
    print(", ".join(parts))
    if decided:
        print(f"accepted: {made.rows[0]['decided_by']}")
    print(out / TABLE)
    if not made.failed:
        return 0
    print(out / FAILED)
    first, reason = next(iter(made.failed.items()))
    print_error(f"{len(made.failed)} inputs have no prediction, see {out / FAILED}, first {first}: {reason}")
    return 2
