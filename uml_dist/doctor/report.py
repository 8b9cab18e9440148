"""Prints findings as a table for people or JSON for programs."""

import json
from collections.abc import Sequence

from uml_shards.text import printable

from .finding import Finding

MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


def table(findings: Sequence[Finding]) -> str:
    """Return a table with one line per check and the remedy below it, after an arrow."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{MARKS[finding.state]:<8} {finding.name:<{width}}  {printable(finding.message)}")
        if finding.remedy:
            lines.append(f"{'':<{10 + width}} -> {finding.remedy}")
    return "\n".join(lines)


def verdict(findings: Sequence[Finding], gpus: int) -> str:
    """Return the summary line."""
    problems, notes = (sum(one.state == state for one in findings) for state in ("problem", "note"))
    counted = f"{_count(problems, 'problem')}, {_count(notes, 'note')}"
    if problems:
        return f"{counted}: training would fail here until the problems are fixed"
    return f"{counted}: this machine can train on {_count(gpus, 'GPU') if gpus else 'CPU processes'}"


def as_json(findings: Sequence[Finding]) -> str:
    """Return a JSON list of objects with the keys name, state, says (the message) and todo (the remedy)."""
    rows = [{"name": one.name, "state": one.state, "says": one.message, "todo": one.remedy} for one in findings]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def exit_code(findings: Sequence[Finding]) -> int:
    """Return 2 if there is a problem, else 0."""
    return 2 if any(finding.state == "problem" for finding in findings) else 0


def _count(number: int, word: str) -> str:
    return f"{number or 'no'} {word}{'' if number == 1 else 's'}"
