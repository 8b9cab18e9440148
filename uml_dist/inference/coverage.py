"""Accepts the least uncertain predictions, and refers the others to a person."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

from ..run.data import evaluated_split
from ..run.load import Run
from ..run.reader import json_objects
from .table import SCORES, Row


@dataclass(frozen=True)
class Rule:
    """How cases are accepted.

    Attributes:
        score: the column of the uncertainty.
        threshold: its largest value that is accepted.
        origin: where the threshold comes from, in words.
    """

    score: str
    threshold: float
    origin: str

    def decide(self, row: Row) -> dict[str, Any]:
        """Return the columns on the decision about a row. A figure that is not a number is referred."""
        value = row.get(self.score)
        # As many digits as in tables, from which the threshold may come.
        accepted = value is not None and float(f"{value:.6g}") <= float(f"{self.threshold:.6g}")
        rule = f"{self.score} up to {self.threshold:.6g}: {self.origin}"
        return {"decision": "accept" if accepted else "refer", "decided_by": rule}


def rule_of(run: Run, rows: Sequence[Row], coverage: float, flips: bool = False) -> Rule | None:
    """Return the rule that accepts a share of the cases.

    The threshold is that quantile of the uncertainty in the run's evaluation of its validation split, if this
    checkpoint has been evaluated with the same weights; else that of the rows themselves. Evaluations know no flips.

    Args:
        run: the run.
        rows: the rows of all cases.
        coverage: the share to accept.
        flips: whether the predictions are means over flips.

    Returns:
        The rule; None if no row has an uncertainty.
    """
    score = next((name for name in SCORES if any(row.get(name) is not None for row in rows)), None)
    if score is None:
        return None
    split = evaluated_split(run.config, run.config.train.validate_split)
    share = f"{coverage:.6g} of"
    known = [] if flips else _evaluated(run, split, score)
    if known:
        return Rule(score, _quantile(known, coverage), f"{share} {len(known)} cases of the validation split {split}")
    values = [float(row[score]) for row in rows if row.get(score) is not None]
    return Rule(score, _quantile(values, coverage), f"{share} these {len(values)} cases, by rank")


def _quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least a share of the values do not exceed."""
    ordered = sorted(value for value in values if not math.isnan(value))
    if not ordered:
        return -math.inf
    return ordered[min(max(math.ceil(share * len(ordered) - 1e-9), 1), len(ordered)) - 1]


def _evaluated(run: Run, split: str, score: str) -> list[float]:
    """Return the uncertainties in the evaluation of a split by this checkpoint; empty if there is none."""
    record = next(iter(json_objects(run.path / "evaluation" / split / "metrics.json", lines=False)), {})
    if (record.get("checkpoint"), record.get("weights")) != (run.checkpoint.name, run.weights):
        return []
    try:
        text = (run.path / "evaluation" / split / "cases.csv").read_text(encoding="utf-8")
        return [float(row[score]) for row in csv.DictReader(StringIO(text)) if row.get(score)]
    except (OSError, UnicodeDecodeError, csv.Error, ValueError):
        return []
