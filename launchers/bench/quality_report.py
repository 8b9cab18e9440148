"""Writes the table of the quality benchmark."""

from collections.abc import Iterator

from comparison_report import printed_deviation, printed_interval
from comparison_results import Comparison, Difference, Summary

WIDTH = 40


def printed_table(title: str, comparison: Comparison) -> str:
    """Format a line per metric: mean and standard deviation over the seeds of each method, and the difference."""
    methods, seeds = comparison.methods, comparison.seeds
    both, first = len(methods) == 2, methods[0]
    head = f"{'':<{WIDTH}}{'better':<8}" + "".join(f"{method:>10}{'sd':>8}" for method in methods)
    head += f"{' - '.join(methods):>14}   95 % interval" if both else ""
    lines = [f"{title}; seeds {', '.join(map(str, seeds))}", "", head, "-" * (len(head) + 6 * both)]
    for row in comparison.rows:
        cells = "".join(_cells(row.methods.get(method), row.row.digits) for method in methods)
        lines.append(
            f"{row.row.title:<{WIDTH}}{row.row.better:<8}{cells}{_difference(row.differences.get(first))}".rstrip()
        )
    return "\n".join([*lines, "", *_notes(comparison)])


def _cells(summary: Summary | None, digits: int) -> str:
    if summary is None:
        return f"{'-':>10}{'':>8}"
    return f"{summary.mean:>10.{digits}f}{printed_deviation(summary, digits):>8}"


def _difference(found: Difference | None) -> str:
    return f"{found.value:>+14.3f}   {printed_interval(found.interval)}" if found else ""


def _notes(comparison: Comparison) -> Iterator[str]:
    yield "ECE: expected calibration error; NLL: negative log-likelihood in nats."
    if len(comparison.seeds) > 1:
        yield f"sd: standard deviation over the {len(comparison.seeds)} seeds."
    if len(comparison.methods) == 2:
        yield "95 % interval: of the difference averaged over the seeds, by a bootstrap over the images, with the same"
        yield "draws for all runs. It covers the choice of images, not that of other seeds."
    if any(row.row.instead for row in comparison.rows):
        yield "*: a method without vacuity is judged by its entropy. Each method is judged on its own errors."
