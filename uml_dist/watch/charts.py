"""Charts as SVG for the page: drawn by matplotlib, coloured by the page's style sheet, and without any text of others.

matplotlib draws in placeholder colours, which become CSS variables, so that one drawing serves light and dark. Its
inline styles become attributes, which the page's Content-Security-Policy lets through. Names of curves stand in the
page beside a chart, never inside it.
"""

import io
import math
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from .series import Series

SIZE = (4.4, 1.9)
"""Inches of 100 units of the SVG."""

BOX = (0.115, 0.125, 0.855, 0.84)
"""Left, bottom, width and height of the axes as shares of the chart."""

CURVES = 6
"""Curves of a chart that can be told apart; there are as many colours in the style sheet."""

INK, GRID, BROKEN = "#000001", "#000002", "#000003"
COLOURS = tuple(f"#0000{16 + number}" for number in range(CURVES))
VARIABLES = {INK: "var(--muted)", GRID: "var(--grid)", BROKEN: "var(--bad)"} | {
    colour: f"var(--curve-{number})" for number, colour in enumerate(COLOURS)
}

SMOOTH_FROM = 40
"""Points from which a curve gets a running mean."""

SMOOTH_SHARE = 0.05
"""Share of the points over which the running mean extends."""

LOG_RATIO = 50.0
"""Ratio of the largest to the smallest value from which a chart of positive values is logarithmic."""

NICE = [1, 2, 2.5, 5, 10]
"""Leading digits of the distance between two ticks."""

SETTINGS: Any = {"svg.fonttype": "none", "path.simplify": True, "font.size": 8.5, "text.parse_math": False}
NAMESPACE = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
_LOCK = threading.Lock()  # matplotlib's settings are global


@dataclass(frozen=True)
class Curve:
    """A curve of a chart.

    Attributes:
        series: its values.
        colour: number of its colour, below 6.
    """

    series: Series
    colour: int


def draw_curves(
    key: str,
    title: str,
    curves: Sequence[Curve],
    *,
    limits: tuple[float, float] | None = None,
    exact: bool = False,
    last: int = 1,
) -> str:
    """Return the SVG of curves over steps.

    Args:
        key: distinguishes the chart's ids from those of other charts in the page; letters and hyphens.
        title: description for screen readers, of ours.
        curves: up to 6.
        limits: fixed limits of the values.
        exact: whether to draw values without a running mean and on a linear scale; otherwise positive values that
            span orders of magnitude get a logarithmic one.
        last: last step of the chart.
    """
    with _LOCK, matplotlib.rc_context(SETTINGS):
        figure, axes = _new()
        drawn = [curve for curve in curves if len(curve.series.steps)]
        for curve in drawn:
            _draw_curve(axes, curve, exact)
        axes.set_xlim(0, max(last, 1))
        if limits:
            axes.set_ylim(*limits)
        elif drawn:
            _scale(axes, [curve.series for curve in drawn], not exact)
        for curve in curves:
            if curve.series.first_broken is not None:
                axes.axvline(curve.series.first_broken, color=BROKEN, linewidth=1.2, linestyle=(0, (2, 2)))
        return _svg(figure, key, title)


def draw_shares(key: str, title: str, steps: NDArray[np.float64], parts: Sequence[NDArray[np.float64]]) -> str:
    """Return the SVG of shares over steps, stacked to 1; parts are in the order of their colours."""
    with _LOCK, matplotlib.rc_context(SETTINGS):
        figure, axes = _new()
        total = np.maximum(np.sum(parts, axis=0), 1e-12)
        shares = [part / total for part in parts]
        axes.stackplot(steps, *shares, colors=[COLOURS[n % CURVES] for n in range(len(parts))], linewidth=0, alpha=0.8)
        axes.set_xlim(steps.min(), max(steps.max(), steps.min() + 1))
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        return _svg(figure, key, title)


def draw_distributions(key: str, title: str, bins: Sequence[tuple[Sequence[float], Sequence[float]]]) -> str:
    """Return the SVG of histograms as densities, each scaled to its highest bin.

    Args:
        key: see `draw_curves`.
        title: see `draw_curves`.
        bins: edges and counts of each histogram, in the order of their colours; edges are one more than counts.
    """
    with _LOCK, matplotlib.rc_context(SETTINGS):
        figure, axes = _new()
        for number, (edges, counts) in enumerate(bins):
            density = np.asarray(counts) / np.maximum(np.diff(edges), 1e-12)
            density = density / max(float(density.max()), 1e-12)
            colour = COLOURS[number % CURVES]
            axes.stairs(density, edges, color=colour, linewidth=1.4)
            axes.stairs(density, edges, color=colour, alpha=0.16, fill=True)
        axes.set_xlim(min(edges[0] for edges, _ in bins), max(edges[-1] for edges, _ in bins))
        axes.set_ylim(0, 1.05)
        axes.yaxis.set_major_locator(NullLocator())
        return _svg(figure, key, title)


def draw_chart(
    key: str,
    title: str,
    plot: Callable[[Axes], None],
    size: tuple[float, float] = SIZE,
    box: tuple[float, float, float, float] = BOX,
) -> str:
    """Return the SVG of what a function draws, in `INK`, `GRID` and the colours of `COLOURS`.

    Args:
        key: see `draw_curves`.
        title: see `draw_curves`.
        plot: draws into the axes; it can add others to their figure, styled by `style_axes`.
        size: see `SIZE`.
        box: see `BOX`.
    """
    with _LOCK, matplotlib.rc_context(SETTINGS):
        figure, axes = _new(size, box)
        plot(axes)
        return _svg(figure, key, title)


def _draw_curve(axes: Axes, curve: Curve, exact: bool) -> None:
    series, colour = curve.series, COLOURS[curve.colour % CURVES]
    steps, means = series.steps, series.means
    if series.is_joined:
        axes.fill_between(steps, series.lows, series.highs, color=colour, alpha=0.16, linewidth=0)
    if exact or len(steps) < SMOOTH_FROM:
        marker = "o" if len(steps) < SMOOTH_FROM // 2 else None
        axes.plot(steps, means, color=colour, linewidth=1.5, marker=marker, markersize=2.6)
        return
    axes.plot(steps, means, color=colour, linewidth=0.8, alpha=0.38)
    axes.plot(steps, _running_mean(means), color=colour, linewidth=1.7)


def _running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centred mean of a twentieth of the values; of fewer at the ends."""
    half = max(1, round(len(values) * SMOOTH_SHARE / 2))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    reach = np.minimum(np.minimum(places, len(values) - 1 - places), half)
    low, high = places - reach, places + reach + 1
    return (sums[high] - sums[low]) / (high - low)


def _scale(axes: Axes, drawn: Sequence[Series], logarithmic: bool) -> None:
    """Choose the limits of the values, and a logarithmic scale if they span orders of magnitude."""
    low = min(float(series.lows.min()) for series in drawn)
    high = max(float(series.highs.max()) for series in drawn)
    if logarithmic and low > 0 and high / low > LOG_RATIO:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.15, high * 1.15)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_minor_locator(NullLocator())
        return
    # A zero that is near belongs into the picture: half of the height would otherwise exaggerate small changes.
    if 0 <= low < 0.5 * high:
        low = 0.0
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
    axes.set_ylim(low - (margin if low else 0.0), high + margin)


def _new(size: tuple[float, float] = SIZE, box: tuple[float, float, float, float] = BOX) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, dpi=100)
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    axes = figure.add_axes(box)
    style_axes(axes)
    return figure, axes


def style_axes(axes: Axes) -> None:
    """Give axes the look of all charts: a base line, a grid of values, few ticks without marks."""
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(GRID)
    axes.grid(True, axis="y", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=INK, pad=4)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=NICE, min_n_ticks=2))
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=NICE))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))


def number(value: float) -> str:
    """Return a number for an axis: 0.25, 1.5k, 20M, 1e-05."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= factor:
            return f"{value / factor:.4g}{unit}"
    return f"{value:.3g}".replace("e-0", "e-") if size >= 1e-12 else "0"


def _svg(figure: Figure, key: str, title: str) -> str:
    raw = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": key}):
        figure.savefig(raw, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _restyled(raw.getvalue(), key, title)


def _restyled(text: str, key: str, title: str) -> str:
    """Return a drawing of matplotlib as an element of the page; see the module's description."""
    root = ElementTree.fromstring(re.sub(r"<!DOCTYPE[^>]*>", "", text))
    used = set(re.findall(r"(?:url\(|xlink:href=\")#([\w-]+)", text))
    for parent in list(root.iter()):
        for child in list(parent):
            tag = child.tag.removeprefix(NAMESPACE)
            # matplotlib's style sheet would apply to the whole page.
            if tag in ("metadata", "style") or (tag == "g" and not len(child)):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(NAMESPACE)
        for declaration in filter(None, element.attrib.pop("style", "").split(";")):
            name, _, value = declaration.partition(":")
            element.set(name.strip(), value.strip())
        for name, value in list(element.attrib.items()):
            if name.startswith("font") or (name == "transform" and value.startswith("rotate(-0 ")):
                element.attrib.pop(name)  # the font is that of the page
            elif name == "id":
                element.attrib.pop(name)
                if value in used:
                    element.set("id", f"{key}-{value}")
            elif name == LINK:
                element.attrib.pop(name)
                element.set("href", f"#{key}-{value.removeprefix('#')}")
            elif value in VARIABLES:
                element.set(name, VARIABLES[value])
            elif value.startswith("url(#"):
                element.set(name, f"url(#{key}-{value[5:]}")
            elif name in ("d", "points", "transform", "x", "y", "width", "height"):
                element.set(name, re.sub(r"-?\d+\.\d{2,}", lambda found: f"{float(found[0]):.1f}", value).strip())
        element.text = (element.text or "").strip() or None
        element.tail = None
    box = root.get("viewBox", "0 0 316.8 136.8")
    root.attrib.clear()
    root.attrib.update({"class": "chart", "viewBox": box, "role": "img", "aria-label": title})
    return ElementTree.tostring(root, encoding="unicode")
