"""Plans the runs of the quality benchmark: methods and configurations, all checked before the first run starts."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uml_dist.config.loading import apply_overrides, read_toml, validate
from uml_dist.errors import UmlError
from uml_dist.run.data import open_stream_split
from uml_dist.run.reader import read_status
from uml_dist.train.setup import Setup, find_resume, prepare

FREE = ("model", "objective", "optimizer", "networks")
"""Tables in which the methods may differ; all others are shared, so that the budget is the same."""


@dataclass(frozen=True)
class Method:
    """One side of the comparison.

    Attributes:
        recipe: recipe of the method.
        words: settings of the method, applied before those of the command line.
        drops: tables of uml's configuration that do not apply to it.
    """

    recipe: str
    words: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()


METHODS = {
    "uml": Method("uml"),
    "plain": Method("plain_unet:PlainUnet", ("optimizer.lr=2e-3",), ("model", "objective", "networks")),
}
"""The learning rate has the lowest validation loss after 900 steps on the phantom: 0.431; 1e-3: 0.441, 3e-3: 0.452."""


@dataclass(frozen=True)
class Bench:
    """The options that all runs of a benchmark share.

    Attributes:
        launcher: path of `launchers/train.py`.
        out: output folder.
        config: uml's TOML file.
        shards: folder or URL of the data set; None for that of the configuration.
        words: settings, `METHOD.table.key=value` for one method or `table.key=value` for both.
        split: split to evaluate.
        ranks: number of workers.
        device: "cuda" or "cpu".
    """

    launcher: Path
    out: Path
    config: Path
    shards: str | None
    words: tuple[str, ...]
    split: str
    ranks: int
    device: str


@dataclass(frozen=True)
class Job:
    """A run: method, seed, run folder, configuration, and the checked setup."""

    method: str
    seed: int
    run: Path
    tree: Mapping[str, Any]
    setup: Setup

    def step(self) -> int:
        """Return the step of the newest checkpoint; 0 if there is none.

        Raises:
            UmlError: the run folder holds another run.
        """
        try:
            found = find_resume(self.setup, self.run, "auto", lambda line: None)
        except UmlError as error:
            raise UmlError(str(error).replace("choose another --run", "choose another --out")) from None
        return found[1].step if found else 0

    def is_done(self) -> bool:
        """Return whether the run has finished, including its last validation."""
        status = read_status(self.run)
        return status is not None and status["status"] == "done" and self.step() == self.setup.steps


def plan(bench: Bench, methods: Iterable[str], seeds: Iterable[int]) -> list[Job]:
    """Return all runs, checked against the data and against existing runs in `out`; nothing is written.

    Raises:
        UmlError, ShardError: a configuration does not fit the data or an existing run.
    """
    trees = {method: _tree(bench, method) for method in methods}
    jobs = []
    for seed in dict.fromkeys(seeds):
        for method in trees:
            tree = apply_overrides(trees[method], [f"train.seed={seed}"])
            setup = prepare(validate(tree, f"{bench.config} for {method}"), bench.ranks)
            recipe = setup.recipe
            open_stream_split(setup.config, type(recipe), setup.first_stream, bench.split, recipe.manifests)
            job = Job(method, seed, bench.out / "runs" / f"{method}-{seed}", tree, setup)
            job.step()
            jobs.append(job)
    return jobs


def _tree(bench: Bench, method: str) -> dict[str, Any]:
    """Return the configuration of a method, without its seed."""
    tree = read_toml(bench.config)
    if tree.get("recipe") != "uml":
        raise UmlError(f"configuration {bench.config} is not for recipe uml, which the benchmark compares")
    known = METHODS[method]
    tree = {key: value for key, value in tree.items() if key not in known.drops} | {"recipe": known.recipe}
    shards = [f"streams.train.shards={json.dumps(bench.shards)}"] if bench.shards else []
    return apply_overrides(tree, [*shards, *known.words, *_words_of(bench.words, method)])


def _words_of(words: Iterable[str], method: str) -> list[str]:
    """Return the settings of a method: the shared ones, then its own."""
    both, own = [], []
    for word in words:
        first, _, rest = word.partition(".")
        if first not in METHODS:
            both.append(word)
        elif rest.startswith(tuple(f"{table}." for table in FREE)):
            own += [rest] if first == method else []
        else:
            raise UmlError(f"argument {word!r}: methods may differ in {', '.join(FREE)} only")
    for word in both:
        if word.startswith(("recipe=", "train.seed=")):
            raise UmlError(f"argument {word!r}: the benchmark sets it (--methods, --seeds)")
    return both + own
