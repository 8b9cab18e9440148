"""Checks before any rank starts: bad inputs are reported in one line, good ones give the right setup."""

import re
import shutil
from typing import get_args

import pytest

import toy_recipe
from broken_shards import VGG_WEIGHTS, WRONG_SETTINGS, WRONG_SHARDS, ThreePixelClasses, restate, write_shards
from runs import make_partly_known, uml_tree
from uml_dist.config.loading import apply_overrides, validate
from uml_dist.config.schema import DataConfig
from uml_dist.errors import UmlError
from uml_dist.run.checkpoint import RunState, save_checkpoint
from uml_dist.train.augmentation import VOLUME_AUGMENTATIONS
from uml_dist.train.loading import loader_workers
from uml_dist.train.rank_batch import rank_batch_of
from uml_dist.train.setup import check_start, find_resume, prepare
from uml_shards import ShardError
from uml_shards.read.augment import AUGMENTATIONS

assert toy_recipe


def refused(tree, *words, ranks=2) -> str:
    """Return the error message for a bad configuration, which must be one line."""
    with pytest.raises((UmlError, ShardError)) as raised:
        check_start(setup_of(tree, *words, ranks=ranks))
    line = str(raised.value)
    assert line
    assert "\n" not in line
    return line


def setup_of(tree, *words, ranks=1):
    return prepare(validate(apply_overrides(tree, words), "run.toml"), ranks)


@pytest.fixture
def toy_tree(partly_known):
    stream = {"shards": str(partly_known), "count": 8}
    return {
        "recipe": "toy",
        "streams": {"labelled": stream, "unlabelled": {**stream, "count": 12}},
        "train": {"steps": 10, "best": "accuracy"},
    }


@pytest.mark.parametrize("wrong", WRONG_SHARDS, ids=lambda wrong: wrong.__name__)
def test_wrong_shards_are_reported_in_one_line(partly_known, tmp_path, wrong):
    line = refused(uml_tree(wrong(partly_known, tmp_path)))
    assert re.search(WRONG_SHARDS[wrong], line), line


@pytest.mark.parametrize("words", WRONG_SETTINGS, ids=" ".join)
def test_wrong_settings_are_reported_in_one_line(partly_known, words):
    line = refused(uml_tree(partly_known), *words)
    assert re.search(WRONG_SETTINGS[words], line), line


@pytest.mark.parametrize(
    ("best", "changes", "message"),
    [
        (
            "mean(dice, accuracy)",
            {"labelled": 0, "class_counts": [0, 0]},
            "accuracy needs an image with a label, but split val has none",
        ),
        ("mean(dice, accuracy)", {"masked": 0}, "dice needs an image with a mask, but split val has none"),
        ("auroc", {"class_counts": [12, 0]}, "auroc needs an image of malignant, but split val has none"),
    ],
)
def test_metric_that_the_validation_split_cannot_have_is_reported_in_one_line(
    partly_known, tmp_path, best, changes, message
):
    shards = shutil.copytree(partly_known, tmp_path / "shards")
    tree = uml_tree(shards, train__best=best)
    assert setup_of(tree).validations[0].selection.name == best
    restate(shards / "val", **changes)
    assert refused(tree).startswith(f"train.best: {message}: use one of ")


def test_distances_between_surfaces_can_choose_the_best_checkpoint_of_any_recipe(partly_known):
    best = setup_of(uml_tree(partly_known), "evaluation.surfaces=voxel", "train.best=hd95").validations[0].selection
    assert best.lower_is_better
    assert "'hd95' is not a metric of this data" in refused(uml_tree(partly_known), "train.best=hd95")


def test_a_channel_of_one_value_is_reported_before_any_rank_starts(partly_known, tmp_path):
    shards = shutil.copytree(partly_known, tmp_path / "shards")
    restate(shards / "train", statistics={"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.0, 0.2]})
    assert "channel 1 has standard deviation 0 in the training data" in refused(uml_tree(shards))
    setup_of(uml_tree(shards, data__normalise="unit"))


def test_run_from_before_the_rule_for_empty_masks_can_be_resumed(partly_known, tmp_path):
    tree = uml_tree(partly_known)
    setup = setup_of(tree)
    config = setup.config.model_dump(mode="json", exclude_none=True)
    del config["train"]["empty_masks"]
    save_checkpoint(tmp_path / "checkpoints", {}, RunState("uml", step=1, data=setup.digests, config=config))
    assert find_resume(setup, tmp_path, "auto") is not None


def test_mask_values_out_of_range_are_reported_in_one_line_when_read(tmp_path):
    shards = write_shards(tmp_path, ThreePixelClasses, "train", "val")
    for name in ("train", "val"):
        restate(shards / name, mask_classes=["background", "lesion"])
    setup = setup_of(uml_tree(shards, streams__train__count=2))
    message = r"shard-\d+\.tar: sample train-\d+: mask\.png: value 2 is out of range: 2 mask classes, and 255 = ignore$"
    with pytest.raises(ShardError, match=message) as raised:
        setup.streams(setup.phases[0][0])["train"].sample(0)
    assert "\n" not in str(raised.value)


def test_a_run_without_a_length_is_refused(partly_known):
    tree = uml_tree(partly_known)
    del tree["train"]["steps"]
    assert refused(tree) == "the length of the run is not stated: set train.steps or train.epochs"


def test_missing_or_misspelt_stream_is_named(partly_known, toy_tree):
    del toy_tree["streams"]["unlabelled"]
    line = "streams.unlabelled is missing: recipe toy has the streams labelled, unlabelled"
    assert refused(toy_tree) == line
    tree = uml_tree(partly_known)
    tree["streams"]["trian"] = tree["streams"].pop("train")
    assert refused(tree).startswith("streams.train is missing: ")


def test_ranks_must_divide_the_samples_of_every_stream(toy_tree):
    line = refused(toy_tree, "streams.unlabelled.count=10", ranks=4)
    assert line.startswith("streams.unlabelled.count = 10 cannot be shared by 4 ranks: use 1, 2, 5, 10 ranks")


def test_streams_of_different_image_sizes_need_data_size(toy_tree, tmp_path):
    toy_tree["streams"]["unlabelled"]["shards"] = str(write_shards(tmp_path, ThreePixelClasses, "train"))
    restate(tmp_path / "train", mask_classes=["background", "lesion"])
    assert refused(toy_tree, ranks=1) == "the images of the shards differ in size: set data.size"
    assert setup_of(toy_tree, "data.size=24").sizes == {"labelled": (24, 24), "unlabelled": (24, 24)}
    words = ("data.size=24", "streams.unlabelled.size=16")
    assert setup_of(toy_tree, *words).sizes == {"labelled": (24, 24), "unlabelled": (16, 16)}


def test_unknown_phases_are_refused(partly_known):
    line = refused(uml_tree(partly_known), 'phases=[{name = "warm", steps = 3}]')
    assert line == "phases: recipe uml has no phase 'warm': it has train"


def test_setup_has_phases_steps_size_and_splits(partly_known):
    setup = setup_of(uml_tree(partly_known))
    assert [(phase.name, steps) for phase, steps in setup.phases] == [("train", 5)]
    assert (setup.steps, setup.sizes, setup.first_stream) == (5, {"train": (32, 32)}, "train")
    assert (len(setup.splits["train"]), len(setup.validations[0].split)) == (96, 12)


@pytest.mark.parametrize(("epochs", "steps"), [("2", 24), ("0.1", 2), ("1.01", 13)])
def test_epochs_become_steps_rounded_up(partly_known, epochs, steps):
    tree = uml_tree(partly_known)  # 96 samples, 8 in a global batch
    del tree["train"]["steps"]
    assert setup_of(tree, f"train.epochs={epochs}").steps == steps


def phase_steps(tree, *words):
    return [(phase.name, steps) for phase, steps in setup_of(tree, *words).phases]


@pytest.mark.parametrize(("steps", "supervised"), [(10, 5), (5, 2), (7, 4)])
def test_phases_share_the_steps_of_the_run(toy_tree, steps, supervised):
    found = phase_steps(toy_tree, f"train.steps={steps}")
    assert found == [("supervised", supervised), ("both", steps - supervised)]


def test_stated_steps_of_phases_are_used(toy_tree):
    both = 'phases=[{name = "both", steps = 7}, {name = "supervised", steps = 2}]'
    assert refused(toy_tree, both, ranks=1).startswith("every phase states its steps: leave out train.steps")
    del toy_tree["train"]["steps"]
    assert phase_steps(toy_tree, both) == [("supervised", 2), ("both", 7)]
    line = refused(toy_tree, 'phases=[{name = "both", steps = 7}]', ranks=1)
    assert line.startswith("the length of the run is not stated")


def test_a_phase_named_twice_is_refused(toy_tree):
    line = refused(toy_tree, 'phases=[{name = "both", steps = 7}, {name = "both", steps = 2}]', ranks=1)
    assert line == "phases: a name occurs twice: both, both"


def test_progress_counts_the_run_and_the_phase(toy_tree):
    del toy_tree["train"]["steps"]
    setup = setup_of(toy_tree, 'phases=[{name = "supervised", steps = 2}, {name = "both", steps = 6}]')
    progress = setup.progress(RunState("toy", step=4, phase=1, phase_step=2))
    assert (progress.step, progress.steps, progress.phase) == (4, 8, "both")
    assert (progress.phase_step, progress.phase_steps, progress.fraction) == (2, 6, 0.5)
    assert setup.progress(RunState("toy", step=8, phase=2)).fraction == 1.0


def toy_rank_batch(tree, *words, rank=0, ranks=1):
    config = validate(apply_overrides(tree, words), "run.toml")
    return rank_batch_of(config, {name: stream.count for name, stream in config.streams.items()}, rank, ranks)


@pytest.mark.parametrize(
    ("ranks", "limit", "accumulation", "micro_batch"),
    # 8 + 12 samples: per rank 8 + 12, 4 + 6 or 2 + 3.
    [(1, None, 1, 20), (1, 20, 1, 20), (1, 19, 2, 10), (1, 9, 4, 5), (2, 9, 2, 5), (4, 5, 1, 5)],
)
def test_accumulation_is_the_smallest_that_fits_and_divides_every_stream(
    toy_tree, ranks, limit, accumulation, micro_batch
):
    rank_batch = toy_rank_batch(toy_tree, *([f"train.micro_batch={limit}"] if limit else []), ranks=ranks)
    assert (rank_batch.accumulation, rank_batch.micro_batch) == (accumulation, micro_batch)


def test_micro_batch_that_is_too_small_names_the_smallest(toy_tree):
    with pytest.raises(UmlError, match=r"train\.micro_batch = 4 is too small: 20 samples .* no fewer than 5 at once$"):
        toy_rank_batch(toy_tree, "train.micro_batch=4")


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("limit", [20, 5])
def test_ranks_and_micro_batches_read_each_position_of_a_step_once(toy_tree, ranks, limit):
    first = {"labelled": 100, "unlabelled": 1000}
    for step in (0, 3):
        read = {"labelled": [], "unlabelled": []}
        for rank in range(ranks):
            rank_batch = toy_rank_batch(toy_tree, f"train.micro_batch={limit}", rank=rank, ranks=ranks)
            requests = list(rank_batch.micro_batches(step, first))
            assert len(requests) == rank_batch.accumulation
            assert {sum(map(len, request.values())) for request in requests} == {rank_batch.micro_batch}
            for request in requests:
                for name, positions in request.items():
                    read[name] += positions
        assert read["labelled"] == list(range(100 + 8 * step, 108 + 8 * step))
        assert read["unlabelled"] == list(range(1000 + 12 * step, 1012 + 12 * step))


@pytest.mark.parametrize(
    ("words", "on_gpu", "local_ranks", "workers"),
    [((), False, 1, 0), ((), True, 1, 4), ((), True, 4, 3), ((), True, 8, 1), (("data.workers=2",), False, 8, 2)],
)
def test_workers_load_ahead_for_a_gpu_only_by_default(partly_known, monkeypatch, words, on_gpu, local_ranks, workers):
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    tree = uml_tree(partly_known)
    del tree["data"]["workers"]
    config = validate(apply_overrides(tree, words), "run.toml")
    assert loader_workers(config, on_gpu, local_ranks) == (workers, None)


@pytest.mark.parametrize(
    ("word", "hint"), [("networks.umm.optimizer.lr=0.1", "did you mean uml?"), ("networks.zz={}", "it has uml")]
)
def test_settings_of_a_network_that_is_not_trained_are_refused(partly_known, word, hint):
    name = word.split(".")[1].split("=")[0]
    assert refused(uml_tree(partly_known), word) == f"networks.{name}: recipe uml trains no network {name!r}: {hint}"


def test_every_augmentation_can_be_configured():
    assert set(get_args(DataConfig.model_fields["augment"].annotation)) == {*AUGMENTATIONS, *VOLUME_AUGMENTATIONS}


@pytest.mark.parametrize(("word", "key"), [("data", "data"), ("streams.train", "streams.train")])
def test_augmentation_of_volumes_is_refused_for_images(partly_known, word, key):
    assert refused(uml_tree(partly_known), f"{word}.augment=axial") == (
        f"{key}.augment = 'axial' is for volumes, but the shards of stream train hold images: use 'light'"
    )


def started(setup, run, **changes):
    """Save a checkpoint of a setup, with some changes, in a run folder."""
    config = setup.config.model_dump(mode="json", exclude_none=True)
    state = RunState(**{"recipe": setup.config.recipe, "step": 3, "config": config, **changes})
    return save_checkpoint(run / "checkpoints", {}, state)


def test_initial_weights_of_another_recipe_are_refused(partly_known, tmp_path):
    tree = uml_tree(partly_known)
    started(setup_of(tree), tmp_path, recipe="toy")
    line = refused(tree, f"model.init={tmp_path}")
    assert line.endswith("has recipe toy, but the configuration has recipe uml")


def test_weights_that_model_init_replaces_need_not_exist(toy_tree, tmp_path):
    started(setup_of(toy_tree), tmp_path)
    assert refused(toy_tree, "model.weights=absent").startswith("weights absent: ")
    check_start(setup_of(toy_tree, "model.weights=absent", f"model.init={tmp_path}"))


def cannot_resume(setup, run, resume="auto") -> str:
    with pytest.raises(UmlError) as raised:
        find_resume(setup, run, resume)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_folder_without_a_run_starts_at_the_beginning(partly_known, tmp_path):
    setup = setup_of(uml_tree(partly_known))
    for resume in ("auto", "never"):
        assert find_resume(setup, tmp_path / "absent", resume) is None


def test_run_resumes_from_its_checkpoint_unless_resume_is_never(partly_known, tmp_path):
    setup = setup_of(uml_tree(partly_known))
    saved = started(setup, tmp_path)
    found = find_resume(setup, tmp_path, "auto")
    assert found is not None
    assert (found[0], found[1].step) == (saved, 3)
    assert "already contains a run: resume it with --resume auto" in cannot_resume(setup, tmp_path, "never")


def test_a_checkpoint_of_another_recipe_is_refused(partly_known, tmp_path):
    setup = setup_of(uml_tree(partly_known))
    started(setup, tmp_path, recipe="toy")
    line = cannot_resume(setup, tmp_path)
    assert "has recipe toy, but the configuration has recipe uml: choose another --run" in line


def test_a_damaged_checkpoint_is_refused(partly_known, tmp_path):
    setup = setup_of(uml_tree(partly_known))
    path = started(setup, tmp_path) / "state.json"
    path.write_text(path.read_text().replace('"step": 3', '"step": 4'))
    assert "state.json is missing or damaged: no checkpoint is valid: copy one" in cannot_resume(setup, tmp_path)
    (tmp_path / "checkpoints" / "latest").write_text("step-000009\n")
    assert "latest names step-000009, which does not exist" in cannot_resume(setup, tmp_path)


def test_older_checkpoint_replaces_a_damaged_one_and_the_user_is_told(partly_known, tmp_path):
    setup = setup_of(uml_tree(partly_known))
    older, latest = started(setup, tmp_path, step=2), started(setup, tmp_path)
    (latest / "state.json").unlink()
    told: list[str] = []
    found = find_resume(setup, tmp_path, "auto", told.append)
    assert found is not None
    assert (found[0], found[1].step) == (older, 2)
    assert told == [f"checkpoint {latest}: state.json is missing or damaged: resuming from step-000002, which is valid"]
    assert "already contains a run" in cannot_resume(setup, tmp_path, "never")


def test_run_without_a_pointer_to_its_latest_checkpoint_can_be_resumed(partly_known, tmp_path):
    setup = setup_of(uml_tree(partly_known))
    saved = started(setup, tmp_path)
    (tmp_path / "checkpoints" / "latest").unlink()
    assert "already contains a run" in cannot_resume(setup, tmp_path, "never")
    found = find_resume(setup, tmp_path, "auto")
    assert found is not None
    assert found[0] == saved


@pytest.mark.parametrize(
    ("word", "difference"),
    [
        ("train.seed=1", "train.seed: 0 -> 1"),
        ("train.steps=6", "train.steps: 5 -> 6"),
        ("streams.train.count=16", "streams.train.count: 8 -> 16"),
        ("optimizer.lr=0.5", "optimizer.lr: 0.001 -> 0.5"),
        ("model.dropout=0.0", "model.dropout: 0.2 -> 0.0"),
        ("data.augment=none", "data.augment: light -> none"),
        ("train.ema=0.999", "train.ema: None -> 0.999"),
        ("objective.dice_scope=sample", "objective.dice_scope: global -> sample"),
        ("networks.uml.optimizer.lr=0.5", "networks.uml: None -> {"),
    ],
)
def test_resumed_run_may_not_change_what_it_computes(partly_known, tmp_path, word, difference):
    tree = uml_tree(partly_known)
    started(setup_of(tree), tmp_path)
    line = cannot_resume(setup_of(tree, word), tmp_path)
    assert f"was started with another configuration ({difference}" in line


@pytest.mark.parametrize(
    "word",
    [
        "zero.stage=3",
        "checkpoint.every=7",
        "data.workers=2",
        "metrics.enabled=true",
        "model.checkpointing=true",
        "train.log_every=3",
        "train.validate_every=9",
        "train.micro_batch=100",
        "train.best=accuracy",
        "train.best=mean(accuracy, dice)",
        "train.empty_masks=leave-out",
        "train.evaluate_with=trained",
        "deepspeed.wall_clock_breakdown=true",
    ],
)
def test_a_resumed_run_may_change_how_it_computes(partly_known, tmp_path, word):
    tree = uml_tree(partly_known)
    started(setup_of(tree), tmp_path)
    assert find_resume(setup_of(tree, word), tmp_path, "auto") is not None


@pytest.mark.parametrize(
    ("before", "now", "difference"),
    [
        (VGG_WEIGHTS[:-1], VGG_WEIGHTS, "model.encoder.segmentation_weights: None -> absent.pth"),
        (VGG_WEIGHTS, VGG_WEIGHTS[:-1], "model.encoder.segmentation_weights: absent.pth -> None"),
    ],
    ids=["given", "removed"],
)
def test_a_resumed_run_keeps_the_architecture_that_goes_with_weights(partly_known, tmp_path, before, now, difference):
    tree = uml_tree(partly_known)
    started(setup_of(tree, *before), tmp_path)
    assert f"was started with another configuration ({difference})" in cannot_resume(setup_of(tree, *now), tmp_path)


def test_resumed_run_needs_no_initial_weights_and_they_may_have_moved(partly_known, tmp_path):
    tree = uml_tree(partly_known)
    started(setup_of(tree, *VGG_WEIGHTS, "model.init=absent"), tmp_path)
    moved = setup_of(tree, *VGG_WEIGHTS[:-1], "model.encoder.segmentation_weights=moved.pth")
    assert find_resume(moved, tmp_path, "auto") is not None


def test_run_resumes_only_with_the_shards_it_was_started_with(partly_known, tmp_path):
    setup = setup_of(uml_tree(partly_known))
    config = setup.config.model_dump(mode="json", exclude_none=True)
    state = RunState("uml", step=1, data=setup.digests, config=config)
    save_checkpoint(tmp_path / "run" / "checkpoints", {}, state)
    moved = shutil.copytree(partly_known, tmp_path / "elsewhere")
    found = find_resume(setup_of(uml_tree(moved)), tmp_path / "run", "auto")
    assert found is not None
    assert found[1].step == 1
    others = make_partly_known(tmp_path / "others", samples=16)
    with pytest.raises(UmlError, match=r"was started with other shards than those in .*others: choose another --run$"):
        find_resume(setup_of(uml_tree(others)), tmp_path / "run", "auto")


def test_run_resumes_only_with_the_list_it_was_started_with(partly_known, tmp_path):
    keys = setup_of(uml_tree(partly_known, streams__train__part="labelled")).splits["train"].keys()

    def setup_with(name, chosen):
        (tmp_path / name).write_text("\n".join(chosen))
        return setup_of(
            uml_tree(partly_known, streams__train__part="labelled", streams__train__labelled_ids=str(tmp_path / name))
        )

    setup = setup_with("ids.txt", keys[1:9])
    started(setup, tmp_path / "run", data=setup.digests)
    assert find_resume(setup_with("moved.txt", ["# the same", *reversed(keys[1:9])]), tmp_path / "run", "auto")
    line = cannot_resume(setup_with("ids.txt", keys[1:10]), tmp_path / "run")
    assert re.search(r"with other shards than those in .*, or another list than .*ids\.txt: choose another", line)
    assert "was started with other shards" in cannot_resume(setup_of(uml_tree(partly_known)), tmp_path / "run")


def test_a_run_folder_that_is_a_file_is_refused(partly_known, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UmlError, match="is a file: choose another --run"):
        find_resume(setup_of(uml_tree(partly_known)), tmp_path / "run", "auto")
