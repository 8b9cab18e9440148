"""Measure what watching a training costs: watchdog, guards against numbers that are not finite, and canary.

    python launchers/bench/guards.py
    python launchers/bench/guards.py --config launchers/configs/uml_phantom.toml --steps 100

Each part is called many times in a loop, on the networks of a recipe, and its processor time is divided by that of a
step, which is the difference of two trainings of different length. Processor time, of all threads together, hardly
depends on what else the machine does; a difference of whole trainings with and without the parts would be smaller than
its own noise. Only for the forward pass that the canary repeats, a training that repeats it in every step is compared
with one that never does.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import torch
from torch import nn

from bench_machine import facts
from uml_dist.config.loading import read_config
from uml_dist.config.schema import RunConfig
from uml_dist.errors import UmlError
from uml_dist.recipes import Trained, networks_of
from uml_dist.telemetry.health import Health
from uml_dist.train.canary import checksum
from uml_dist.train.engine import _finite_norm
from uml_dist.train.setup import prepare
from uml_dist.train.watchdog import LOOK_SECONDS
from uml_shards.durable import replace_text
from uml_shards.errors import ShardError, run_command
from uml_shards.importers import Options, find_importer
from uml_shards.output import keep_output
from uml_shards.text import csv_table
from uml_shards.write.writer import write_split

CONFIGS = Path(__file__).parents[1] / "configs"
TRAIN = Path(__file__).parents[1] / "train.py"
SHORT = 3
COLUMNS = ("part", "how_often", "processor_seconds", "share_of_a_step", "step_processor_seconds", "parameters")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="table.key=value", help="settings that override the file")
    parser.add_argument("--config", type=Path, default=CONFIGS / "uml_phantom.toml", help="configuration")
    parser.add_argument("--steps", type=int, default=40, help="steps of which the mean is measured (40)")
    parser.add_argument("--repeats", type=int, default=200, help="calls of each part (200)")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of guards.csv (runs/bench)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; return the exit code: 0 success, 2 something must be changed."""
    keep_output()
    options = parse(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: run(options), options.debug, (UmlError, ShardError))


def run(options: argparse.Namespace) -> int:
    """Measure a step and the parts."""
    if options.steps < 1 or options.repeats < 1:
        raise UmlError("--steps and --repeats must be at least 1")
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.out, prefix=".guards.") as name:
        folder = Path(name).resolve()
        words = [*options.settings, *make_phantom(folder / "phantom", options)]
        config = read_config(options.config, words)
        step = step_seconds(folder / "without", options, [*words, "faults.canary_every=0"])
        modules = modules_of(config)
        rows = parts_of(config, modules, options.repeats)
        if every := config.faults.canary_every:
            repeating = step_seconds(folder / "with", options, [*words, "faults.canary_every=1"])
            rows.append(("canary: repeated forward pass", f"every {every} steps", repeating - step, 1 / every))
    parameters = sum(parameter.numel() for module in modules for parameter in module.parameters())
    table, total = [[*COLUMNS]], 0.0
    print(f"a step takes {step:.3g} s of processor time; {parameters:,} parameters\n")
    for part, often, seconds, per_step in rows:
        # What happens every second is a share of the processor time of a core.
        share = seconds * per_step / step if per_step is not None else seconds / LOOK_SECONDS
        total += share
        print(f"{part:<44}{often:<20}{1e6 * seconds:>10.1f} us{100 * share:>10.4f} %")
        table.append([part, often, f"{seconds:.4g}", f"{share:.4g}", f"{step:.4g}", str(parameters)])
    print(f"{'together':<64}{100 * total:>23.4f} %")
    machine = facts()
    path = options.out / "guards.csv"
    replace_text(path, csv_table([[*table[0], *machine], *([*row, *machine.values()] for row in table[1:])]))
    print(f"\nwritten to {path}")
    return 0


def make_phantom(folder: Path, options: argparse.Namespace) -> list[str]:
    """Write shards of the phantom for the steps, unless the settings name others; return the settings for them."""
    if any(word.startswith("streams.train.shards=") for word in options.settings):
        return []
    importer = find_importer("phantom")(None, Options(size=96, counts={"train": 64, "val": 16, "test": 0}))
    for split in ("train", "val"):
        write_split(importer, split, importer.splits()[split], folder / split, quiet=True)
    return [f"streams.train.shards={folder}"]


def step_seconds(folder: Path, options: argparse.Namespace, words: Sequence[str]) -> float:
    """Return the processor time of a step: the difference of a long and a short training on one process."""
    folder.mkdir()
    used = []
    for steps in (SHORT, SHORT + options.steps):
        settings = [*words, f"train.steps={steps}", "train.validate_every=1000000", "metrics.targets_dir="]
        settings += ["data.workers=0", "train.log_every=1000000"]
        command = [sys.executable, str(TRAIN), "--num_gpus", "1", "--cpu", "--config", str(options.config)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [*command, "--run", str(folder / f"run-{steps}"), *settings], capture_output=True, text=True
        )
        if done.returncode:
            raise UmlError(f"the training has failed: {(done.stderr.splitlines() or ['no output'])[-1]}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return max(used[1] - used[0], 1e-9) / options.steps


def modules_of(config: RunConfig) -> list[nn.Module]:
    """Build the networks that the recipe trains, with gradients."""
    networks = networks_of(prepare(config, 1).recipe).values()
    modules = [network.build() for network in networks if isinstance(network, Trained)]
    for module in modules:
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
    return modules


def parts_of(
    config: RunConfig, modules: Sequence[nn.Module], repeats: int
) -> list[tuple[str, str, float, float | None]]:
    """Return each part, how often it runs, its processor seconds, and how often per step; None for every second."""
    health, steps = Health(), count(1)
    for _ in range(200):
        health.step(next(steps))
    every = config.faults.canary_every

    def look() -> None:
        health.doing().limit(config.faults.step_seconds, config.faults.pause_seconds)

    def norms() -> None:
        for module in modules:
            _finite_norm(module)

    def sums() -> None:
        for module in modules:
            int(checksum(module))

    found: list[tuple[str, str, float, float | None]] = [
        ("watchdog: note a step", "every step", processor_seconds(lambda: health.step(next(steps)), repeats), 1.0),
        ("watchdog: look at the rank", "every second", processor_seconds(look, repeats), None),
        ("gradient norm, and whether it is finite", "every step, ZeRO 0", processor_seconds(norms, repeats), 1.0),
    ]
    if every:
        found.append(
            ("canary: sum of the weights", f"every {every} steps", processor_seconds(sums, repeats), 1 / every)
        )
    return found


def processor_seconds(call: Callable[[], object], repeats: int) -> float:
    """Return the processor seconds of a call, all threads together."""
    call()
    start = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - start) / repeats


if __name__ == "__main__":
    sys.exit(main())
