"""No check can crash or hang the doctor, and findings are printed line by line."""

import json
from threading import Event

from uml_dist.doctor.finding import note, ok, problem, run_check
from uml_dist.doctor.report import as_json, exit_code, table, verdict


def test_failing_check_is_a_note_in_one_line():
    def broken():
        raise OSError("no such\n  thing")

    found = run_check("disk", broken)
    assert (found.name, found.state) == ("disk", "note")
    assert found.message == "could not be checked: OSError: no such thing"


def test_hanging_check_is_a_note_and_the_next_check_runs():
    forever = Event()
    found = run_check("host name", lambda: ok("host name", str(forever.wait())), seconds=0.05)
    assert (found.state, found.message) == ("note", "could not be checked: no answer within 0.05 s")
    assert run_check("Python", lambda: ok("Python", "3.11")) == ok("Python", "3.11")
    forever.set()


def test_table_has_one_line_per_check_and_the_remedy_below_it():
    lines = table([ok("Python", "3.11.7"), problem("open files", "256\nat most", "ulimit -n 4096")]).splitlines()
    assert lines[0] == "ok       Python      3.11.7"
    assert lines[1] == "PROBLEM  open files  256 at most"
    assert lines[2].strip() == "-> ulimit -n 4096"
    assert len(lines) == 3


def test_exit_code_is_2_only_for_problems():
    findings = [ok("a", "x"), note("b", "y")]
    assert exit_code(findings) == 0
    assert verdict(findings, 0) == "no problems, 1 note: this machine can train on CPU processes"
    assert verdict(findings, 1).endswith("this machine can train on 1 GPU")
    findings.append(problem("c", "z", "fix it"))
    assert exit_code(findings) == 2
    assert verdict(findings, 0).startswith("1 problem, 1 note: training would fail")


def test_json_contains_every_field():
    (found,) = json.loads(as_json([problem("c", "z", "fix it")]))
    assert found == {"name": "c", "state": "problem", "says": "z", "todo": "fix it"}
