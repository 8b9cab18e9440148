"""What is read of an engine on two ranks."""

import pytest

from hooked import Moments, train_with
from runs import uml_tree
from worlds import run_world

pytestmark = pytest.mark.distributed


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("elements", [1, 1000, 1 << 22], ids=["one by one", "some", "all"])
def test_moments_are_those_that_deepspeed_returns_one_by_one(stage, elements, partly_known):
    tree = uml_tree(partly_known, train__steps=2, zero__stage=stage)
    for _, (moments,) in run_world(2, train_with, tree, [Moments(elements)]):
        assert len(moments.equal) > 100
        assert all(moments.equal)
