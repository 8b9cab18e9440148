"""Who hangs, by the reports of the ranks that are late."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from uml_dist.config.faults import FaultsConfig
from uml_dist.telemetry.health import Health
from uml_dist.train import watchdog
from uml_dist.train.watchdog import Place, Report, Watchdog, verdict, waits_for_others

ELSEWHERE = Place("node7", 1)


def report(waits: bool = True, section: str = "step", span: str = "backward") -> Report:
    return Report(section, 6, 62.3, span, waits)


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"], stdout=-1)
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()


def test_a_rank_that_does_not_wait_hangs():
    found = verdict({0: report(), 1: report(waits=False), 2: report()}, [ELSEWHERE] * 3)
    assert found == "rank 1 (process 1 on node7) hangs in step 7, backward, for 62 s"


def test_a_validation_that_hangs_is_named():
    found = verdict({0: report(waits=False, section="validation", span="validation")}, [ELSEWHERE])
    assert found == "rank 0 (process 1 on node7) hangs in validation for 62 s"


def test_a_rank_without_a_report_is_to_blame_before_all_others():
    reports = {0: report(), 2: report(waits=False)}
    assert verdict(reports, [ELSEWHERE] * 3) == "rank 1 (process 1 on node7) does not answer"


def test_a_stopped_and_a_dead_rank_are_told_apart(sleeper):
    here = Place(Place.here().host, sleeper.pid)
    sleeper.send_signal(signal.SIGSTOP)
    while not here.is_stopped:
        time.sleep(0.01)
    assert verdict({0: report()}, [ELSEWHERE, here]) == f"rank 1 ({here}) was stopped (SIGSTOP)"
    sleeper.kill()
    sleeper.wait()
    assert verdict({0: report()}, [ELSEWHERE, here]) == f"rank 1 ({here}) has died"


def test_ranks_that_wait_for_each_other_are_all_named():
    found = verdict({0: report(), 1: report()}, [ELSEWHERE] * 2)
    assert found == "all ranks wait for each other, rank 0 in step 7, backward, for 62 s"


def test_a_main_thread_outside_a_collective_does_not_wait():
    assert not waits_for_others()


PROGRAM = """
import sys, time
from pathlib import Path
from uml_dist.config.faults import FaultsConfig
from uml_dist.telemetry.health import Health
from uml_dist.train import watchdog
from uml_dist.train.watchdog import Place, Watchdog
watchdog.LOOK_SECONDS = watchdog.REPORT_SECONDS = 0.1
health, settings = Health(), FaultsConfig(step_seconds=float(sys.argv[3]))
places = [Place.here(), Place(Place.here().host, int(sys.argv[2]))]
told = lambda line: print(line, flush=True)
Watchdog(settings, health, lambda: ("forward",), 0, places, Path(sys.argv[1]), told).begin()
for step in range(3):
    health.step(step + 1)
time.sleep(float(sys.argv[4]))
"""


def run(folder, other: int, limit: float, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a rank whose fourth step takes some seconds, under a limit."""
    command = [sys.executable, "-c", PROGRAM, str(folder), str(other), str(limit), str(seconds)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_a_rank_that_hangs_ends_with_its_stacks_and_a_slow_one_goes_on(tmp_path, sleeper):
    assert run(tmp_path, sleeper.pid, 600.0, 1.0).returncode == 0
    assert list(tmp_path.iterdir()) == []
    done = run(tmp_path, sleeper.pid, 1.0, 600.0)
    place = Place(Place.here().host, sleeper.pid)
    assert done.returncode == 1
    assert done.stdout == f"rank 1 ({place}) does not answer; stacks in {tmp_path}\n"
    record = json.loads((tmp_path / "rank-0.json").read_text())
    assert (record["section"], record["step"], record["span"], record["waits"]) == ("step", 3, "forward", False)
    assert "in <module>" in (tmp_path / "rank-0.stacks.txt").read_text()


def test_a_rank_that_was_stopped_is_continued_so_that_it_can_end(tmp_path, sleeper, monkeypatch):
    monkeypatch.setattr(watchdog, "REPORT_SECONDS", 0.1)
    here = Place(Place.here().host, sleeper.pid)
    sleeper.send_signal(signal.SIGSTOP)
    while not here.is_stopped:
        time.sleep(0.01)
    reasons = []
    watching = Watchdog(FaultsConfig(), Health(), tuple, 0, [Place.here(), here], tmp_path, reasons.append)
    watching._report(report(), 0.1)
    assert reasons == [f"rank 1 ({here}) was stopped (SIGSTOP); stacks in {tmp_path}"]
    while here.is_stopped:
        time.sleep(0.01)


def test_no_watchdog_watches_nothing(tmp_path):
    before = threading.active_count()
    settings = FaultsConfig(watchdog=False)
    Watchdog(settings, Health(), tuple, 0, [Place.here()], tmp_path, pytest.fail).begin()
    assert threading.active_count() == before


def test_the_damaged_report_of_another_rank_counts_as_none(tmp_path, monkeypatch):
    monkeypatch.setattr(watchdog, "REPORT_SECONDS", 0.1)
    (tmp_path / "rank-1.json").write_text("{")
    reasons = []
    watching = Watchdog(FaultsConfig(), Health(), tuple, 0, [Place.here(), ELSEWHERE], tmp_path, reasons.append)
    watching._report(report(), 0.1)
    assert reasons == [f"rank 1 (process 1 on node7) does not answer; stacks in {tmp_path}"]
    assert os.getpid() == Place.here().process
