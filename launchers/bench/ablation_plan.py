"""The runs of an ablation: the configuration of every arm, and the list of samples that count as labelled."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablation_arms import Arm
from comparison_jobs import Bench, split_words, with_shards
from uml_dist.config.loading import apply_overrides, read_toml, validate
from uml_dist.errors import UmlError
from uml_shards.address import parse_location
from uml_shards.read.draw import draw_labelled, save_keys
from uml_shards.read.split import open_split
from uml_shards.storage.cache import Cache

Tree = dict[str, Any]

SEED = 0
"""Seed of the draw of the labelled samples, which all arms and all seeds share."""


def shared_tree(bench: Bench, arms: Mapping[str, Arm], labelled: float | None) -> Tree:
    """Return the settings that all arms share, valid but not yet compared with the data.

    Args:
        bench: the shared options.
        arms: the arms by name.
        labelled: number or share of the samples that count as labelled; None for the configuration's own list.

    Raises:
        UmlError: a setting is not valid, or no stream has labelled samples only.
    """
    tree = with_shards(read_toml(bench.config), bench.shards)
    if labelled is not None:
        streams = tree.get("streams")
        parts = [name for name, stream in streams.items() if _has_part(stream)] if isinstance(streams, dict) else []
        if not parts:
            raise UmlError(
                f"labelled = {labelled:g} has no effect: no stream of {bench.config} has part labelled or unlabelled"
            )
        ids = json.dumps(str(list_of(bench.out, labelled)))
        tree = apply_overrides(tree, [f"streams.{name}.labelled_ids={ids}" for name in parts])
    tree = apply_overrides(tree, split_words(bench.words, "", arms)[0])
    validate(tree, str(bench.config))
    return tree


def trees_of(bench: Bench, shared: Tree, arms: Mapping[str, Arm]) -> dict[str, Tree]:
    """Return the configuration of every arm: the shared one, the arm's changes, and those of the command line.

    Raises:
        UmlError: an arm does not fit the recipe.
    """
    trees = {}
    for name, arm in arms.items():
        tree = apply_overrides(shared, [])
        for key in arm.drop:
            _drop(tree, key)
        trees[name] = apply_overrides(tree, [*arm.settings, *split_words(bench.words, name, arms)[1]])
        validate(trees[name], f"{bench.config} for {name}")
    return trees


def list_of(out: Path, labelled: float) -> Path:
    """Return the path of the list of labelled samples."""
    return out / f"labelled-{labelled:g}.txt"


def draw_list(bench: Bench, shared: Tree, labelled: float) -> str | None:
    """Draw the labelled samples as `shards.py draw` does, unless the list exists; return a line about it.

    Returns:
        None if the settings name another list.

    Raises:
        UmlError, ShardError: the shards cannot be read, or have too few samples with a mask or a label.
    """
    path, config = list_of(bench.out, labelled), validate(shared, str(bench.config))
    users = [stream for stream in config.streams.values() if stream.labelled_ids == str(path)]
    if not users:
        return None
    if path.is_file():
        return f"labelled samples: those in {path}"
    if users[0].more_shards:
        raise UmlError("labelled samples are drawn from one data set: leave out more_shards, or labelled")
    split = open_split(parse_location(users[0].shards) / users[0].split, Cache(config.data.cache))
    keys = split.keys()
    drawn = [keys[number] for number in draw_labelled(split, labelled, SEED)]
    path.parent.mkdir(parents=True, exist_ok=True)
    what = f"{len(drawn)} of the {len(keys)} samples of {split.path}, seed {SEED}"
    save_keys(path, drawn, what)
    return f"labelled samples: {what}: {path}"


def _has_part(stream: Any) -> bool:
    return isinstance(stream, Mapping) and stream.get("part", "all") != "all"


def _drop(tree: Tree, key: str) -> None:
    """Remove a dotted key from nested tables, if it is there."""
    *tables, last = key.split(".")
    for name in tables:
        tree = tree.get(name, {})
        if not isinstance(tree, dict):
            return
    tree.pop(last, None)
