"""The parts that all reports have: facts, tables of metrics, and what uncertainty can claim."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ..metrics.headline import headline
from ..watch.text import NOTHING, escape
from .names import grouped, title_of

CLAIM = (
    "Vacuity measures how little evidence the network predicts. It is <strong>not the probability of an error</strong> "
    "and has not been shown to be the epistemic uncertainty of the theory: learned evidence does not become certain "
    'as data grow (<a href="https://arxiv.org/abs/2402.06160">Shen et al.</a>), and vacuity is relative and depends on '
    'the weight of a term of the training (<a href="https://arxiv.org/abs/2402.09056">Jürgens et al.</a>). What can be '
    "claimed is what was measured here: whether probabilities are calibrated, and whether wrong images and pixels are "
    "more uncertain than right ones. <strong>Where vacuity does not beat plain entropy, it adds nothing.</strong> Rank "
    "cases by vacuity; do not threshold it as a probability, and do not compare it between runs. “What evidential "
    "uncertainty can and cannot claim” in <code>uml_dist/README.md</code> has the details."
)

ENTROPY_ONLY = (
    "This model predicts no vacuity. Its uncertainty is the entropy of the predicted probabilities: it is high where "
    "classes are about equally probable. It says nothing about images that are unlike those of the training."
)

LIMITS = (
    "The figures describe the cases of this split and this model alone. They are no evidence for other scanners, "
    "hospitals or patients, and the model has not been assessed for clinical use."
)

COMPARED = (
    ("wrong images", "image_error_auroc_"),
    ("wrong pixels", "pixel_error_auroc_"),
)


@cache
def style() -> str:
    """Return the style sheet of reports, beside that of all pages."""
    return files("uml_dist.report").joinpath("style.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Section:
    """A part of a report with a heading.

    Attributes:
        name: its id.
        title: its heading, of ours.
        content: its HTML; "" leaves the section out.
        note: HTML of a paragraph before it.
    """

    name: str
    title: str
    content: str
    note: str = ""


def body(title: str, kind: str, head: str, sections: Sequence[Section]) -> str:
    """Return the HTML of a report: its head with links to the sections, and the sections.

    Args:
        title: the heading, words of others.
        kind: what report it is, of ours.
        head: HTML of what was evaluated.
        sections: the sections in their order.
    """
    shown = [one for one in sections if one.content]
    links = "".join(f'<a href="#{one.name}">{one.title}</a>' for one in shown)
    header = f'<header><h1>{escape(title, 120)}</h1><p class="sub">{kind}</p>{head}<nav>{links}</nav></header>'
    return header + "".join(map(_section, shown))


def _section(one: Section) -> str:
    remark = f'<p class="note">{one.note}</p>' if one.note else ""
    return f'<section id="{one.name}"><h2>{one.title}</h2>{remark}{one.content}</section>'


def facts(given: Sequence[tuple[str, object]]) -> str:
    """Return names and values beside each other; values are text of others, None is left out."""
    rows = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in given if value is not None)
    return f'<dl class="run-facts">{rows}</dl>'


def value(number: float | None) -> str:
    """Return a figure with 4 digits after the point, as in the printed table; a dash if there is none."""
    if number is None:
        return NOTHING
    return f"{number:.4f}" if abs(number) < 100 else f"{number:,.1f}" if abs(number) < 1e6 else f"{number:.3g}"


def interval(bounds: Sequence[float] | None) -> str:
    """Return an interval; a dash if there is none."""
    return f"{value(bounds[0])} to {value(bounds[1])}" if bounds else NOTHING


def tiles(record: Mapping[str, Any]) -> str:
    """Return the headline of an evaluation: a tile for each of its metrics, with the interval."""
    shown = []
    for name in headline(record["metrics"]):
        bounds = record["intervals"].get(name)
        below = f"<small>{interval(bounds)}</small>" if bounds else ""
        lower = " <small>lower is better</small>" if name in record["lower_is_better"] else ""
        shown.append(
            f"<div><dt>{escape(title_of(name))}{lower}</dt><dd>{value(record['metrics'][name])}{below}</dd></div>"
        )
    return f'<dl class="tiles">{"".join(shown)}</dl>' if shown else ""


def metric_tables(
    record: Mapping[str, Any], heads: Sequence[str], cells: Mapping[str, Sequence[str]], below: bool = False
) -> str:
    """Return the tables of metrics by group, each metric with its definition.

    Args:
        record: a metrics.json, which has definitions and directions.
        heads: titles of the columns after the first, escaped.
        cells: metric -> HTML of these columns.
        below: whether definitions stand below the figures, where the table has many columns.
    """
    lower = set(record["lower_is_better"])
    columns = "".join(f'<th scope="col">{head}</th>' for head in heads)
    tables = []
    for title, members in grouped(cells).items():
        rows = []
        for name in members:
            definition = escape(record["definitions"].get(name, ""), 400)
            definition += "; lower is better" if name in lower else ""
            shown = "".join(
                f'<td data-label="{head}">{cell}</td>' for head, cell in zip(heads, cells[name], strict=True)
            )
            last = "" if below else f'<td class="text">{definition}</td>'
            rows.append(f'<tr><th scope="row">{escape(title_of(name))}</th>{shown}{last}</tr>')
            if below:
                cell = f'<td class="text" colspan="{len(heads) + 1}">{definition}</td>'
                rows.append(f'<tr class="definition">{cell}</tr>')
        last = "" if below else '<th scope="col" class="text">Definition</th>'
        tables.append(
            f'<h3>{title}</h3><div class="table"><table class="metrics"><thead><tr><th scope="col">Metric</th>{columns}'
            f"{last}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        )
    return "".join(tables)


def left_out_part(record: Mapping[str, Any]) -> str:
    """Return the metrics that could not be formed, by what they need."""
    by_need: dict[str, list[str]] = {}
    for name, need in record.get("left_out", {}).items():
        by_need.setdefault(need, []).append(title_of(name))
    rows = "".join(
        f'<tr><th scope="row">{escape(need, 200)}</th><td class="text">{escape(", ".join(names), 1500)}</td></tr>'
        for need, names in by_need.items()
    )
    if not rows:
        return ""
    return (
        '<div class="table"><table><thead><tr><th scope="col">Needs</th><th scope="col" class="text">Metrics</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def notes_list(notes: Sequence[str]) -> str:
    """Return remarks, text of others, as a list."""
    return f'<ul class="notes">{"".join(f"<li>{escape(note, 600)}</li>" for note in notes)}</ul>' if notes else ""


def claim_part(metrics: Mapping[str, float]) -> str:
    """Return what uncertainty can and cannot claim, with the comparison of vacuity and entropy in these metrics."""
    if not any("vacuity" in name for name in metrics):
        return f'<div class="claim"><p>{ENTROPY_ONLY}</p><p>{LIMITS}</p></div>'
    measured = []
    for what, begin in COMPARED:
        vacuity, entropy = (metrics.get(begin + kind) for kind in ("vacuity", "entropy"))
        if vacuity is not None and entropy is not None:
            measured.append(
                f"{what} are found with an AUROC of {vacuity:.3f} by vacuity and of {entropy:.3f} by entropy"
            )
    here = f"<p>Here, {' and '.join(measured)} (0.5 is chance).</p>" if measured else ""
    return f'<div class="claim"><p>{CLAIM}</p>{here}<p>{LIMITS}</p></div>'
