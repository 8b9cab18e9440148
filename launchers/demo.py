"""Run all steps on generated images: make shards, train on 2 workers (or all GPUs), evaluate, compare with the oracle.

A short training run first measures the machine's speed. From it the demo chooses how long to train, so that it ends
within 8 minutes. To set the number of steps yourself, pass train.steps=N.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from demo_length import choose, describe, speed_of
from uml_dist.config.loading import read_config
from uml_dist.errors import UmlError
from uml_dist.launch import find_devices
from uml_shards import open_split
from uml_shards.errors import STOPPED
from uml_shards.output import keep_output
from uml_shards.read.truth import Oracle, oracle

HERE = Path(__file__).parent
CONFIG = HERE / "configs" / "uml_phantom.toml"
SHARDS = Path("data/shards/phantom")
SPLIT = "val"
PROBE_STEPS = 12
ROWS = (
    ("Dice of the lesion", "dice", "dice"),
    ("AUROC of the class", "auroc", "auroc"),
    ("accuracy of the class", "accuracy", "accuracy"),
    ("calibration error (ECE) of the class", "image_ece", "ece"),
    ("calibration error (ECE) of the pixels", "pixel_ece", None),
    ("wrong images found by vacuity (AUROC)", "image_error_auroc_vacuity", None),
    ("wrong pixels found by vacuity (AUROC)", "pixel_error_auroc_vacuity", None),
)
"""Title, metric of the run, and attribute of the oracle or None."""


def call(script: str, *arguments: str, quiet: bool = False) -> None:
    """Run another launcher as a user would; exit with its exit code if it fails."""
    command = [sys.executable, str(HERE / script), *arguments]
    print("$ python", *command[1:], flush=True)
    # In a separate session Ctrl-C does not reach it, so that no worker prints a traceback.
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL if quiet else None, start_new_session=True)
    try:
        code = child.wait()
    except KeyboardInterrupt:
        # Its files are complete or absent whenever it is killed.
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
    if code:
        raise SystemExit(code)


def table(record: dict[str, Any], best: Oracle) -> str:
    """Format the metrics of an evaluation with their intervals, next to those of the oracle on the same images.

    Args:
        record: content of metrics.json.
        best: metrics of the oracle, with the record's rule for empty masks, which is stated below the table.
    """
    counts = record["counts"]
    title = f"{counts['cases']} images, {counts['pixels'] / 1e6:.1f} million pixels"
    lines = [f"{title:<40}{'step ' + str(record['step']):>9}   {'95 % interval':<18}{'oracle':>7}", "-" * 77]
    for row, name, top in ROWS:
        value, interval = record["metrics"].get(name), record["intervals"].get(name)
        cells = f"{row:<40}" + (f"{value:>9.3f}" if value is not None else f"{'-':>9}")
        cells += "   " + f"{f'{interval[0]:.3f} to {interval[1]:.3f}' if interval else '':<18}"
        lines.append(cells + (f"{getattr(best, top):>7.3f}" if top else f"{'':>7}"))
    lines += ["", f"Empty masks, for the run and the oracle: {record['empty_masks_rule']}."]
    return "\n".join(line.rstrip() for line in lines)


def main() -> int:
    """Parse the command line and run the demo; return the exit code."""
    keep_output()
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python launchers/demo.py train.steps=100",
    )
    parser.add_argument("settings", nargs="*", metavar="table.key=value", help="settings for the training")
    parser.add_argument("--run", type=Path, default=Path("runs") / f"demo-{time.strftime('%Y%m%d-%H%M%S')}")
    options = parser.parse_args()
    try:
        return demonstrate(options.run, options.settings)
    except UmlError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = " ".join(["python launchers/demo.py --run", str(options.run), *options.settings])
        print(f"\nstopped: to resume from the last checkpoint, run {again}", file=sys.stderr)
        return STOPPED


def demonstrate(run: Path, settings: Sequence[str]) -> int:
    """Make the shards, train, evaluate, and print the results; return the exit code."""
    started = time.perf_counter()
    devices = find_devices(False)
    workers = str(devices.count if devices.kind == "cuda" else 2)
    if not (SHARDS / SPLIT / "manifest.json").is_file():
        call("shards.py", "make", "--dataset", "phantom", "--out", str(SHARDS))
    train = ("train.py", "--num_gpus", workers, "--config", str(CONFIG))
    call(*train, "--run", str(run), *length_settings(train, run, settings, started), *settings)
    call("evaluate.py", "--run", str(run), "--split", SPLIT, "--num_gpus", workers, quiet=True)
    folder = run / "evaluation" / SPLIT
    record = json.loads((folder / "metrics.json").read_text())
    print(f"\n{table(record, oracle(open_split(SHARDS / SPLIT), record['empty_masks']))}\n")
    print("The oracle is a model that knows the probabilities from which labels and masks were drawn.")
    print(f"picture:    {folder / 'sheet.png'}\nrun folder: {run}")
    return 0


def length_settings(train: Sequence[str], run: Path, settings: Sequence[str], started: float) -> list[str]:
    """Return settings for the length of the training run, from the speed of a short one.

    Args:
        train: the launcher with its options, without the run.
        run: run folder; a run that has already started keeps its length.
        settings: settings of the user; if they set the number of steps or epochs, no settings are returned.
        started: start time of the demo, from `time.perf_counter`.
    """
    if any(word.startswith(("train.steps=", "train.epochs=")) for word in settings):
        return []
    begun = read_config(run / "config.toml").train if (run / "config.toml").is_file() else None
    if begun is not None and begun.steps is not None:
        return settings_for(begun.steps, begun.validate_every)
    print(f"\nMeasuring the speed of this machine with {PROBE_STEPS} training steps:", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe"
        before = time.perf_counter()
        short = settings_for(PROBE_STEPS, PROBE_STEPS)
        call(*train, "--run", str(probe), *settings, *short, "train.log_every=4", quiet=True)
        now = time.perf_counter()
        batch = read_config(probe / "config.toml").streams["train"].count
        images = open_split(SHARDS / SPLIT).manifest.labelled
        speed = speed_of(probe / "metrics.jsonl", now - before, PROBE_STEPS, batch, images)
    length = choose(speed, now - started)
    print(*describe(length, speed, batch), "", sep="\n", flush=True)
    return settings_for(length.steps, length.every)


def settings_for(steps: int, every: int) -> list[str]:
    """Return settings for a number of steps, with a validation and a checkpoint every `every` steps."""
    return [f"train.steps={steps}", f"train.validate_every={every}", f"checkpoint.every={every}"]


if __name__ == "__main__":
    sys.exit(main())
