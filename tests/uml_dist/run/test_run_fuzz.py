"""A short run of `make fuzz` on checkpoints and configurations."""

from fuzzing import fuzz
from run_targets import run_targets

INPUTS = 60


def test_damaged_checkpoints_and_configurations_are_refused_in_one_line_or_read(tmp_path):
    for target in run_targets(tmp_path):
        outcomes = fuzz(target, seed=0, inputs=range(INPUTS))
        assert not outcomes.crashes
        assert outcomes.counts["refused"] > 0
        if target.name.endswith("verified"):
            assert not outcomes.places  # nothing with another content is accepted
