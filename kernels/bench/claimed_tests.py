"""pytest plugin that runs the tests that no other process has claimed and writes each result immediately.

kernel_tests.py loads it in several processes. Results are JSON lines in files of the folder UML_TESTS_OUT, so that a
killed run leaves the results of all earlier tests; UML_TESTS_CLAIMS is the folder of the claims.
"""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from processes import take

OUT, CLAIMS = Path(os.environ["UML_TESTS_OUT"]), Path(os.environ["UML_TESTS_CLAIMS"])
PER_FILE = int(os.environ.get("UML_TESTS_PER_FILE", "0"))
"""Number of tests to run per file; 0: all."""

NUMBERS: dict[str, int] = {}
OTHERS: set[str] = set()
"""Tests that another process has claimed."""

_session: list[pytest.Session] = []


def _write(test: str, outcome: str, seconds: float = 0.0, message: str = "") -> None:
    line = {"test": test, "outcome": outcome, "seconds": round(seconds, 3), "message": message[-4000:]}
    with (OUT / f"results-{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Store the session, to end it when the GPU is lost."""
    _session.append(session)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Number the tests and write their names."""
    if PER_FILE:
        seen: Counter[Path] = Counter()
        chosen = []
        for item in items:
            seen[item.path] += 1
            chosen += [item] if seen[item.path] <= PER_FILE else []
        items[:] = chosen
    NUMBERS.update({item.nodeid: number for number, item in enumerate(items)})
    temporary = OUT / f"collected-{os.getpid()}.json"
    temporary.write_text(json.dumps(list(NUMBERS)), encoding="utf-8")
    temporary.replace(OUT / "collected.json")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Record a file that cannot be imported as a failed test."""
    if report.failed:
        _write(report.nodeid, "failed", message=report.longreprtext)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Claim the test, or skip it before its fixtures are set up."""
    if not take(CLAIMS, NUMBERS[item.nodeid]):
        OTHERS.add(item.nodeid)
        pytest.skip("another process has claimed this test")
    _write(item.nodeid, "started")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write the result of a test that this process claimed."""
    if report.nodeid in OTHERS or (report.when != "call" and report.passed):
        return
    message = "" if report.passed else report.longreprtext
    _write(report.nodeid, report.outcome, report.duration, message)
    if report.failed and _lost():
        _session[0].shouldstop = "the GPU accepts no more work from this process"


def _lost() -> bool:
    """Return whether the GPU's context is unusable, so that all further tests of this process would fail."""
    if os.environ.get("UML_KERNELS_DEVICE", "cpu") == "cpu":
        return False
    try:
        torch.cuda.synchronize()
    except Exception as error:  # the type depends on the version of torch
        print(f"after an error: {error}")
        return True
    return False
