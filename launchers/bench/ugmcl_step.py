"""Measure what a training step of UG-MCL spends its time on, by method and precision: `make bench-ugmcl-step`.

Each variant is trained for some steps with launchers/train.py in one process, on volumes of the phantom, with two
labelled and two unlabelled patches per step. The parts are the Trainer's own spans; medians are over the steps after
the warm-up. The setting of the paper is `--size 112 112 80 --width 1`.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import tomli_w
import torch

from comparison_queue import LAUNCHERS
from ugmcl_step_report import Measured, measured, printed_table, write_rows
from uml_dist.errors import UmlError
from uml_dist.launch.precision import has_bf16, instruction_set
from uml_shards.errors import ShardError, print_error, run_command
from uml_shards.output import keep_output
from uml_shards.read.draw import draw_labelled
from uml_shards.read.split import open_split

VARIANTS = {
    "supervised": {"method": "supervised"},
    "supervised_distance": {"method": "supervised_distance"},
    "mean_teacher": {"method": "mean_teacher"},
    "passes": {"method": "ugmcl"},
    "evidential": {"method": "ugmcl", "uncertainty": "evidential"},
    "copy_paste": {"method": "copy_paste"},
}
"""Name -> settings of `[objective]`. "passes" and "evidential" are UG-MCL with the gate of the paper and with ours."""

DEFAULT = ("supervised", "passes", "evidential")
CASES, LABELLED, COUNT = 6, 3, 2
"""Training volumes, those that are labelled, and patches of each stream per step."""


@dataclass(frozen=True)
class Setting:
    """What all variants have in common.

    Attributes:
        size: sides of the patches.
        width: factor of all channels.
        passes: stochastic passes of the teacher.
        passes_at_once: passes in one call of the teacher.
        steps: steps after the warm-up.
        warm_up: untimed steps before these.
        cpu: whether to use the CPU even if there is a GPU.
    """

    size: tuple[int, int, int]
    width: float
    passes: int
    passes_at_once: int
    steps: int
    warm_up: int
    cpu: bool


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python launchers/bench/ugmcl_step.py --size 112 112 80 --width 1 --precisions fp32 bf16",
    )
    parser.add_argument("--size", type=int, nargs=3, default=(48, 48, 32), metavar="SIDE", help="default: 48 48 32")
    parser.add_argument("--width", type=float, default=0.25, help="width factor of all channels (default: 0.25)")
    parser.add_argument("--passes", type=int, default=8, help="stochastic passes of the teacher (default: 8)")
    parser.add_argument("--passes-at-once", type=int, default=2, help="passes in one call (default: 2)")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=DEFAULT, help=f"default: {DEFAULT}")
    parser.add_argument(
        "--precisions", nargs="+", choices=("fp32", "bf16"),
        help="default: fp32, and bf16 if the device has instructions for it",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=10, help="timed steps per variant (default: 10)")
    parser.add_argument("--warm-up", type=int, default=3, help="untimed steps before these (default: 3)")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no variant after this time")
    parser.add_argument("--shards", type=Path, help="data set of volumes (default: the phantom, made for this)")
    parser.add_argument("--scratch", type=Path, help="folder of shards and runs (default: a temporary one)")
    parser.add_argument("--cpu", action="store_true", help="use the CPU even if there is a GPU")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder for ugmcl_step.csv (runs/bench)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; return the exit code: 0 success, 1 a variant failed, 2 something must be changed."""
    keep_output()
    options = parse(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: run(options), options.debug, (UmlError, ShardError))


def run(options: argparse.Namespace) -> int:
    """Measure every variant in every precision; what was measured before a failure or the time limit is kept."""
    setting = Setting(
        tuple(options.size), options.width, options.passes, options.passes_at_once, options.steps, options.warm_up,
        options.cpu or not torch.cuda.is_available(),
    )  # fmt: skip
    if min(setting.steps, setting.passes, setting.passes_at_once) < 1 or setting.warm_up < 0:
        raise UmlError("--steps, --passes and --passes-at-once must be at least 1, and --warm-up at least 0")
    start, rows, code = perf_counter(), [], 0
    with tempfile.TemporaryDirectory() as temporary:
        scratch = (options.scratch or Path(temporary)).absolute()
        scratch.mkdir(parents=True, exist_ok=True)
        shards = options.shards or make_shards(scratch / "phantom3d", setting)
        ids = list_labelled(shards, scratch / "labelled.txt")
        for precision in options.precisions or precisions_of(setting):
            for name in options.variants:
                if perf_counter() - start > options.seconds:
                    print(f"skipped for lack of time: {name}, {precision}")
                    continue
                found = train(name, precision, setting, shards, ids, scratch)
                code = code if found else 1
                rows += [found] if found else []
                options.out.mkdir(parents=True, exist_ok=True)
                write_rows(options.out / "ugmcl_step.csv", rows, setting)
    if rows:
        print(f"\n{printed_table(rows, setting)}\n\nwritten to {options.out / 'ugmcl_step.csv'}")
    return code


def precisions_of(setting: Setting) -> tuple[str, ...]:
    """Return float32, and bf16 where it saves time."""
    if has_bf16(torch.device("cpu" if setting.cpu else "cuda")):
        return ("fp32", "bf16")
    print(f"bf16 is left out: {instruction_set() if setting.cpu else 'the GPU'} has no instructions for it")
    return ("fp32",)


def make_shards(folder: Path, setting: Setting) -> Path:
    """Make shards of phantom volumes that are larger than the patches, unless they exist."""
    if not (folder / "val" / "manifest.json").exists():
        height, width, depth = setting.size
        # The volumes have about two thirds of their size along the third axis, and vary by a sixteenth.
        size = max(16, round(1.12 * max(height, width, 1.5 * depth)))
        words = ["make", "--dataset", "phantom3d", "--out", folder, "--size", size, "--quiet"]
        words += ["--count", f"train={CASES}", "val=1", "test=0"]
        command = [sys.executable, LAUNCHERS / "shards.py", *words]
        subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    return folder


def list_labelled(shards: Path, path: Path) -> Path:
    """Write the list of the labelled volumes."""
    split = open_split(shards / "train")
    keys = split.keys()
    path.write_text("\n".join(keys[number] for number in draw_labelled(split, LABELLED, quiet=True)) + "\n")
    return path


def train(name: str, precision: str, setting: Setting, shards: Path, ids: Path, scratch: Path) -> Measured | None:
    """Train one variant in a new run folder; return its times and memory, or None if it failed."""
    run = Path(tempfile.mkdtemp(prefix=f"{name}-{precision}-", dir=scratch))
    config = run / "step.toml"
    config.write_text(tomli_w.dumps(tree_of(name, precision, setting, shards, ids)), encoding="utf-8")
    words = ["--num_gpus", "1", "--config", config, "--run", run, *(["--cpu"] if setting.cpu else [])]
    command = [sys.executable, LAUNCHERS / "train.py", *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        line = next((line for line in done.stderr.splitlines() if line.startswith("error: ")), done.stderr[-2000:])
        print_error(f"{name}, {precision}: exit code {done.returncode}: {line.removeprefix('error: ')}")
        return None
    found = measured(name, precision, run, setting.warm_up, done.stdout + done.stderr)
    print(f"{name}, {precision}: {1000 * found.total:.0f} ms a step", flush=True)
    return found


def tree_of(name: str, precision: str, setting: Setting, shards: Path, ids: Path) -> dict[str, object]:
    """Return the configuration of a variant: the paper's but for the size, without validations and checkpoints."""
    stream = {"shards": str(shards), "labelled_ids": str(ids), "count": COUNT}
    never, steps = 10**6, setting.warm_up + setting.steps
    passes = {"passes": setting.passes, "passes_at_once": setting.passes_at_once}
    return {
        "recipe": "ugmcl",
        "streams": {"labelled": {**stream, "part": "labelled"}, "unlabelled": {**stream, "part": "unlabelled"}},
        "data": {"size": list(setting.size)},
        "model": {"width": setting.width},
        "objective": {**passes, **VARIANTS[name]},
        "train": {"steps": steps, "log_every": 1, "validate_every": never, "precision": precision},
        "checkpoint": {"every": never},
        "metrics": {"enabled": False},
    }


if __name__ == "__main__":
    sys.exit(main())
