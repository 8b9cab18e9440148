"""A gradient that is not finite on one rank: all ranks skip the step alike, and a resume does not show."""

import json
import re

import numpy as np
import pytest

from runs import uml_tree
from worldly import poisoned, replayed
from worlds import run_world

pytestmark = [pytest.mark.distributed, pytest.mark.fault]


def test_all_ranks_skip_the_step_at_every_stage_and_resume_bit_for_bit(partly_known, tmp_path):
    trees = [uml_tree(partly_known, train__steps=6, zero__stage=stage, checkpoint__every=4) for stage in range(4)]
    runs = [str(tmp_path / f"stage-{stage}") for stage in range(4)]
    straight, other = run_world(2, poisoned, trees, [None] * 4, None)
    for one, same in zip(straight, other, strict=True):
        assert np.isfinite(one.losses).tolist() == [True, True, False, True, True, True]
        assert one.losses[3:] == straight[0].losses[3:]
        assert np.array_equal(one.weights["uml"], same.weights["uml"])
        assert np.isfinite(one.weights["uml"]).all()
        assert re.search(r'^uml_optimizer_steps_skipped_total\{.*network="uml".*\} 1.0$', one.exported, re.MULTILINE)
    run_world(2, poisoned, trees, runs, 5)
    resumed, _ = run_world(2, poisoned, trees, runs, None)
    for before, after in zip(straight, resumed, strict=True):
        assert after.losses == before.losses[4:]
        assert np.array_equal(after.weights["uml"], before.weights["uml"])


def test_too_many_in_a_row_end_the_training_and_are_repeated(partly_known, tmp_path):
    words = {"train__steps": 9, "faults__skipped_steps": 2}
    tree, run = uml_tree(partly_known, **words), tmp_path / "run"
    lines = run_world(2, poisoned, [tree], [str(run)], None, (3, 4))
    left = run / "faults" / "not-finite" / "step-000003"
    expected = "2 steps in a row had a gradient that is not finite, the last of uml in step 4: repeat it with "
    assert lines == [[f"{expected}train.py --replay {left}"]] * 2
    first, second = json.loads((left.parent / "step-000003.keys.json").read_text())
    assert len(first) == len(second) == 1
    assert len({*first[0]["train"], *second[0]["train"]}) == 8
    for ranks in (1, 2):
        (told, finite), *_ = run_world(ranks, replayed, tree, str(left), second[0]["train"])
        assert not finite
        assert told[0] == f"step 4 of uml, repeated on {ranks} ranks:"
        assert told[1] == f"images that are not finite: {', '.join(second[0]['train'])}"
        assert told[3].startswith("gradient of uml: ")
        (told, finite), *_ = run_world(ranks, replayed, tree, str(left), [])
        assert finite
        assert told[1:3] == ["images that are not finite: none", "losses and terms that are not finite: none"]
