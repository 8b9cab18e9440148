"""The doctor as people call it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "launchers" / "doctor.py"
FOREIGN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_SIZE", "UML_WORLD_STARTED", "SLURM_STEP_NUM_TASKS", "PYTHONPATH")


def apart() -> tuple[str, ...]:
    """What runs a command in a network of its own, in which nothing is up; empty where that is not allowed."""
    command = ("unshare", "--map-root-user", "--net")
    allowed = shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if allowed else ()


APART = apart()


def doctor(
    folder: Path, *words: str, before: tuple[str, ...] = (), options: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the doctor in a folder, in an environment without what a launch or a shell may have left."""
    clean = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    command = [*before, sys.executable, *options, str(SCRIPT), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=clean | environment)


def test_the_table_has_a_line_a_check_and_the_exit_code_of_its_marks(tmp_path):
    done = doctor(tmp_path)
    *lines, empty, verdict = done.stdout.splitlines()
    told = [line for line in lines if not line.lstrip().startswith("->")]
    problems = [line for line in told if line.startswith("PROBLEM")]
    # A machine that runs these tests may be full; it lacks nothing else.
    assert {line.split()[1] for line in problems} <= {"disk", "memory", "shared"}
    assert (done.returncode, done.stderr, empty) == (2 if problems else 0, "", "")
    assert ("this machine can train" in verdict) == (not problems)
    assert {line.split()[0] for line in told} <= {"ok", "note", "PROBLEM"}
    # A name server may not answer.
    assert [line for line in told if "could not be found out" in line and "host name" not in line] == []
    assert list(tmp_path.iterdir()) == []  # nothing is left in the working directory


def test_json_has_all_findings_and_every_problem_says_what_to_do(tmp_path):
    (tmp_path / "run").touch()
    done = doctor(tmp_path, "--json", "--run", "run", RANK="0", WORLD_SIZE="2", LOCAL_RANK="0")
    assert done.returncode == 2
    findings = json.loads(done.stdout)
    assert all(set(one) == {"name", "state", "says", "todo"} for one in findings)
    assert len({one["name"] for one in findings}) == len(findings)
    problems = {one["name"]: one["todo"] for one in findings if one["state"] == "problem"}
    assert {"launch variables", "run folder"} <= set(problems)
    assert all(problems.values())
    assert (tmp_path / "run").is_file()


@pytest.mark.skipif(not APART, reason="no network namespaces for users here")
def test_without_a_loopback_interface_training_would_fail(tmp_path):
    done = doctor(tmp_path, "--json", before=APART)
    (found,) = [one for one in json.loads(done.stdout) if one["name"] == "loopback"]
    assert (found["state"], "do not meet" in found["says"]) == ("problem", True)
    assert (done.returncode, done.stderr) == (2, "")


def test_what_a_check_cannot_find_out_is_a_note_with_a_traceback_on_request(tmp_path):
    (tmp_path / "status.json").write_text("{")
    done = doctor(tmp_path, "--json", "--debug", "--run", str(tmp_path))
    (run,) = [one for one in json.loads(done.stdout) if one["name"] == "run"]
    assert (run["state"], "could not be found out: JSONDecodeError" in run["says"]) == ("note", True)
    assert "Traceback" in done.stderr


def test_a_python_without_the_project_is_one_line_and_exit_code_2(tmp_path):
    done = doctor(tmp_path, options=("-S",))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "make install" in done.stderr
