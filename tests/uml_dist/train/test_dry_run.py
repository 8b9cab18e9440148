"""The dry run prints what a run needs; the expected numbers were calculated by hand."""

import pytest

import toy_recipe
import volume_recipe
from runs import uml_tree
from uml_dist.config.loading import apply_overrides, validate
from uml_dist.errors import UmlError
from uml_dist.recipes import Averaged, Frozen
from uml_dist.train.dry_run import copy_bytes, dry_run, state_bytes
from uml_dist.train.setup import prepare

assert toy_recipe
assert volume_recipe


@pytest.mark.parametrize(
    ("stage", "moments", "ranks", "expected"),
    [
        # 1000 float32 parameters: weights 4000 bytes, gradients 4000, each moment 4000, a copy of the weights 4000.
        (0, 2, 1, 16000),
        (0, 2, 4, 16000),
        (1, 2, 4, 4000 + 4000 + 3 * 1000),
        (2, 2, 4, 4000 + 1000 + 3 * 1000),
        (3, 2, 4, 1000 + 1000 + 3 * 1000),
        (0, 1, 4, 12000),
        (3, 1, 4, 1000 + 1000 + 2 * 1000),
        (2, 2, 1, 20000),
    ],
)
def test_each_stage_partitions_more(stage, moments, ranks, expected):
    assert state_bytes(1000, moments, stage, ranks) == expected


def test_phases_streams_and_networks_are_listed(partly_known):
    stream = {"shards": str(partly_known), "count": 8}
    tree = {
        "recipe": "toy",
        "streams": {"labelled": stream, "unlabelled": {**stream, "count": 12}},
        "train": {"steps": 10, "best": "accuracy", "micro_batch": 5},
        "optimizer": {"name": "sgd"},
    }
    lines = dry_run(prepare(validate(tree, "test"), 2), 2).splitlines()
    assert lines[0] == (
        "phase supervised: 5 steps; a global batch holds 8 of labelled; 4 at once on each of 2 ranks, accumulation 1"
    )
    assert lines[1] == (
        "phase both: 5 steps; a global batch holds 8 of labelled, 12 of unlabelled; "
        "5 at once on each of 2 ranks, accumulation 2"
    )
    assert lines[2] == "stream labelled: 96 samples of 32 x 32, 12.00 steps per epoch"
    assert lines[3] == "stream unlabelled: 96 samples of 32 x 32, 8.00 steps per epoch"
    by_name = {line.split()[0]: line for line in lines[5:]}
    # 3 x 6 filters of 3 x 3 and 6 offsets, 6 x 2 weights and 2 offsets; 3 x 5 + 5 + 5 + 1.
    assert int(by_name["student"].split()[1]) == 182
    assert int(by_name["critic"].split()[1]) == 26
    assert "student" in by_name["teacher"]
    assert "student" in by_name["before"]


def test_bytes_of_averages_and_frozen_copies_are_printed(partly_known):
    """Float32 weights; ZeRO 3 partitions averages."""
    roles = Averaged("net"), Frozen("net")
    averaged, frozen = ([copy_bytes(1000, role, stage, 4) for stage in range(4)] for role in roles)
    assert averaged == [4000, 4000, 4000, 1000]
    assert frozen == [4000] * 4
    tree = apply_overrides(uml_tree(partly_known), ["model.width=0.125", "train.ema=0.99"])
    trained, average = dry_run(prepare(validate(tree, "test"), 2), 2).splitlines()[-2:]
    parameters = int(average.split()[1].replace(",", ""))
    assert (average.split()[0], f"{parameters:,}") == ("uml.ema", trained.split()[1])
    megabytes = [f"{4 * parameters / parts / 1e6:.1f} MB" for parts in (1, 1, 1, 2)]
    assert " | ".join(megabytes) + "  Averaged(of='uml'" in average


def test_bytes_are_printed_by_stage(partly_known):
    tree = apply_overrides(uml_tree(partly_known), ["model.width=0.125"])
    setup = prepare(validate(tree, "test"), 2)
    parameters = sum(tensor.numel() for tensor in setup.recipe.networks["uml"].build().parameters())
    line = dry_run(setup, 2).splitlines()[-1]
    megabytes = parameters * 4 / 1e6
    assert line.split()[:2] == ["uml", f"{parameters:,}"]
    # Weights, gradients, two moments and, above stage 0, a copy; partitioned ones are halved on two ranks.
    expected = [4.0, 2 + 1.5, 1 + 0.5 + 1.5, 0.5 + 0.5 + 1.5]
    assert line.partition("  ")[2].split("  ")[-1] == " | ".join(f"{megabytes * share:.1f} MB" for share in expected)


def test_patches_of_volumes_are_listed_with_three_sides(tmp_path):
    stream = {"shards": str(volume_recipe.make_balls(tmp_path)), "count": 2}
    tree = {
        "recipe": "volume",
        "streams": {"labelled": stream, "unlabelled": stream},
        "data": {"size": [8, 8, 6]},
        "train": {"steps": 2, "best": "dice"},
    }
    text = dry_run(prepare(validate(tree, "test"), 1), 1)
    assert "stream labelled: 10 samples of 8 x 8 x 6, 5.00 steps per epoch" in text
    tree["data"] = {"size": 8}
    with pytest.raises(UmlError, match=r"data\.size = 8 does not fit shards of volumes: set data\.size = \[H, W, D\]"):
        prepare(validate(tree, "test"), 1)


def test_a_recipe_for_images_refuses_volumes(tmp_path):
    tree = uml_tree(volume_recipe.make_balls(tmp_path))
    with pytest.raises(UmlError, match="recipe uml is for images, the shards of train hold volumes"):
        prepare(validate(tree, "test"), 1)
