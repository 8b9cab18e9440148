"""The evaluation of a large split fits in memory, as it keeps numbers only of each case."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import synthetic_split

CASES = 100_000


@pytest.mark.distributed
def test_a_hundred_thousand_cases_with_intervals_take_less_than_a_gigabyte():
    script = Path(synthetic_split.__file__)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, str(script), str(CASES)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["cases"] == CASES
    assert record["megabytes"] < 1000
    assert record["interval"]["draws"] == 1000
    assert {"auroc", "dice_lesion", "pixel_ece", "pixel_error_auroc_vacuity"} <= record["intervals"].keys()
