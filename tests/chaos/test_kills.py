"""A process is killed at random; the training that is resumed equals one that was left alone."""

import pytest

from chaotic import differences, keys_of, train_disturbed, train_undisturbed
from runs import uml_tree

pytestmark = [pytest.mark.launch, pytest.mark.fault]

STEPS = 24
"""One epoch."""


@pytest.mark.parametrize(
    ("kills", "kinds"), [(1, {"writer"}), pytest.param(2, {"rank", "writer"}, marks=pytest.mark.chaos)]
)
def test_a_training_that_is_killed_equals_one_that_is_not(kills, kinds, partly_known, tmp_path):
    words = {"train__steps": STEPS, "checkpoint__every": 3, "data__workers": 1, "streams__train__count": 4}
    tree, plain = uml_tree(partly_known, **words), tmp_path / "plain" / "run"
    train_undisturbed(tree, plain)
    chaos = train_disturbed(tree, tmp_path / "killed" / "run", kills, seed=0, launcher=())
    assert {kill.kind for kill in chaos.kills} == kinds
    assert differences(plain, chaos, {"train": 96}) == []
    assert list(keys_of(plain.parent)) == list(range(1, STEPS + 1))
