"""What the reporter counts besides steps."""

import pytest

from uml_dist.errors import UmlError
from uml_dist.run.background import Saved
from uml_dist.run.folder import RunFolder
from uml_dist.telemetry import Metrics
from uml_dist.train.report import Reporter


def test_failed_saves_are_counted_and_are_no_success(tmp_path):
    metrics = Metrics(run="r", recipe="uml", stage=0, world_size=1, rank=0, device="cpu")
    reporter = Reporter(RunFolder(tmp_path, writes=True), metrics, None)
    reporter.saved(Saved(tmp_path / "step-000003", 2.0, "the disk is full"))
    get = metrics.registry.get_sample_value
    assert get("uml_checkpoint_failures_total") == 1
    assert get("uml_checkpoint_seconds_count", {"kind": "save"}) is None
    assert get("uml_checkpoint_last_success_timestamp_seconds") is None
    reporter.saved(Saved(tmp_path / "step-000003", 2.0))  # it is gone: its size is unknown, which ends no training
    assert get("uml_checkpoint_seconds_count", {"kind": "save"}) == 1
    assert get("uml_checkpoint_seconds_sum", {"kind": "save"}) == 2.0
    assert get("uml_checkpoint_bytes") is None
    assert get("uml_checkpoint_blocked_seconds_total") == 0  # what was done in the background


def test_training_waits_for_what_is_not_done_in_the_background(tmp_path):
    metrics = Metrics(run="r", recipe="uml", stage=0, world_size=1, rank=0, device="cpu")
    reporter = Reporter(RunFolder(tmp_path, writes=True), metrics, None)
    get = metrics.registry.get_sample_value
    with reporter.blocked():
        pass
    before = get("uml_checkpoint_blocked_seconds_total")
    assert before > 0
    with pytest.raises(UmlError), reporter.loading(tmp_path):
        raise UmlError("it is damaged")
    assert get("uml_checkpoint_blocked_seconds_total") == before
    with reporter.loading(tmp_path):
        pass
    assert get("uml_checkpoint_blocked_seconds_total") > before
    assert get("uml_checkpoint_seconds_count", {"kind": "load"}) == 1
