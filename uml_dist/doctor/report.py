"""How findings are told: a table for people, JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from .finding import Finding

MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


def table(findings: Sequence[Finding]) -> str:
    """One line a check; what to do stands below, behind an arrow."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.state]:<8} {finding.name:<{width}}  {finding.says}")
        if finding.todo:
            lines.append(f"{'':<{10 + width}} -> {finding.todo}")
    return "\n".join(lines)


def verdict(findings: Sequence[Finding], gpus: int) -> str:
    """The last line."""
    problems, notes = (sum(one.state == state for one in findings) for state in ("problem", "note"))
    counted = f"{_count(problems, 'problem')}, {_count(notes, 'note')}"
    if problems:
        return f"{counted}: training would fail here until the problems are fixed"
    return f"{counted}: this machine can train on {_count(gpus, 'GPU') if gpus else 'CPU processes'}"


def as_json(findings: Sequence[Finding]) -> str:
    """A list of objects with name, state, says and todo."""
    return json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False)


def exit_code(findings: Sequence[Finding]) -> int:
    """2 where the user must change something, else 0."""
    return 2 if any(finding.state == "problem" for finding in findings) else 0


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
