"""Writes the tables of an ablation: one per metric for the terminal, and one of all metrics in Markdown."""

from collections.abc import Iterator, Mapping
from textwrap import wrap

from ablation_arms import Arm
from comparison_report import printed_deviation, printed_interval
from comparison_results import Compared, Comparison

LINE = 120
"""Characters of a line of notes."""


def printed_table(title: str, comparison: Comparison, arms: Mapping[str, Arm]) -> str:
    """Format the arms, then for each metric a line per arm: mean, deviation, and difference from the reference."""
    width = max(map(len, [*comparison.methods, "arm"])) + 2
    lines = [_heading(title, comparison), ""]
    lines += [f"{name:<{width}}{_described(arms[name])}" for name in comparison.methods]
    for row in comparison.rows:
        lines += ["", *_block(row, comparison, width)]
    notes = (line for note in _notes(comparison, arms, "*") for line in wrap(note, LINE))
    return "\n".join([*lines, "", *notes])


def markdown_table(title: str, comparison: Comparison, arms: Mapping[str, Arm]) -> str:
    """Format a row per arm and a column per metric: mean, deviation, and interval of the difference."""
    heads = [f"{row.row.title.removesuffix(' *')}{_arrow(row)}" for row in comparison.rows]
    lines = [_heading(title, comparison), "", f"| arm | {' | '.join(heads)} |", f"|---{'|---' * len(heads)}|"]
    for name in comparison.methods:
        lines.append(f"| {name} | {' | '.join(_cell(row, name) for row in comparison.rows)} |")
    lines += ["", *(f"- {name}: {_described(arms[name])}" for name in comparison.methods)]
    return "\n".join([*lines, "", *(f"- {note}" for note in _notes(comparison, arms, "bold"))])


def _heading(title: str, comparison: Comparison) -> str:
    return f"{title}; seeds {', '.join(map(str, comparison.seeds))}"


def _described(arm: Arm) -> str:
    return f"{arm.summary} [{arm.changes}]" if arm.changes else arm.summary


def _block(row: Compared, comparison: Comparison, width: int) -> Iterator[str]:
    """Yield the lines of one metric."""
    better = f", {row.row.better} is better" if row.row.better else ""
    wide = max(14, len(comparison.reference) + 4)
    compared = f"{'- ' + comparison.reference:>{wide}}   95 % interval"
    head = f"{'':<{width}}{'mean':>10}{'sd':>9}{compared if row.differences else ''}"
    yield f"{row.row.title.removesuffix(' *')}{better}"
    yield head
    for name in comparison.methods:
        found = row.methods.get(name)
        if found is None:
            yield f"{name:<{width}}{'-':>10}"
            continue
        digits = row.row.digits
        line = f"{name:<{width}}{found.mean:>10.{digits}f}{printed_deviation(found, digits):>9}"
        if (difference := row.differences.get(name)) is not None:
            mark = " *" if difference.is_clear else ""
            line += f"{difference.value:>+{wide}.{digits}f}   "
            line += printed_interval(difference.interval, digits) + mark
        yield line.rstrip()


def _cell(row: Compared, name: str) -> str:
    found, digits = row.methods.get(name), row.row.digits
    if found is None:
        return "-"
    deviation = printed_deviation(found, digits)
    cell = f"{found.mean:.{digits}f}" + (f" ± {deviation}" if deviation else "")
    difference = row.differences.get(name)
    interval = printed_interval(difference.interval, digits) if difference else ""
    if difference and interval:
        cell += f" (**{interval}**)" if difference.is_clear else f" ({interval})"
    return cell


def _arrow(row: Compared) -> str:
    return {"more": " ↑", "less": " ↓"}.get(row.row.better, "")


def _notes(comparison: Comparison, arms: Mapping[str, Arm], mark: str) -> Iterator[str]:
    if len(comparison.seeds) > 1:
        yield f"sd: standard deviation over the {len(comparison.seeds)} seeds."
    if any(row.differences for row in comparison.rows):
        yield (
            f"95 % interval: of the difference from {comparison.reference}, averaged over the seeds, by a bootstrap "
            "over the cases with the same draws for all runs. It covers the choice of cases, not that of other seeds "
            f"or of other labelled samples. {mark}: it excludes 0, and the difference has the same sign in every seed; "
            "not corrected for the number of arms and metrics."
        )
    rows = {row.row.metric for row in comparison.rows}
    if "hd95" in rows:
        yield (
            "Surface distances: over the cases in which a class is both there and predicted; all others count as "
            "missing or invented classes."
        )
    if any(row.row.instead for row in comparison.rows):
        yield "By vacuity: an arm without vacuity is judged by its entropy. Each arm is judged on its own errors."
    if "step_seconds" in rows:
        yield (
            "Seconds a step: by the clock, without validations and checkpoints. Processor minutes: of all processes, "
            "with startup and validations; not of runs that were stopped. Peak memory: of the largest process, "
            "libraries included."
        )
    others = [name for name in comparison.methods if arms[name].has_other_labels]
    if others:
        yield f"{', '.join(others)}: trained with other labelled samples than the other arms."
