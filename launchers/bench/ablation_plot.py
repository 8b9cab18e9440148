"""Draws the plot of an ablation: for each metric, the seeds and means of all arms, and the differences."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from comparison_results import Compared, Comparison

SHOWN = (
    ("aupr", "dice"),
    ("hd95",),
    ("quadratic_kappa", "accuracy"),
    ("pixel_ece",),
    ("pixel_error_auroc_entropy",),
)
"""Metrics of quality with a line of panels: of each group the first that there is."""

COSTS = ("step_seconds", "peak_gigabytes")
"""Costs, which share a line of panels."""

COLOUR, CLEAR, UNCLEAR = "#0072B2", "#D55E00", "#777777"
"""Of values, of clear differences, and of others; distinguishable for colour-blind people."""


def write_plot(path: Path, title: str, comparison: Comparison) -> None:
    """Draw two panels per metric: values of seeds and their means; differences from the reference with intervals."""
    rows = {row.row.metric: row for row in comparison.rows}
    quality = [next(rows[name] for name in group if name in rows) for group in SHOWN if rows.keys() & set(group)]
    costs = [row for row in comparison.rows if row.row.metric in COSTS]
    lines = len(quality) + bool(costs)
    height = 1.0 + lines * (0.8 + 0.2 * len(comparison.methods))
    figure = Figure(figsize=(12, height), dpi=110, facecolor="white")
    FigureCanvasAgg(figure)
    for number, row in enumerate(quality):
        values = figure.add_subplot(lines, 2, 2 * number + 1)
        _draw_values(values, row, comparison)
        if row.differences:
            _draw_differences(figure.add_subplot(lines, 2, 2 * number + 2, sharey=values), row, comparison)
    for number, row in enumerate(costs, 2 * len(quality) + 1):
        _draw_values(figure.add_subplot(lines, 2, number), row, comparison)
    seeds = ", ".join(map(str, comparison.seeds))
    top = 1 - 0.1 / height
    figure.suptitle(f"{title}; seeds {seeds}", fontsize=12, x=0.01, y=top, ha="left", va="top", weight="bold")
    note = (
        "Small: each seed; large: their mean. Right: difference of the means, with the 95 % interval over the cases; "
        "orange: it excludes 0, alike in every seed."
    )
    figure.text(0.01, 0.1 / height, note, fontsize=9)
    figure.tight_layout(rect=(0, 0.3 / height, 1, 1 - 0.4 / height), w_pad=2.0, h_pad=1.2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw_values(axes: Axes, row: Compared, comparison: Comparison) -> None:
    for place, method in enumerate(comparison.methods):
        found = row.methods.get(method)
        if found is not None:
            axes.plot(found.values, [place] * len(found.values), "o", color=COLOUR, markersize=3.5, alpha=0.6)
            axes.plot(found.mean, place, "o", color=COLOUR, markersize=8)
    arrow = {"more": "   better →", "less": "   better ←"}.get(row.row.better, "")
    axes.set_title(f"{row.row.title}{arrow}", fontsize=9.5, loc="left")
    axes.set_yticks(range(len(comparison.methods)), comparison.methods, fontsize=8.5)
    _tidy(axes, comparison)


def _draw_differences(axes: Axes, row: Compared, comparison: Comparison) -> None:
    axes.axvline(0.0, color="black", linewidth=0.8)
    for place, method in enumerate(comparison.methods):
        found = row.differences.get(method)
        if found is None:
            continue
        colour = CLEAR if found.is_clear else UNCLEAR
        if found.interval:
            axes.plot(found.interval, (place, place), color=colour, linewidth=2.5, solid_capstyle="butt")
        axes.plot(found.value, place, "o", color=colour, markersize=6)
    axes.set_title(f"difference from {comparison.reference}", fontsize=9.5, loc="left")
    axes.tick_params(axis="y", labelleft=False)
    _tidy(axes, comparison)


def _tidy(axes: Axes, comparison: Comparison) -> None:
    axes.set_ylim(len(comparison.methods) - 0.4, -0.6)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.margins(x=0.08)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
