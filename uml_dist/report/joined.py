"""The report of several runs that belong together: `python launchers/report.py runs/seed0 runs/seed1 runs/seed2`."""

import time
from collections.abc import Sequence

import numpy as np

from ..metrics.headline import headline
from ..watch.charts import CURVES
from ..watch.curves import card, swatch
from ..watch.page import document
from ..watch.text import NOTHING, escape
from .diagrams import strip, values_diagram
from .joining import LEVEL, Joined, differing, interval_of_mean
from .names import title_of
from .parts import Section, body, claim_part, facts, interval, metric_tables, notes_list, style, value
from .pooled import Pooled
from .records import ceiling_of

SEEDS = (
    "Mean over the runs with its t interval of {level} %. It covers the chance of the training (initial weights, order "
    "of the samples), not the choice of the cases: all runs are evaluated on the same ones. It can extend beyond the "
    "values that a metric can have."
)
FOLDS = (
    "Mean over the folds with its t interval of {level} %. <strong>Any two folds share most of their training data, so "
    "their values are not independent and the interval is too narrow</strong>: read it as the spread between folds."
)
POOLED = (
    "<em>All cases</em> forms the metric once over the {cases} cases of all folds, each predicted by the model that "
    "has not seen it, with a bootstrap interval over the {unit}. Rankings, such as AUROC, then compare scores of "
    "different models. A dash: cases.csv does not suffice for the metric, as where it needs sums over all pixels."
)
MOST_VALUES = 10
"""Most runs whose values have columns of their own in the tables."""


def joined_page(joined: Joined, pooled: Pooled | None) -> str:
    """Return the HTML of a joined report.

    Args:
        joined: the evaluations.
        pooled: metrics over the cases of all folds; None of seeds.
    """
    record = joined.first.record
    what = f"{len(joined.runs)} {joined.kind} of {record.recipe} on {record.shards or record.dataset}"
    title = what if joined.kind == "folds" else f"{what} {record.split}"
    means = {name: float(np.mean(values)) for name, values in joined.metrics.items()}
    note = (FOLDS if joined.kind == "folds" else SEEDS).format(level=round(100 * LEVEL))
    sections = [
        Section("headline", "Headline", _tiles(joined, pooled), note),
        Section("values", "Values of each run", _diagrams(joined), "Line: mean. Band: its interval."),
        Section("claim", "What the uncertainty can and cannot claim", claim_part(means)),
        Section("metrics", "All metrics", _tables(joined, pooled), _pooled_note(pooled)),
        Section("runs", "Runs", _runs(joined)),
        Section("settings", "What differs between the runs", _settings(joined)),
        Section("left-out", "Metrics that not all runs have", _partial(joined)),
        Section("notes", "Rules and notes", _notes(joined)),
    ]
    page = body(title, "Joined evaluation report", _facts(joined, pooled) + _warnings(joined.warnings), sections)
    return document(title, page, live=False, more_style=style())


def _facts(joined: Joined, pooled: Pooled | None) -> str:
    record = joined.first.record
    cases = pooled.cases if pooled else record.counts.get("cases", 0)
    fold = record.fold
    digest = record.data_digest if fold is None else record.folds_data_digest
    return facts(
        [
            ("Recipe", record.recipe),
            ("Data set", record.shards or record.dataset),
            ("Split", record.split if fold is None else f"{fold.folds} folds, drawn by seed {fold.seed}"),
            ("Runs", len(joined.runs)),
            ("Cases", f"{cases:,}" + (f" of {pooled.patients:,} patients" if pooled and pooled.patients else "")),
            ("Data digest", digest[:16] or None),
            ("Written", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
        ]
    )


def _notes(joined: Joined) -> str:
    record = joined.first.record
    notes = [f"{title.replace('_', ' ')}: {line}" for title, line in record.notes.items()]
    rule = [f"empty masks: {record.empty_masks_rule}"] if record.empty_masks_rule and record.mask_classes else []
    return notes_list(notes + rule)


def _warnings(warnings: Sequence[str]) -> str:
    return "".join(f'<p class="warn">{escape(line, 600)}</p>' for line in warnings)


def _tiles(joined: Joined, pooled: Pooled | None) -> str:
    shown = []
    for name in headline(joined.metrics):
        values = joined.metrics[name]
        lower = " <small>lower is better</small>" if name in joined.first.record.lower_is_better else ""
        below = f"<small>{interval(interval_of_mean(values))}</small>"
        if pooled is not None and name in pooled.metrics:
            below += f"<small>all cases {value(pooled.metrics[name])}</small>"
        mean = value(float(np.mean(values)))
        shown.append(f"<div><dt>{escape(title_of(name))}{lower}</dt><dd>{mean}{below}</dd></div>")
    return f'<dl class="tiles">{"".join(shown)}</dl>' if shown else ""


def _diagrams(joined: Joined) -> str:
    names = headline(joined.metrics)
    if not names:
        return ""
    drawn = []
    for place, name in enumerate(names):
        values = joined.metrics[name]
        svg = values_diagram(f"values-{place}", values, float(np.mean(values)), interval_of_mean(values))
        lower = "lower is better" if name in joined.first.record.lower_is_better else ""
        drawn.append(card(title_of(name), lower, svg, ""))
    names_of_runs = "".join(
        f"<li>{swatch(place)}<span>{place + 1}: {escape(one.name)}</span></li>" for place, one in enumerate(joined.runs)
    )
    return f'<ul class="legend key">{names_of_runs}</ul><div class="grid thirds">{"".join(drawn)}</div>'


def _tables(joined: Joined, pooled: Pooled | None) -> str:
    record = joined.first.record
    ceilings = [ceiling_of(one.folder, one.record.data_digest) for one in joined.runs]
    perfect = [one for one in ceilings if one is not None]
    has_perfect = len(perfect) == len(joined.runs) or (joined.kind == "seeds" and bool(perfect))
    each = len(joined.runs) <= MOST_VALUES
    heads = ["Mean", f"{round(100 * LEVEL)} % interval", *(["All cases"] if pooled else []), "Runs"]
    heads += [str(number + 1) for number in range(len(joined.runs))] if each else []
    heads += ["Perfect model"] if has_perfect else []
    cells = {}
    for name, values in joined.metrics.items():
        mean, bounds = float(np.mean(values)), interval_of_mean(values)
        cells[name] = [f"<b>{value(mean)}</b>", interval(bounds)]
        if pooled:
            cells[name].append(_pooled_cell(pooled, name))
        cells[name].append(strip(values, mean, bounds))
        cells[name] += [value(one) for one in values] if each else []
        if has_perfect:
            known = [one[name] for one in perfect if name in one]
            cells[name].append(value(float(np.mean(known))) if len(known) == len(perfect) else NOTHING)
    return metric_tables(record.model_dump(), heads, cells, below=True)


def _pooled_cell(pooled: Pooled, name: str) -> str:
    if name not in pooled.metrics:
        return NOTHING
    bounds = pooled.intervals.get(name)
    below = f"<small>{interval(bounds)}</small>" if bounds else ""
    return f"<b>{value(pooled.metrics[name])}</b> {below}"


def _pooled_note(pooled: Pooled | None) -> str:
    if pooled is None:
        return ""
    return POOLED.format(cases=f"{pooled.cases:,}", unit="patients" if pooled.patients else "cases")


def _runs(joined: Joined) -> str:
    rows = []
    for place, one in enumerate(joined.runs):
        record = one.record
        fold = f"<td>{record.fold.fold}</td>" if record.fold else ""
        rows.append(
            f'<tr><th scope="row">{swatch(place % CURVES)}{place + 1}</th><td>{escape(one.name)}</td>{fold}'
            f"<td>{escape(record.checkpoint)}</td><td>{escape(one.settings.get('train.seed', NOTHING))}</td>"
            f"<td>{record.counts.get('cases', 0):,}</td><td><code>{escape(record.data_digest[:12])}</code></td></tr>"
        )
    heads = ["", "Run", *(["Fold"] if joined.kind == "folds" else []), "Checkpoint", "Seed", "Cases", "Data digest"]
    return _table_of_runs(heads, "".join(rows))


def _settings(joined: Joined) -> str:
    rows = "".join(
        f'<tr><th scope="row"><code>{escape(name)}</code></th>'
        + "".join(f"<td>{escape(one, 60) or NOTHING}</td>" for one in values)
        + "</tr>"
        for name, values in differing(joined.runs).items()
    )
    if not rows:
        return '<p class="note">Nothing in their configurations, or these cannot be read.</p>'
    return _table_of_runs(["Setting", *(str(number + 1) for number in range(len(joined.runs)))], rows)


def _table_of_runs(heads: Sequence[str], rows: str) -> str:
    columns = "".join(f'<th scope="col">{head}</th>' for head in heads)
    table = f"<thead><tr>{columns}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="table"><table class="runs-table">{table}</table></div>'


def _partial(joined: Joined) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(title_of(name))}</th><td class="text">{escape(", ".join(names), 600)}</td></tr>'
        for name, names in joined.partial.items()
    )
    if not rows:
        return ""
    return (
        '<div class="table"><table><thead><tr><th scope="col">Metric</th><th scope="col" class="text">Missing in</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def printed(joined: Joined, pooled: Pooled | None) -> str:
    """Return the headline as lines for the terminal."""
    names = headline(joined.metrics)
    width = max((len(name) for name in names), default=6)
    last = "all cases" if pooled else ""
    lines = [f"{'metric':<{width}}  {'mean':>7}  {f'{round(100 * LEVEL)} % interval':<18}  {last}".rstrip()]
    for name in names:
        values = joined.metrics[name]
        line = f"{name:<{width}}  {np.mean(values):>7.4f}  {interval(interval_of_mean(values)):<18}"
        if pooled and name in pooled.metrics:
            line += f"  {pooled.metrics[name]:.4f}"
        lines.append(line.rstrip())
    if joined.kind == "folds":
        lines.append("folds share most of their training data, so the interval over folds is too narrow")
    return "\n".join(lines)
