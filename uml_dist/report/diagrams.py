"""Diagrams of a report as SVG, in the colours of the page: reliability, risk and coverage, values of several runs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from numpy.typing import NDArray

from ..metrics.weighted import Floats
from ..watch.charts import COLOURS, CURVES, GRID, INK, draw_chart, number, style_axes

SQUARE = (4.4, 3.5)
WIDE = (4.4, 2.7)
POINTS = 400
"""Most points of a curve; a chart has no more pixels to tell apart."""


def reliability_diagram(key: str, bins: Floats, colour: int, spread: Floats | None = None) -> str:
    """Return the SVG of the share of right predictions by confidence, above the number of predictions in each bin.

    Args:
        key: distinguishes the diagram's ids in the page.
        bins: (bins, 3), number, sum of confidences and hits, in bins of equal width of the confidence in [0, 1].
        colour: number of the colour.
        spread: (bins, 2), an interval of the share of each bin; None without any.
    """
    number_of, confidence, hits = bins.T
    filled = number_of > 0
    at = confidence[filled] / number_of[filled]
    share = hits[filled] / number_of[filled]
    ink = COLOURS[colour % CURVES]

    def plot(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.vlines(at, at, share, color=ink, linewidth=5, alpha=0.22)
        if spread is not None:
            axes.vlines(at, spread[filled, 0], spread[filled, 1], color=ink, linewidth=1.1)
        axes.plot(at, share, color=ink, linewidth=1.4, marker="o", markersize=3.6, clip_on=False)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.xaxis.set_major_formatter(NullFormatter())
        axes.set_ylabel("share that is right", color=INK)
        below = axes.figure.add_axes((0.135, 0.145, 0.82, 0.17))
        style_axes(below)
        edges = np.linspace(0, 1, len(bins) + 1)
        below.bar(edges[:-1][filled], number_of[filled], width=1 / len(bins), align="edge", color=ink, alpha=0.5)
        below.set_xlim(0, 1)
        below.set_yscale("log")
        top = max(float(number_of.max()), 1.0)
        below.set_ylim(0.7, top * 2)
        below.yaxis.set_major_locator(FixedLocator([1.0, 10.0 ** np.floor(np.log10(max(top, 10.0)))]))
        below.yaxis.set_minor_locator(NullLocator())
        below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        below.set_xlabel("confidence", color=INK)

    return draw_chart(key, "share of right predictions by confidence", plot, SQUARE, (0.135, 0.37, 0.82, 0.61))


def coverage_diagram(
    key: str, curves: Mapping[str, Floats], generalised: bool, ends: tuple[float, float] | None = None
) -> str:
    """Return the SVG of risk over coverage.

    Args:
        key: distinguishes the diagram's ids in the page.
        curves: `RiskCoverage.curve` (n + 1,) of up to 6 uncertainties.
        generalised: draw the generalised risk, or the mean risk of the covered cases.
        ends: smallest and largest risk that the axis must contain.
    """
    highest = 0.0

    def plot(axes: Axes) -> None:
        nonlocal highest
        for place, curve in enumerate(curves.values()):
            coverage, risk = _points(curve, generalised)
            axes.plot(coverage, risk, color=COLOURS[place % CURVES], linewidth=1.5)
            highest = max(highest, float(risk.max(initial=0.0)))
        total = next(iter(curves.values()))[-1]
        axes.plot([0, 1], [0 if generalised else total, total], color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set_xlim(0, 1)
        axes.set_ylim(0, max(highest, float(total), *(ends or ()), 1e-6) * 1.06)
        axes.set_xlabel("coverage: share of the cases that are kept", color=INK)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))

    title = "generalised risk over coverage" if generalised else "mean risk of the covered cases over coverage"
    return draw_chart(key, title, plot, WIDE, (0.135, 0.17, 0.82, 0.8))


def _points(curve: Floats, generalised: bool) -> tuple[Floats, Floats]:
    """Return coverages and risks of a curve, in at most `POINTS` points."""
    cases = len(curve) - 1
    places = np.unique(np.linspace(0 if generalised else 1, cases, min(cases + 1, POINTS)).round().astype(np.int64))
    coverage = places / cases
    return coverage, curve[places] if generalised else curve[places] / coverage


def values_diagram(key: str, values: Sequence[float], mean: float, bounds: tuple[float, float] | None) -> str:
    """Return the SVG of the values of one metric in several runs, with their mean and its interval.

    Args:
        key: distinguishes the diagram's ids in the page.
        values: the value of each run, in the order of their colours.
        mean: the mean of the runs.
        bounds: its interval; None without any.
    """

    def plot(axes: Axes) -> None:
        if bounds is not None:
            axes.axhspan(*bounds, color=GRID, alpha=0.8, linewidth=0)
        axes.axhline(mean, color=INK, linewidth=1.1)
        places = np.arange(1, len(values) + 1)
        axes.scatter(places, values, c=[COLOURS[place % CURVES] for place in range(len(values))], s=26, zorder=3)
        low, high = _limits([*values, *(bounds or ())])
        axes.set_ylim(low, high)
        axes.set_xlim(0.4, len(values) + 0.6)
        axes.xaxis.set_major_locator(FixedLocator(_ticks(places)))

    return draw_chart(key, "the value of each run, with mean and interval", plot)


def _ticks(places: NDArray[np.int64]) -> list[float]:
    step = -(-len(places) // 10)
    return [float(place) for place in places[::step]]


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.12 * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin


def strip(values: Sequence[float], mean: float, bounds: tuple[float, float] | None) -> str:
    """Return a small SVG of values on a line, with the interval of their mean, scaled to what it contains."""
    low, high = _limits([*values, *(bounds or ())])

    def place(number: float) -> str:
        return f"{100 * (number - low) / (high - low):.1f}"

    band = ""
    if bounds is not None:
        left, right = map(place, bounds)
        band = f'<rect class="band" x="{left}%" width="{float(right) - float(left):.1f}%" y="3" height="12"/>'
    dots = "".join(
        f'<circle cx="{place(one)}%" cy="9" r="3.4" fill="var(--curve-{colour % CURVES})"/>'
        for colour, one in enumerate(values)
    )
    middle = f'<line x1="{place(mean)}%" x2="{place(mean)}%" y1="1" y2="17"/>'
    return f'<svg class="strip" aria-hidden="true">{band}{middle}{dots}</svg>'
