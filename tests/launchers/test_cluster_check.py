"""The cluster check: which results count as equal, and how differences are reported."""

import csv
import importlib.util
import json
import math
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from uml_dist.cluster.all_reduce import Collectives, Reduced
from uml_dist.cluster.compare import Check, compare_losses
from uml_dist.cluster.plan import judge, plan
from uml_dist.cluster.process import run_process
from uml_dist.cluster.training import Outcome, rewind
from uml_dist.errors import UmlError

SCRIPT = Path(__file__).parents[2] / "launchers" / "cluster_check.py"
LOSSES = {step: 1 / step for step in range(1, 9)}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def launcher(monkeypatch):
    """The program with faked measurements: `outcomes` by name of the training run, all equal unless changed."""
    spec = importlib.util.spec_from_file_location("cluster_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.outcomes, module.trained = {}, []

    def train(training, work):
        module.trained.append(training.name)
        losses = {step: loss for step, loss in LOSSES.items() if not training.resumes or step > work.half}
        complete = Outcome(losses, dict.fromkeys(losses, 10.0 * training.ranks), dict.fromkeys(losses, 0.0))
        return module.outcomes.get(training.name, complete)

    found = Collectives("a device", "gloo", [Reduced(2**20, 1e-3, 4, True)])
    module.collectives = (found, [Check("all-reduce over 4 ranks", True, "1 size", "right")])
    monkeypatch.setattr(module, "all_reduce", lambda ranks, work: module.collectives)
    monkeypatch.setattr(module, "make_shards", lambda script, work: None)
    monkeypatch.setattr(module, "train", train)
    return module


def run(launcher, monkeypatch, out: Path, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--cpu", "--ranks", "4", "--out", str(out), *words])
    return launcher.main()


def test_equal_losses_pass_and_identical_bits_are_reported():
    check = compare_losses("a check", LOSSES, dict(LOSSES), 0)
    assert (check.passed, check.result) == (True, "equal")
    assert "8 losses, identical bits" in check.detail


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({5: 0.2 + 2e-6}, "from step 5 on"),
        ({5: math.nan}, "no finite loss at step 5"),
        ({9: 0.1}, "step 9 is not expected"),
    ],
)
def test_different_losses_fail_and_the_step_is_reported(change, word):
    check = compare_losses("a check", LOSSES, LOSSES | change, 1e-6)
    assert (check.passed, check.result) == (False, "DIFFERENT")
    assert word in check.detail


def test_missing_losses_fail():
    assert not compare_losses("a check", LOSSES, {1: 1.0}, 1e-6).passed
    assert not compare_losses("a check", {}, {}, 1e-6).passed


def test_difference_of_one_bit_fails_at_tolerance_0():
    other = LOSSES | {3: math.nextafter(LOSSES[3], 1)}
    assert not compare_losses("a check", LOSSES, other, 0).passed
    assert compare_losses("a check", LOSSES, other, 1e-6).passed


@pytest.mark.parametrize(("ranks", "counts"), [(2, [1]), (4, [2, 1]), (8, [4, 2, 1]), (6, [3, 2, 1]), (3, [1])])
def test_plan_has_all_stages_a_resume_on_half_the_ranks_and_all_divisors(ranks, counts):
    trainings = plan(ranks)
    assert sorted(one.stage for one in trainings if one.ranks == ranks) == [0, 1, 2, 3]
    assert [one.ranks for one in trainings if one.ranks != ranks] == counts
    assert [one.ranks for one in trainings if one.resumes] == counts[:1]


def test_passed_check_exits_with_0_and_writes_tables_and_plot(launcher, monkeypatch, tmp_path, capsys):
    assert run(launcher, monkeypatch, tmp_path / "out") == 0
    assert "all 6 checks passed" in capsys.readouterr().out
    assert [row["result"] for row in rows(tmp_path / "out" / "checks.csv")] == ["right", *["equal"] * 5]
    speeds = [(row["ranks"], float(row["images_per_second"])) for row in rows(tmp_path / "out" / "speed.csv")]
    assert speeds == [("1", 10), ("2", 20), ("4", 40)]
    assert (tmp_path / "out" / "speed.png").stat().st_size > 1000
    assert run(launcher, monkeypatch, tmp_path / "out") == 0  # overwrites the same folder


def test_speed_without_loading_excludes_the_time_spent_waiting_for_data(launcher, monkeypatch, tmp_path, capsys):
    speeds, waits = dict.fromkeys(LOSSES, 30.0), {step: 0.9 if step < 3 else 0.25 for step in LOSSES}
    launcher.outcomes["stage-1"] = Outcome(LOSSES, speeds, waits)
    assert run(launcher, monkeypatch, tmp_path / "out") == 0
    found = [float(row["images_per_second_without_loading"]) for row in rows(tmp_path / "out" / "speed.csv")]
    assert found == [10, 20, 40]
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("    4  "))
    assert line.split() == ["4", "30.0", "3.00x", "75", "%", "25.0", "%", "40.0"]


def test_different_result_exits_with_1_and_is_shown(launcher, monkeypatch, tmp_path, capsys):
    launcher.outcomes["stage-3"] = Outcome(LOSSES | {5: 0.201})
    assert run(launcher, monkeypatch, tmp_path / "out") == 1
    shown = capsys.readouterr().out
    assert "ZeRO 3 as ZeRO 1, 4 ranks         DIFFERENT  from step 5 on: 0.2 and 0.201" in shown
    assert "1 of 6 checks FAILED" in shown


def test_only_runs_with_identical_bits_are_compared_beyond_five_steps():
    trainings = plan(2)
    apart = LOSSES | {8: 0.126}
    outcomes = {training.name: Outcome(LOSSES) for training in trainings}
    outcomes |= {"stage-3": Outcome(apart), "resumed-1": Outcome({step: apart[step] for step in range(5, 9)})}
    assert [check.passed for check in judge(trainings, outcomes, "cpu", half=4)] == [True, True, False, False]
    assert [check.passed for check in judge(trainings, outcomes, "cuda", half=4)] == [True, True, True, False]
    outcomes["resumed-1"] = Outcome({step: LOSSES[step] for step in range(3, 8)} | {8: 9.0})
    assert judge(trainings, outcomes, "cpu", half=2)[3].passed


def test_failed_training_exits_with_1_and_refers_to_its_log(launcher, monkeypatch, tmp_path, capsys):
    launcher.outcomes["resumed-2"] = Outcome(problem="ended with code 1: see the log")
    assert run(launcher, monkeypatch, tmp_path / "out") == 1
    assert "FAILED     ended with code 1: see the log" in capsys.readouterr().out
    assert [row["ranks"] for row in rows(tmp_path / "out" / "speed.csv")] == ["1", "4"]


def test_no_training_starts_after_one_that_hangs(launcher, monkeypatch, tmp_path):
    launcher.outcomes["stage-1"] = Outcome(problem="did not end", hung=True)
    assert run(launcher, monkeypatch, tmp_path / "out") == 1
    assert launcher.trained == ["stage-1"]
    assert {row["result"] for row in rows(tmp_path / "out" / "checks.csv")[1:]} == {"FAILED"}


def test_ranks_do_not_train_if_the_all_reduce_fails(launcher, monkeypatch, tmp_path):
    launcher.collectives = (None, [Check("all-reduce over 4 ranks", False, "did not end", "FAILED")])
    assert run(launcher, monkeypatch, tmp_path / "out") == 1
    assert launcher.trained == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--ranks", "1"), "pass --ranks 2 or more"),
        (("--steps", "3"), "at least 4"),
        (("--out", "{taken}"), "choose another --out"),
    ],
)
def test_invalid_options_are_one_line_and_exit_code_2(words, message, launcher, monkeypatch, tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "shards").write_text("other data")
    assert run(launcher, monkeypatch, tmp_path / "out", *(word.format(taken=taken) for word in words)) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert (taken / "shards").read_text() == "other data"


def test_rewound_run_is_like_a_run_killed_after_that_step(tmp_path):
    for step in (4, 8):
        (tmp_path / "run" / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps({"step": 8, "loss": 1.0}) + "\n")
    assert rewind(tmp_path / "run", tmp_path / "again", 4)
    assert (tmp_path / "again" / "checkpoints" / "latest").read_text() == "step-000004\n"
    assert [path.name for path in (tmp_path / "again" / "checkpoints").glob("step-*")] == ["step-000004"]
    assert not rewind(tmp_path / "run", tmp_path / "other", 6)


def test_hanging_program_is_killed_with_its_children(tmp_path):
    child = f"import time; time.sleep(60)  # {tmp_path}"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    ended = run_process([sys.executable, "-c", code], tmp_path / "log", limit=1)
    assert ended.hung
    deadline = time.monotonic() + 10
    while any(str(tmp_path) in " ".join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"])):
        assert time.monotonic() < deadline, "a child is left"
        time.sleep(0.05)


def test_exit_codes_of_programs_are_distinguished(tmp_path):
    code = "import sys; print('error: fix it'); sys.exit(int(sys.argv[1]))"
    command = [sys.executable, "-c", code]
    assert run_process([*command, "0"], tmp_path / "log").problem is None
    assert "ended with code 1" in str(run_process([*command, "1"], tmp_path / "log").problem)
    with pytest.raises(UmlError, match="fix it"):
        run_process([*command, "2"], tmp_path / "log")


@pytest.mark.launch
def test_check_on_two_cpu_processes_passes(tmp_path):
    """Six real launches: on 2 ranks every ZeRO stage has identical bits."""
    out = tmp_path / "out"
    words = ["--cpu", "--ranks", "2", "--steps", "4", "--out", str(out)]
    done = subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 5 checks passed" in done.stdout
    checks = rows(out / "checks.csv")
    assert [check["result"] for check in checks] == ["right", "equal", "equal", "equal", "equal"]
    assert all("4 losses, identical bits" in check["detail"] for check in checks[1:4])
    assert "resume at step 2, 2 -> 1 ranks" in checks[4]["check"]
    assert [row["ranks"] for row in rows(out / "speed.csv")] == ["1", "2"]
    assert {row["right"] for row in rows(out / "all_reduce.csv")} == {"True"}
    assert (out / "speed.png").stat().st_size > 1000
