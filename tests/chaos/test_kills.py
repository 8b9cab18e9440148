"""Processes are killed at random; the training that is resumed each time equals one that was left alone."""

import pytest

from chaotic import differences, keys_of, train_disturbed, train_undisturbed
from runs import uml_tree

pytestmark = [pytest.mark.launch, pytest.mark.fault]

STEPS = 24
"""One epoch."""


def test_a_training_that_is_killed_twice_equals_one_that_is_not(partly_known, tmp_path):
    words = {"train__steps": STEPS, "checkpoint__every": 3, "data__workers": 1, "streams__train__count": 4}
    tree, plain = uml_tree(partly_known, **words), tmp_path / "plain" / "run"
    train_undisturbed(tree, plain)
    chaos = train_disturbed(tree, tmp_path / "killed" / "run", kills=2, seed=1, launcher=())
    assert {kill.kind for kill in chaos.kills} == {"rank", "writer"}
    assert differences(plain, chaos, {"train": 96}) == []
    assert list(keys_of(plain.parent)) == list(range(1, STEPS + 1))
