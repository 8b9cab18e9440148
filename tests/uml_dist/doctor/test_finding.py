"""A check can neither crash nor hang the doctor, and what it found is told line by line."""

import json
from threading import Event

from uml_dist.doctor.finding import answer, note, ok, problem
from uml_dist.doctor.report import as_json, exit_code, table, verdict


def test_a_check_that_fails_is_a_note_of_one_line_that_says_so():
    def broken():
        raise OSError("no such\n  thing")

    found = answer("disk", broken)
    assert (found.name, found.state) == ("disk", "note")
    assert found.says == "could not be found out: OSError: no such thing"


def test_a_check_that_hangs_is_a_note_and_the_next_one_is_asked():
    forever = Event()
    found = answer("host name", lambda: ok("host name", str(forever.wait())), seconds=0.05)
    assert (found.state, found.says) == ("note", "could not be found out: no answer within 0.05 s")
    assert answer("Python", lambda: ok("Python", "3.11")) == ok("Python", "3.11")
    forever.set()


def test_the_table_has_a_line_a_check_and_the_remedy_below_it():
    lines = table([ok("Python", "3.11.7"), problem("open files", "256\nat most", "ulimit -n 4096")]).splitlines()
    assert lines[0] == "ok       Python      3.11.7"
    assert lines[1] == "PROBLEM  open files  256 at most"
    assert lines[2].strip() == "-> ulimit -n 4096"
    assert len(lines) == 3


def test_only_problems_make_the_exit_code_2():
    findings = [ok("a", "x"), note("b", "y")]
    assert exit_code(findings) == 0
    assert verdict(findings, 0) == "no problems, 1 note: this machine can train on CPU processes"
    assert verdict(findings, 1).endswith("this machine can train on 1 GPU")
    findings.append(problem("c", "z", "fix it"))
    assert exit_code(findings) == 2
    assert verdict(findings, 0).startswith("1 problem, 1 note: training would fail")


def test_json_holds_every_field():
    (found,) = json.loads(as_json([problem("c", "z", "fix it")]))
    assert found == {"name": "c", "state": "problem", "says": "z", "todo": "fix it"}
