"""Risk and coverage: what is left if the most uncertain cases are referred to a person."""

from collections.abc import Mapping

from ..metrics.columns import Columns
from ..metrics.families.selective import risk_coverage
from ..metrics.weighted import Floats
from ..watch.charts import CURVES
from ..watch.curves import card, legend
from .diagrams import coverage_diagram
from .parts import value

LEVELS = {
    "image": ("Class of the image", "error of the class"),
    "mask": ("Segmentation", "1 - Dice"),
}


def curves_of(columns: Columns) -> dict[str, dict[str, Floats]]:
    """Return the generalised risk (n + 1,) over the coverage: "image" or "mask" -> uncertainty -> curve."""
    found = {
        level: {name: curve.curve for name, curve in curves.items()} for level, curves in risk_coverage(columns).items()
    }
    counted = {level: {n: curve for n, curve in curves.items() if len(curve) > 1} for level, curves in found.items()}
    return {level: curves for level, curves in counted.items() if curves}


def coverage_part(columns: Columns, metrics: Mapping[str, float]) -> str:
    """Return the curves of risk over coverage, each with its area; "" where there is no risk or no uncertainty."""
    cards = []
    for level, curves in curves_of(columns).items():
        title, risk = LEVELS[level]
        shown = dict(list(curves.items())[:CURVES])
        for generalised, figure, what in (
            (False, "aurc", f"mean {risk} of the kept cases; dashed: of all"),
            (True, "augrc", f"{risk}, kept cases over all; dashed: at random"),
        ):
            svg = coverage_diagram(f"{level}-{figure}", shown, generalised)
            rows = [(name.replace("_", " "), value(metrics.get(f"{level}_{figure}_{name}")), "") for name in shown]
            cards.append(card(f"{title}: {figure.upper()}", what, svg, legend(rows)))
    return f'<div class="grid">{"".join(cards)}</div>' if cards else ""
