"""The evaluation of a large split fits in memory, as it keeps numbers only of each case."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import synthetic_split

CASES = (5_000, 20_000)


@pytest.mark.distributed
def test_memory_grows_so_slowly_that_a_hundred_thousand_cases_take_less_than_a_gigabyte():
    few, many = (evaluated(cases) for cases in CASES)
    growth = (many["megabytes"] - few["megabytes"]) / (CASES[1] - CASES[0])
    assert many["megabytes"] + growth * (100_000 - CASES[1]) < 1000
    assert many["interval"]["draws"] == 1000
    assert {"auroc", "dice_lesion", "pixel_ece", "pixel_error_auroc_vacuity"} <= many["intervals"].keys()


def evaluated(cases: int) -> dict[str, Any]:
    """The record of an evaluation in a process of its own, and the largest memory of that."""
    script = Path(synthetic_split.__file__)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, str(script), str(cases)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["cases"] == cases
    return record
