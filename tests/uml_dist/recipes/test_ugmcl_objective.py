"""Ramps and thresholds of UG-MCL, the methods that are its special cases, and settings that do not fit."""

from math import log

import pytest

from ugmcl_recipes import recipe_of
from uml_dist.errors import UmlError
from uml_dist.recipes import Averaged, Progress
from uml_dist.recipes.ugmcl.methods import METHODS
from uml_dist.recipes.ugmcl.objective import UgmclObjective, plan_of, ramp, rise, threshold


def at(step, steps, objective=UgmclObjective(), every=1):  # noqa: B008 - it is immutable
    return ramp(objective, every, Progress(step, steps, "train", step, steps))


def test_rise_is_that_of_mean_teachers():
    assert rise(0.0) == pytest.approx(0.006738, abs=5e-7)
    assert rise(1.0) == 1.0


@pytest.mark.parametrize(("step", "value"), [(0, 0.0067), (1500, 0.0601), (3000, 0.2865), (4500, 0.7316), (6000, 1.0)])
def test_weights_rise_over_the_6000_steps_of_the_paper(step, value):
    assert at(step, 6000) == pytest.approx(value, abs=5e-5)


@pytest.mark.parametrize(
    ("step", "value"), [(0, 0.007), (5000, 0.031), (10000, 0.106), (15000, 0.287), (20000, 0.571), (25000, 0.865)]
)
def test_weights_of_the_release_rise_every_150_steps(step, value):
    every = plan_of(UgmclObjective(), "release", own_head=False).ramp_every
    assert at(step, 30000, every=every) == pytest.approx(value, abs=5e-4)
    assert at(step + 149 - step % 150, 30000, every=every) == at(step, 30000, every=every)


@pytest.mark.parametrize(
    ("step", "share"),
    [(0, 0.7517), (5000, 0.7578), (10000, 0.7771), (15000, 0.8216), (20000, 0.8934), (25000, 0.9676), (30000, 1.0)],
)
def test_threshold_is_that_of_the_specification(step, share):
    assert threshold(UgmclObjective(), step / 30000) == pytest.approx(share, abs=5e-5)


def test_threshold_accepts_what_the_specification_accepts():
    """At the start of the run: voxels whose most probable class has more than 0.785."""
    limit = threshold(UgmclObjective(), 0.0)
    for probability, accepted in ((0.784, False), (0.786, True)):
        entropy = -sum(p * log(p) for p in (probability, 1 - probability)) / log(2)
        assert (entropy < limit) == accepted


def test_printed_ramp_lacks_the_square_and_a_constant_one_is_full():
    assert at(0, 100, UgmclObjective(ramp="printed")) == pytest.approx(0.006738, abs=5e-7)
    assert at(50, 100, UgmclObjective(ramp="printed")) == pytest.approx(0.0821, abs=5e-5)
    assert at(0, 100, UgmclObjective(ramp="constant")) == 1.0


def test_warmup_has_labelled_samples_only():
    objective = UgmclObjective(warmup=0.25, ramp="constant")
    assert [at(step, 8, objective) for step in range(4)] == [0.0, 0.0, 1.0, 1.0]


ARMS = {
    "supervised": (1, 1, 0, 0, 0),
    "supervised_distance": (1, 1, 1, 0, 0),
    "segmentation_consistency": (1, 1, 0, 0.1, 0),
    "task_consistency": (1, 1, 1, 0.1, 0),
    "dtc": (1, 1, 1, 0, 0.1),
    "ugmcl": (1, 1, 1, 0.1, 0.1),
}


@pytest.mark.parametrize("method", ARMS)
def test_methods_are_the_arms_of_the_ablation(method):
    weights = plan_of(UgmclObjective(method=method), "paper", own_head=True).weights
    assert (weights.cross_entropy, weights.dice, weights.distance, weights.intra, weights.cross) == ARMS[method]
    assert weights.distance_dice == 0


def test_relatives_differ_in_gate_rows_and_pasting():
    plans = {name: plan_of(UgmclObjective(method=name), "paper", own_head=True) for name in METHODS}
    assert (plans["mean_teacher"].gated, plans["ua_mt"].gated) == (False, True)
    assert (plans["ua_mt"].rows, plans["ugmcl"].rows) == ("unlabelled", "all")
    assert [name for name, plan in plans.items() if plan.copy_paste] == ["copy_paste"]
    assert [name for name, plan in plans.items() if not plan.needs_unlabelled] == ["supervised", "supervised_distance"]


@pytest.mark.parametrize("method", METHODS)
def test_only_methods_with_a_teacher_have_one(method):
    recipe = recipe_of(method=method)
    averaged = [name for name, role in recipe.networks.items() if isinstance(role, Averaged)]
    assert averaged == (["teacher"] if recipe.plan.needs_teacher else [])
    assert recipe.phases[0].streams == (("labelled", "unlabelled") if recipe.plan.needs_unlabelled else ("labelled",))


def test_network_has_a_head_of_distances_only_where_they_are_learnt():
    build = {method: recipe_of(method=method, model={"width": 0.25})._build() for method in ("ua_mt", "dtc")}
    assert build["ua_mt"].distance is None
    assert build["dtc"].distance.out_channels == 1


def test_defaults_are_the_paper_s():
    recipe = recipe_of()
    optimizer = recipe.config.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ("sgd", 0.01, 0.9, 1e-4)
    assert (optimizer.schedule, optimizer.step_every, optimizer.step_factor) == ("step", 2500, 0.1)
    assert (recipe.plan.balance, recipe.plan.gate_intra, recipe.plan.gate_cross) == (0.75, True, False)
    assert (recipe.objective.passes, recipe.objective.slope, recipe.objective.teacher_decay) == (8, 1500, 0.99)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": [16, 16, 24]}, "data.size = [16, 16, 24]: every side of a patch must be a multiple of 16"),
        (
            {"model": {"norm": "instance"}},
            'data.size = [16, 16, 16] leaves one voxel to normalise: enlarge it, or set model.norm = "group"',
        ),
        (
            {"copy_paste": True, "counts": (2, 3)},
            "copy-paste pairs labelled with unlabelled patches: set streams.labelled.count and "
            "streams.unlabelled.count to the same number",
        ),
    ],
)
def test_settings_that_do_not_fit_are_one_line(changes, message):
    with pytest.raises(UmlError) as refusal:
        recipe_of(**changes)
    assert str(refusal.value) == message


def test_accumulation_needs_sums_of_samples():
    assert "dice_scope" in str(recipe_of().why_no_accumulation)
    assert "batch norm" in str(recipe_of(model={"norm": "batch"}, dice_scope="sample").why_no_accumulation)
    assert recipe_of(dice_scope="sample").why_no_accumulation is None


def test_unknown_method_is_refused():
    with pytest.raises(UmlError, match=r"objective\.method"):
        recipe_of(method="magic")


def test_checkpointing_does_not_count_batches_twice():
    with pytest.raises(UmlError, match="batch norm would count every batch twice"):
        recipe_of(model={"norm": "batch", "checkpointing": True})


@pytest.mark.parametrize(
    ("method", "setting", "key"),
    [
        ("supervised", {"weights": {"distance": 0.3}}, "weights.distance"),
        ("ua_mt", {"balance": 0.5}, "balance"),
        ("dtc", {"gate_intra": True}, "gate_intra"),
        ("mean_teacher", {"gate_cross": True}, "gate_cross"),
        ("copy_paste", {"rows": "all"}, "rows"),
    ],
)
def test_settings_of_terms_that_a_method_lacks_are_refused(method, setting, key):
    with pytest.raises(UmlError, match=f"{key} does nothing with method = {method}"):
        recipe_of(method=method, **setting)
