"""A flipped bit in the weights of one rank, or a wrong forward pass of it, is found, and its rank is named."""

from pathlib import Path
from typing import Any

import pytest

from ellipsoids import labelled_list, make_ellipsoids, ugmcl_tree
from runs import uml_tree
from spots import collab_tree, make_spots, masked_list
from toy_recipe import toy_tree
from worldly import compute_wrongly, flip_a_bit, repeat_forward_each, train_each
from worlds import run_world

pytestmark = [pytest.mark.distributed, pytest.mark.fault]


@pytest.mark.parametrize("stage", [0, 2])
def test_the_rank_with_other_weights_is_named(stage, partly_known):
    tree = uml_tree(partly_known, train__steps=4, streams__train__count=6, zero__stage=stage)
    lines = run_world(3, flip_a_bit, tree, 1)
    assert len(set(lines)) == 1
    assert lines[0].startswith("the weights of uml on rank 1 differ from those of the others before step 3: ")


def test_the_rank_whose_forward_pass_is_not_the_same_again_is_named(partly_known):
    tree = uml_tree(partly_known, train__steps=4, train__micro_batch=2, objective__dice_scope="sample")
    for line, said in run_world(2, compute_wrongly, tree, 1, 2):
        assert line.startswith("a forward pass of step 3, repeated, gave another result on rank 1: ")
        assert said == []


def trees_of(recipe: str, partly_known: Path, folder: Path) -> list[dict[str, Any]]:
    """Trainings with dropout, averages, batch norm over all ranks, or engines that take turns."""
    match recipe:
        case "uml":
            words = {"model__head": "published", "train__steps": 3}
            return [uml_tree(partly_known, **words, zero__stage=stage) for stage in (0, 3)]
        case "toy":
            return [toy_tree(partly_known, stage) for stage in (1, 3)]
        case "ugmcl":
            return [ugmcl_tree(make_ellipsoids(folder / "shards"), labelled_list(folder))]
        case _:
            batch_norm = {"norm": "batch", "one_by_one": False, "checkpointing": False}
            tree = collab_tree(make_spots(folder / "shards"), masked_list(folder), batch_norm)
            return [{**tree, "zero": {"stage": 2}}]


@pytest.mark.parametrize("recipe", ["uml", "toy", "ugmcl", "collab"])
def test_comparing_changes_nothing(recipe, partly_known, tmp_path):
    trees = [{**tree, "checkpoint": {"every": 100}} for tree in trees_of(recipe, partly_known, tmp_path)]
    functions = (train_each, repeat_forward_each)
    runs = [[str(tmp_path / function.__name__ / str(number)) for number in range(len(trees))] for function in functions]
    plain, compared = (run_world(2, function, trees, own)[0] for function, own in zip(functions, runs, strict=True))
    for one, (other, said), first, second in zip(plain, compared, *runs, strict=True):
        assert said == []
        assert other.losses == one.losses
        assert tensors_of(second) == tensors_of(first)


def tensors_of(run: str) -> dict[str, bytes]:
    """The files of tensors of a run's one checkpoint: weights, buffers, averages and moments."""
    found = {path.name: path.read_bytes() for path in Path(run).glob("checkpoints/step-*/*.safetensors")}
    assert found
    return found
