"""Kill processes of trainings at random, resume, and compare with trainings that are left alone: part of `make chaos`.

Each recipe trains at a toy size on two CPU processes that DeepSpeed starts. One process of the training after another
is killed by SIGKILL: DeepSpeed's front end, its launcher, ours, a rank, a loader worker, or the writer of a checkpoint;
some steps after the last start, while a checkpoint is written, or before the first step. After each kill all the others
must end, and the same command resumes the run. At the end, the losses of all steps and the weights must equal those of
a training without kills bit for bit, and each whole epoch must have every sample once.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench_machine import facts
from chaotic import Chaos, differences, train_disturbed, train_undisturbed
from ellipsoids import labelled_list, make_ellipsoids, ugmcl_tree
from runs import make_partly_known, uml_tree
from spots import collab_tree, make_spots, masked_list
from uml_dist.config.loading import validate
from uml_dist.errors import UmlError
from uml_dist.train.setup import prepare
from uml_shards.durable import replace_text
from uml_shards.errors import ShardError, run_command
from uml_shards.output import keep_output
from uml_shards.text import csv_table

STEPS_PER_KILL = 10
PHASES = ("lesions", "grades", "adversary", "attention", "together")
COLOURS = {"step": "#0072B2", "save": "#D55E00", "start": "#009E73"}
"""Of moments of a kill; distinguishable for colour-blind people."""

NAMES = {"launcher": "front end", "node": "our launcher", "loader": "loader worker"}
"""How kinds of processes are called in the plot, if not by their own name."""


def uml(folder: Path, steps: int) -> dict[str, Any]:
    """Return a small UML run, with dropout and augmentation."""
    return uml_tree(make_partly_known(folder / "shards"), train__steps=steps, streams__train__count=4)


def ugmcl(folder: Path, steps: int) -> dict[str, Any]:
    """Return a small run of UG-MCL, with its averaged teacher."""
    tree = ugmcl_tree(make_ellipsoids(folder / "shards"), labelled_list(folder))
    return {**tree, "train": {**tree["train"], "steps": steps}}


def collab(folder: Path, steps: int) -> dict[str, Any]:
    """Return a small run of collaborative learning, with three engines in five phases."""
    tree = collab_tree(make_spots(folder / "shards"), masked_list(folder))
    return {**tree, "phases": [{"name": name, "steps": steps // len(PHASES)} for name in PHASES]}


RECIPES: Mapping[str, Callable[[Path, int], dict[str, Any]]] = {"uml": uml, "ugmcl": ugmcl, "collab": collab}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), help="recipes (default: all)")
    parser.add_argument("--kills", type=int, default=20, help="kills of each recipe (20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is killed when (0)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench"), help="folder of chaos.csv and chaos.png (runs/bench)"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, kill, compare; return the exit code: 0 equal, 1 different, 2 something must be changed."""
    keep_output()
    options = parse(sys.argv[1:] if arguments is None else arguments)
    return run_command(lambda: run(options), options.debug, (UmlError, ShardError))


def run(options: argparse.Namespace) -> int:
    """Train each recipe with kills and without."""
    if options.kills < 1:
        raise UmlError("--kills must be at least 1")
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Chaos] = {}
    problems = 0
    for recipe in options.recipes:
        with tempfile.TemporaryDirectory() as name:
            chaos, wrong = train(recipe, Path(name), options.kills, options.seed)
        found[recipe], problems = chaos, problems + len(wrong)
        found = {name: found[name] for name in RECIPES if name in found}
        kinds = ", ".join(f"{kind} {count}" for kind, count in Counter(kill.kind for kill in chaos.kills).items())
        steps, slowest = chaos.progress[-1][1], max(kill.gone for kill in chaos.kills)
        verdict = f"differs: {'; '.join(wrong[:5])}" if wrong else "equals the training without kills"
        print(f"{recipe}: {len(chaos.kills)} kills ({kinds}) in {steps} steps; all others gone within {slowest:.0f} s")
        print(f"{recipe}: {verdict}", flush=True)
        write(options.out, found)
    print(f"\nwritten to {options.out / 'chaos.csv'} and chaos.png")
    return 1 if problems else 0


def train(recipe: str, folder: Path, kills: int, seed: int) -> tuple[Chaos, list[str]]:
    """Train a recipe with kills and without; return what happened, and how the two differ."""
    tree = RECIPES[recipe](folder, STEPS_PER_KILL * kills)
    tree |= {"data": {**tree["data"], "workers": 1}, "checkpoint": {"every": 3, "keep": 2}}
    setup = prepare(validate(tree, recipe), 2)
    plain = folder / "plain" / "run"
    train_undisturbed(tree, plain)
    chaos = train_disturbed(tree, folder / "killed" / "run", kills, seed)
    return chaos, differences(plain, chaos, {name: len(split) for name, split in setup.splits.items()})


def write(out: Path, found: Mapping[str, Chaos]) -> None:
    """Write chaos.csv and chaos.png."""
    machine = facts()
    rows: list[Sequence[Any]] = [["recipe", "process", "moment", "seconds", "step", "gone_seconds", *machine]]
    for recipe, chaos in found.items():
        for kill in chaos.kills:
            figures = (f"{kill.seconds:.1f}", kill.step, f"{kill.gone:.1f}")
            rows.append([recipe, kill.kind, kill.moment, *figures, *machine.values()])
    replace_text(out / "chaos.csv", csv_table(rows))
    plot(out / "chaos.png", found)


def plot(path: Path, found: Mapping[str, Chaos]) -> None:
    """Draw the steps of each recipe against time, with the kills."""
    figure = Figure(figsize=(12, 0.8 + 3 * len(found)), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    for number, (recipe, chaos) in enumerate(found.items(), 1):
        axes = figure.add_subplot(len(found), 1, number)
        times, steps = [seconds for seconds, _ in chaos.progress], [step for _, step in chaos.progress]
        axes.step(times, steps, where="post", color="#777777", linewidth=1.2)
        for moment, colour in COLOURS.items():
            kills = [kill for kill in chaos.kills if kill.moment == moment]
            label = {"step": "after a step", "save": "while saving", "start": "while starting"}[moment]
            axes.plot(
                [kill.seconds for kill in kills], [kill.step for kill in kills], "x", color=colour, label=label,
                markersize=8, markeredgewidth=2,
            )  # fmt: skip
        for kill in chaos.kills:
            axes.annotate(
                NAMES.get(kill.kind, kill.kind), (kill.seconds, kill.step), xytext=(1, 6), textcoords="offset points",
                fontsize=8, rotation=60, rotation_mode="anchor",
            )  # fmt: skip
        axes.set_title(f"{recipe}: {len(chaos.kills)} kills", fontsize=10, loc="left")
        axes.set_ylabel("last step", fontsize=9)
        axes.grid(alpha=0.3)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if number == 1:
            axes.legend(title="killed", fontsize=8, title_fontsize=8, loc="upper left")
        if number == len(found):
            axes.set_xlabel("seconds", fontsize=9)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
