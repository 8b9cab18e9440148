"""The runs of a comparison: every method with every seed, all checked before the first run starts."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uml_dist.config.loading import apply_overrides, validate
from uml_dist.errors import UmlError
from uml_dist.run.data import open_stream_split
from uml_dist.run.reader import read_status
from uml_dist.train.setup import Setup, find_resume, prepare

FREE = ("model", "objective", "optimizer", "networks")
"""Tables in which the methods may differ; all others are shared, so that the budget is the same."""

LABELS = re.compile(r"streams\.[^.]+\.(part|labelled_ids)")
"""Settings of the samples that count as labelled. A method that is given other labels is not one of equal terms."""


@dataclass(frozen=True)
class Bench:
    """The options that all runs of a comparison share.

    Attributes:
        launcher: path of `launchers/train.py`.
        out: output folder.
        config: TOML file with the settings that the methods share.
        shards: folder or URL of the data set; None for that of the configuration.
        words: settings, `METHOD.table.key=value` for one method or `table.key=value` for all.
        split: split to evaluate.
        ranks: number of workers.
        device: "cuda" or "cpu".
        checkpoint: checkpoint to evaluate, "best" or "latest".
    """

    launcher: Path
    out: Path
    config: Path
    shards: str | None
    words: tuple[str, ...]
    split: str
    ranks: int
    device: str
    checkpoint: str = "best"


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


def plan_jobs(bench: Bench, trees: Mapping[str, Mapping[str, Any]], seeds: Iterable[int]) -> list[Job]:
    """Return all runs, checked against the data and against existing runs in `out`; nothing is written.

    Args:
        bench: the shared options.
        trees: configuration of each method, without its seed.
        seeds: the seeds.

    Raises:
        UmlError, ShardError: a configuration does not fit the data or an existing run.
    """
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


def split_words(words: Iterable[str], method: str, methods: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the settings of the command line that all methods share, and those of one method.

    Raises:
        UmlError: methods would differ in more than their own tables, or a word sets what the benchmark sets.
    """
    shared, own = [], []
    for word in words:
        first, _, rest = word.partition(".")
        if first not in methods:
            shared.append(word)
        elif is_free(rest):
            own += [rest] if first == method else []
        else:
            raise UmlError(f"argument {word!r}: methods may differ in {', '.join(FREE)} only")
    for word in shared:
        if word.startswith(("recipe=", "train.seed=")):
            raise UmlError(f"argument {word!r}: the benchmark sets recipe and seed (--seeds)")
    return shared, own


def is_free(word: str) -> bool:
    """Return whether a method may have this setting for itself."""
    return word.startswith(tuple(f"{table}." for table in FREE))


def with_shards(tree: Mapping[str, Any], shards: str | None) -> dict[str, Any]:
    """Return a configuration whose streams all read another data set; None for their own."""
    streams = tree.get("streams")
    names = streams if shards and isinstance(streams, Mapping) else ()
    return apply_overrides(tree, [f"streams.{name}.shards={json.dumps(shards)}" for name in names])
