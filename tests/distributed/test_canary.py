"""A flipped bit in the weights of one rank is found, and its rank is named."""

import numpy as np
import pytest

from runs import train, uml_tree
from worldly import flip_a_bit
from worlds import run_world

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("stage", [0, 2])
def test_the_rank_with_other_weights_is_named(stage, partly_known):
    tree = uml_tree(partly_known, train__steps=4, streams__train__count=6, zero__stage=stage)
    lines = run_world(3, flip_a_bit, tree, 1)
    assert len(set(lines)) == 1
    assert lines[0].startswith("the weights of uml on rank 1 differ from those of the others before step 3: ")


def test_comparing_changes_nothing(partly_known):
    tree = uml_tree(partly_known, train__steps=3)
    plain, compared = (run_world(2, function, tree)[0] for function in (train, flip_a_bit))
    assert compared.losses == plain.losses
    assert np.array_equal(compared.weights["uml"], plain.weights["uml"])
