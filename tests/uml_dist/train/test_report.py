"""What the reporter counts besides steps."""

import pytest

from uml_dist.errors import UmlError
from uml_dist.run.folder import RunFolder
from uml_dist.telemetry import Metrics
from uml_dist.train.report import Reporter


def test_failed_saves_are_counted_and_are_no_success(tmp_path):
    metrics = Metrics(run="r", recipe="uml", stage=0, world_size=1, rank=0, device="cpu")
    reporter = Reporter(RunFolder(tmp_path, writes=True), metrics, None)
    with pytest.raises(UmlError), reporter.saving(3):
        raise UmlError("the disk is full")
    get = metrics.registry.get_sample_value
    assert get("uml_checkpoint_failures_total") == 1
    assert get("uml_checkpoint_seconds_count", {"kind": "save"}) is None
    assert get("uml_checkpoint_last_success_timestamp_seconds") is None
    with reporter.saving(3):
        pass  # nothing was written: its size is unknown, which ends no training
    assert get("uml_checkpoint_seconds_count", {"kind": "save"}) == 1
    assert get("uml_checkpoint_bytes") is None
