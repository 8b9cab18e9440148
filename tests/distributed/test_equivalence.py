"""Training is the same on any number of ranks, at any ZeRO stage, with any accumulation, and in plain torch.

Uses 96 phantom images, float32 and 5 steps, with dropout, augmentation and weight decay, and some labels and masks
missing.
"""

import numpy as np
import pytest

from plain import train_plainly
from runs import Trace, train, uml_tree
from worldly import train_each, train_with_torch_dropout, train_without_global_dice, train_without_zero_terms
from worlds import run_world

pytestmark = pytest.mark.distributed

LOSS = 1e-6
GRADIENT = 1e-5

CAREFUL = {"optimizer__name": "sgd", "optimizer__lr": 1e-5}
"""Steps so small that the weights hardly change. The last bit of the weights decides the side of an activation at the
kink of its ReLU, and Adam moves some activations there: a single one changes the gradient of the compact profile by
7e-5, and that of the paper's profile by 4e-3 (measured).
"""


def loss_error(one: Trace, other: Trace) -> float:
    return max(abs(a - b) for a, b in zip(one.losses, other.losses, strict=True))


def gradient_error(one: Trace, other: Trace) -> float:
    """Return the error of the last step's gradient, relative to its norm."""
    a, b = one.gradient["uml"], other.gradient["uml"]
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def assert_same_training(one: Trace, other: Trace) -> None:
    assert len(one.losses) == 5
    assert loss_error(one, other) <= LOSS
    assert gradient_error(one, other) <= GRADIENT


@pytest.fixture(scope="module")
def plain(partly_known) -> Trace:
    return run_world(1, train_plainly, uml_tree(partly_known))[0]


@pytest.fixture(scope="module")
def two_ranks(partly_known) -> list[Trace]:
    """Traces of ZeRO stages 0 to 3 on 2 ranks, from rank 0."""
    return run_world(2, train_each, [uml_tree(partly_known, zero__stage=stage) for stage in range(4)])[0]


def assert_bitwise_equal(first: Trace, *others: Trace) -> None:
    for other in others:
        assert other.losses == first.losses
        assert np.array_equal(other.gradient["uml"], first.gradient["uml"])
        assert np.array_equal(other.weights["uml"], first.weights["uml"])


def test_zero_stages_are_bitwise_equal(two_ranks):
    assert_bitwise_equal(*two_ranks)


def test_two_ranks_train_like_plain_torch(two_ranks, plain):
    assert_same_training(two_ranks[0], plain)


@pytest.mark.parametrize(("ranks", "stage"), [(1, 2), (4, 1)])
def test_one_and_four_ranks_train_like_plain_torch(ranks, stage, partly_known, plain):
    assert_same_training(run_world(ranks, train, uml_tree(partly_known, zero__stage=stage))[0], plain)


def paper_tree(shards, **words):
    return uml_tree(shards, model__profile="paper", **words)


def test_paper_s_profile_is_bitwise_equal_at_every_stage(partly_known):
    trees = [paper_tree(partly_known, zero__stage=stage, train__steps=2) for stage in range(4)]
    traces = run_world(2, train_each, trees)[0]
    assert_bitwise_equal(*traces)
    assert loss_error(traces[0], run_world(1, train_plainly, trees[0])[0]) <= LOSS


@pytest.fixture(scope="module")
def careful_paper(partly_known) -> tuple[dict, Trace]:
    """The paper's profile with small steps, and its training in plain torch."""
    tree = paper_tree(partly_known, **CAREFUL)
    return tree, run_world(1, train_plainly, tree)[0]


@pytest.mark.parametrize(("ranks", "stage"), [(1, 2), (2, 1), (4, 2)])
def test_paper_s_profile_has_the_gradients_of_plain_torch(ranks, stage, careful_paper):
    tree, plain = careful_paper
    assert_same_training(run_world(ranks, train, {**tree, "zero": {"stage": stage}})[0], plain)


def test_accumulation_and_weights_of_classes_change_nothing_if_dice_is_per_sample(partly_known):
    words = {"objective__dice_scope": "sample", "objective__class_weights": [1, 3], **CAREFUL}
    plain = run_world(1, train_plainly, uml_tree(partly_known, **words))[0]
    trees = [
        uml_tree(partly_known, train__micro_batch=size, zero__stage=stage, **words)
        for size, stage in ((4, 0), (2, 2), (1, 3))
    ]
    for trace in run_world(2, train_each, trees)[0]:
        assert_same_training(trace, plain)


def test_ranks_receive_their_own_slots(partly_known):
    one = run_world(1, train, uml_tree(partly_known, train__steps=2))[0]
    two = run_world(2, train, uml_tree(partly_known, train__steps=2))
    assert [first + second for first, second in zip(two[0].keys, two[1].keys, strict=True)] == one.keys


@pytest.mark.parametrize("mutation", [train_without_global_dice, train_with_torch_dropout])
def test_without_global_sums_or_keyed_dropout_ranks_would_differ(mutation, partly_known, plain):
    broken = run_world(2, mutation, uml_tree(partly_known))[0]
    assert max(loss_error(broken, plain) / LOSS, gradient_error(broken, plain) / GRADIENT) > 100


def test_without_zero_terms_a_rank_without_labels_would_break_training(partly_known):
    """With 1 sample per rank, in some step only one of the two ranks has a label."""
    tree = uml_tree(partly_known, streams__train__count=2, zero__stage=2, train__steps=4, **CAREFUL)
    plain = run_world(1, train_plainly, tree)[0]
    correct = run_world(2, train, tree)[0]
    assert loss_error(correct, plain) <= LOSS
    try:
        broken = run_world(2, train_without_zero_terms, tree)[0]
    except AssertionError:
        return  # the ranks' collectives no longer match
    assert max(loss_error(broken, plain) / LOSS, gradient_error(broken, plain) / GRADIENT) > 100


def test_weighted_sampling_draws_the_same_global_batches_on_any_number_of_ranks(partly_known):
    tree = uml_tree(partly_known, streams__train__sampling="balanced", train__steps=4)
    one, two, four = (run_world(ranks, train_each, [tree])[0][0] for ranks in (1, 2, 4))
    for other in (two, four):
        assert max(abs(x - y) for x, y in zip(other.losses, one.losses, strict=True)) <= 1e-6


def test_network_wide_enough_for_convolutions_at_half_size_is_bitwise_equal_at_every_stage(partly_known):
    words = {"model__width": 0.5, "train__steps": 2, **CAREFUL}
    trees = [uml_tree(partly_known, zero__stage=stage, **words) for stage in range(4)]
    traces = run_world(2, train_each, trees)[0]
    assert_bitwise_equal(*traces)
    assert loss_error(traces[0], run_world(1, train_plainly, trees[0])[0]) <= LOSS
