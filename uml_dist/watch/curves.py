"""The charts of a run: which records belong together, and their cards in the page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .charts import CURVES, Curve, draw_curves, draw_distributions, draw_shares
from .journal import SECONDS, Journal
from .ranks import RanksView
from .series import Series
from .text import duration, escape, figure, percent

MAX_CHARTS = 4
"""Most charts of one group of records; names of figures can be as many as classes."""

INTERVALS = 100
"""Intervals of a run in the chart of shares of time."""

OTHER_KEYS = frozenset({"step", "phase", "epoch", "images_per_second", "data_wait", "productive_seconds"})
OTHER_PREFIXES = ("learning_rate_", "gradient_norm_", "vacuity_", "validation_", SECONDS)

LOSSES = ("loss", "image_nll", "pixel_nll")
SCORES = ("dice", "iou", "aupr", "accuracy", "auroc", "quadratic_kappa")
CALIBRATION = ("image_ece", "pixel_ece")
ERRORS = ("image_error_auroc_vacuity", "pixel_error_auroc_vacuity")


@dataclass(frozen=True)
class Group:
    """Curves of one chart.

    Attributes:
        title: title of the chart, in part a name of others.
        curves: names to show and the series.
        limits: fixed limits of the values.
        exact: whether the curves are functions of the step, drawn as they are.
        note: explanation below the title, of ours.
    """

    title: str
    curves: Sequence[tuple[str, Series]]
    limits: tuple[float, float] | None = None
    note: str = ""
    exact: bool = False


def training_groups(journal: Journal) -> list[Group]:
    """Return the charts of losses, learning rates, gradient norms and speed."""
    series = journal.series
    terms = {
        name: one for name, one in series.items() if name not in OTHER_KEYS and not name.startswith(OTHER_PREFIXES)
    }
    sums = [(name, one) for name, one in terms.items() if "_" not in name]
    parts = [(name.replace("_", " "), one) for name, one in terms.items() if "_" in name]
    groups = [Group("Loss", sums), Group("Parts of the loss", parts)]
    groups.append(Group("Gradient norm", _named(journal, "gradient_norm_"), note="before clipping"))
    groups.append(Group("Learning rate", _named(journal, "learning_rate_"), exact=True))
    speed = [("images/s", series["images_per_second"])] if "images_per_second" in series else []
    return [*groups, Group("Speed", speed, note="images per second of all ranks")]


def validation_groups(journal: Journal) -> list[Group]:
    """Return the charts of each validation: losses, scores, and calibration errors."""
    groups = []
    for validation in validations(journal):
        figures = figures_of(journal, validation)
        title = f"Validation {validation}".rstrip()
        for kind, names in (("loss", LOSSES), ("scores", SCORES), ("calibration error", CALIBRATION)):
            groups.append(Group(f"{title}: {kind}", [(n.replace("_", " "), figures[n]) for n in names if n in figures]))
    return groups


def vacuity_groups(journal: Journal) -> list[Group]:
    """Return the charts of vacuity, and of how well it finds errors."""
    errors = [
        (f"{validation} {name.partition('_')[0]}".strip(), figures_of(journal, validation)[name])
        for validation in validations(journal)
        for name in ERRORS
        if name in figures_of(journal, validation)
    ]
    return [
        Group("Mean vacuity", _named(journal, "vacuity_"), (0.0, 1.0), "of the opinions on training samples"),
        Group("AUROC of errors by vacuity", errors, (0.0, 1.0), "in validations; 0.5 is chance"),
    ]


def validations(journal: Journal) -> list[str]:
    """Return the names of the validations, "" for the main one."""
    names = [name.removeprefix("validation_") for name in journal.series if name.startswith("validation_")]
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))[:MAX_CHARTS]


def figures_of(journal: Journal, validation: str) -> dict[str, Series]:
    """Return the figures of a validation by name."""
    prefix = f"validation_{validation}." if validation else "validation_"
    return {
        name.removeprefix(prefix): one
        for name, one in journal.series.items()
        if name.startswith(prefix) and "." not in name.removeprefix(prefix)
    }


def cards(groups: Sequence[Group], last: int) -> str:
    """Return the cards of charts; groups without values have none, those with many curves have several.

    Args:
        groups: the charts.
        last: last step of the run, where all charts end.
    """
    html = []
    for group in groups:
        for start in range(0, min(len(group.curves), CURVES * MAX_CHARTS), CURVES):
            shown = group.curves[start : start + CURVES]
            key = re.sub(r"[^a-z]+", "-", group.title.lower()) + f"-{len(html)}"
            drawn = [Curve(one, colour) for colour, (_, one) in enumerate(shown)]
            svg = draw_curves(
                key, "chart over the steps of the run", drawn, limits=group.limits, exact=group.exact, last=last
            )
            rows = [(name, figure(one.last), _broken(one)) for name, one in shown]
            html.append(card(group.title, group.note, svg, legend(rows)))
        if len(group.curves) > CURVES * MAX_CHARTS:
            left = len(group.curves) - CURVES * MAX_CHARTS
            html.append(f'<p class="note">{left} more curves of this kind are in metrics.jsonl.</p>')
    return "".join(html)


def card(title: str, note: str, svg: str, below: str) -> str:
    """Return a card with a chart."""
    remark = f" <small>{escape(note)}</small>" if note else ""
    return f"<figure><figcaption>{escape(title)}{remark}</figcaption>{svg}{below}</figure>"


def legend(rows: Sequence[tuple[str, str, str]]) -> str:
    """Return a legend: name, last value as HTML, and a warning as HTML, in the order of the colours."""
    items = [
        f"<li>{swatch(colour)}<span>{escape(name)}</span><b>{value}</b>{warning}</li>"
        for colour, (name, value, warning) in enumerate(rows)
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def swatch(colour: int) -> str:
    """Return a square in the colour of a curve."""
    square = f'<rect width="1" height="1" fill="var(--curve-{colour % CURVES})"/>'
    return f'<svg class="swatch" viewBox="0 0 1 1" aria-hidden="true">{square}</svg>'


def bar(share: float, kind: str = "") -> str:
    """Return a bar for a share of 0 to 1."""
    width = 100.0 * min(max(share, 0.0), 1.0)
    return (
        f'<svg class="bar {kind}" aria-hidden="true"><rect class="track" width="100%" height="100%"/>'
        f'<rect class="fill" width="{width:.1f}%" height="100%"/></svg>'
    )


def time_part(journal: Journal) -> str:
    """Return where the time goes: seconds of each phase for a step, and their shares over the run."""
    recent, steps = journal.recent_seconds()
    whole = sum(journal.seconds.values())
    if not whole:
        return '<p class="note">No step has been logged yet.</p>'
    recent_sum = sum(recent.values())
    names = sorted(journal.seconds, key=lambda name: -journal.seconds[name])
    # The largest phases have colours of their own, the others share one.
    top, rest = (names, []) if len(names) <= CURVES else (names[: CURVES - 1], names[CURVES - 1 :])
    rows = []
    for place, name in enumerate(names):
        now, share = recent.get(name, 0.0), journal.seconds[name] / whole
        lately = now / recent_sum if recent_sum else None
        colour = min(place, CURVES - 1)
        rows.append(
            f'<tr><th scope="row">{swatch(colour)}{escape(name.replace("_", " "))}</th>'
            f"<td>{duration(now / steps if steps else None)}</td>"
            f"<td>{percent(lately, 1)}</td><td>{percent(share, 1)}</td>"
            f'<td class="wide">{bar(share if lately is None else lately, f"curve-{colour}")}</td></tr>'
        )
    table = (
        '<div class="table"><table><thead><tr><th scope="col">Part</th><th scope="col">a step</th>'
        '<th scope="col">recent</th><th scope="col">whole run</th><th class="wide"></th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    edges = np.linspace(0, max(journal.step, 1), INTERVALS + 1)
    sums = [_sums(journal, [name], edges) for name in top] + ([_sums(journal, rest, edges)] if rest else [])
    filled = np.sum(sums, axis=0) > 0
    if filled.sum() < 3:
        return f'<div class="grid">{table}</div>'
    middles = ((edges[:-1] + edges[1:]) / 2)[filled]
    svg = draw_shares("time", "shares of the time over the steps of the run", middles, [one[filled] for one in sums])
    note = "share of rank 0's time over the steps" + (", the smaller parts together" if rest else "")
    return f'<div class="grid">{table}{card("Share over the run", note, svg, "")}</div>'


def _sums(journal: Journal, names: Sequence[str], edges: np.ndarray) -> np.ndarray:
    """Return the seconds of phases together in each interval of steps."""
    total = np.zeros(len(edges) - 1)
    for name in names:
        one = journal.series.get(SECONDS + name)
        if one is not None:
            total += np.histogram(one.steps, bins=edges, weights=one.sums)[0]
    return total


def distribution_card(ranks: RanksView) -> str:
    """Return the card with the distribution of vacuity, or why there is none."""
    if not ranks.distributions:
        why = ranks.problem or "the ranks export no uml_opinion_vacuity"
        return card("Distribution of vacuity", "", "", f'<p class="note">Not available: {escape(why, 300)}.</p>')
    levels = list(ranks.distributions)[:CURVES]
    svg = draw_distributions("vacuity", "distribution of vacuity", [ranks.distributions[level] for level in levels])
    rows = [(level, f"median {figure(_median(*ranks.distributions[level]))}", "") for level in levels]
    note = "of the opinions at logging steps since this start, all ranks; height: density"
    return card("Distribution of vacuity", note, svg, legend(rows))


def _median(edges: Sequence[float], counts: Sequence[float]) -> float:
    """Return the median of a histogram, linear within a bin."""
    sums = np.concatenate([[0.0], np.cumsum(counts)])
    return float(np.interp(sums[-1] / 2, sums, edges))


def _named(journal: Journal, prefix: str) -> list[tuple[str, Series]]:
    return [(name.removeprefix(prefix), one) for name, one in journal.series.items() if name.startswith(prefix)]


def _broken(series: Series) -> str:
    if not series.broken:
        return ""
    return f'<em class="bad">{series.broken} not finite, first at step {series.first_broken:,}</em>'
