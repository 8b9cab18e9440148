"""Draws the plot of the quality benchmark: a panel for each metric, with the intervals and seeds of both methods."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from comparison_report import printed_interval
from comparison_results import Compared, Comparison

COLUMNS = 4
COLOURS = ("#0072B2", "#D55E00")
"""Colours of the methods, distinguishable for colour-blind people (Okabe and Ito, 2008)."""


def write_plot(path: Path, title: str, comparison: Comparison) -> None:
    """Draw the quality metrics: the mean over the seeds with its 95 % interval over the images, and each seed."""
    rows = [row for row in comparison.rows if row.row.better]
    lines = -(-len(rows) // COLUMNS)
    figure = Figure(figsize=(14, 1.2 + 1.7 * lines), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)
    for number, row in enumerate(rows, 1):
        _draw(figure.add_subplot(lines, COLUMNS, number), row, comparison.methods)
    seeds = ", ".join(map(str, comparison.seeds))
    figure.suptitle(f"{title}; seeds {seeds}", fontsize=12, x=0.01, ha="left", weight="bold")
    note = "Large: mean of the seeds, with the 95 % interval over the images. Small: each seed."
    note += "   *: by entropy if there is no vacuity."
    figure.text(0.01, 0.01, note, fontsize=9)
    figure.tight_layout(rect=(0, 0.035, 1, 0.98), w_pad=2.5, h_pad=1.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw(axes: Axes, row: Compared, methods: tuple[str, ...]) -> None:
    for place, (method, colour) in enumerate(zip(methods, COLOURS, strict=False)):
        found = row.methods.get(method)
        if found is None:
            continue
        if found.interval:
            axes.plot(found.interval, (place, place), color=colour, linewidth=2.5, solid_capstyle="butt")
        axes.plot(found.mean, place, "o", color=colour, markersize=8)
        axes.plot(found.values, [place + 0.28] * len(found.values), "o", color=colour, markersize=3.5, alpha=0.6)
        axes.annotate(
            f"{found.mean:.3f}", (found.mean, place), (0, 7), textcoords="offset points", fontsize=8.5, ha="center"
        )
    arrow = "→" if row.row.better == "more" else "←"
    axes.set_title(f"{row.row.title}   better {arrow}", fontsize=9.5, loc="left")
    for found in row.differences.values():
        label = f"difference {found.value:+.3f}"
        axes.set_xlabel(f"{label} ({printed_interval(found.interval)})" if found.interval else label, fontsize=8.5)
    axes.set_yticks(range(len(methods)), methods, fontsize=9)
    axes.set_ylim(len(methods) - 0.45, -0.75)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(axis="x", alpha=0.3)
    axes.margins(x=0.15)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
