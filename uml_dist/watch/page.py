"""The HTML of the page: the list of runs, and the parts of one run."""

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from urllib.parse import quote_from_bytes

from .curves import (
    bar,
    cards,
    distribution_card,
    figures_of,
    training_groups,
    vacuity_groups,
    validation_groups,
    validations,
)
from .journal import Journal
from .ranks import RanksView
from .state import STATUSES, State
from .text import NOTHING, ago, duration, escape, figure, moment, percent, size

REFRESH_SECONDS = 5
WORDS = {"new": "not started"}
STRAGGLER = 1.2
"""Ratio of a rank's own time to the median's from which it is pointed out."""

MAX_CONFIG = 1 << 18
Link = Callable[[str, str], str]
"""Returns the address of a picture from the name of an evaluation and its version."""


@cache
def style() -> str:
    """Return the style sheet."""
    return files("uml_dist.watch").joinpath("style.css").read_text(encoding="utf-8")


@cache
def script() -> str:
    """Return the script that refreshes the page."""
    text = files("uml_dist.watch").joinpath("refresh.js").read_text(encoding="utf-8")
    return text.replace("REFRESH_SECONDS", str(REFRESH_SECONDS))


@cache
def policy(live: bool, sheet: str | None = None) -> str:
    """Return the Content-Security-Policy: nothing but the page's own style sheet, script and pictures."""

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    allowed = f"style-src 'sha256-{digest(style() if sheet is None else sheet)}'"
    rules = ["default-src 'none'", allowed, "base-uri 'none'", "form-action 'none'"]
    if live:
        rules += [f"script-src 'sha256-{digest(script())}'", "connect-src 'self'", "img-src 'self'"]
        rules += ["frame-ancestors 'none'"]
    else:
        rules += ["img-src data:"]
    return "; ".join(rules)


def address(run: str) -> str:
    """Return the address of a run's page."""
    return f"/run?name={quote_from_bytes(run.encode(errors='surrogateescape'))}"


def document(title: str, body: str, live: bool, more_style: str = "") -> str:
    """Return a whole document.

    Args:
        title: title of the window, words of others.
        body: HTML of the parts.
        live: whether it refreshes itself; otherwise it is complete in itself, as a file.
        more_style: style sheet beside that of all pages.
    """
    sheet = style() + more_style
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy(False, sheet)}">'
    tail = ""
    if live:
        head = f'<noscript><meta http-equiv="refresh" content="{2 * REFRESH_SECONDS}"></noscript>'
        tail = f'<p id="lost" role="status" hidden></p><script>{script()}</script>'
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">{head}<title>{escape(title)}</title>'
        f"<style>{sheet}</style></head><body><main>{body}</main>{tail}</body></html>\n"
    )


def part(name: str, content: str, title: str = "") -> str:
    """Return a part of the page that is refreshed on its own."""
    heading = f"<h2>{title}</h2>" if title else ""
    return f'<section id="{name}" data-part>{heading}{content}</section>'


def list_page(root: str, states: Sequence[State], notes: Sequence[str], now: float, live: bool) -> str:
    """Return the list of runs.

    Args:
        root: the folder of runs, to show.
        states: the runs.
        notes: remarks below the list.
        now: seconds since 1970.
        live: see `document`.
    """
    counts = {status: sum(one.status == status for one in states) for status in STATUSES}
    summary = ", ".join(f"{count} {WORDS.get(status, status)}" for status, count in counts.items() if count)
    ordered = sorted(states, key=lambda one: (one.status != "running", -(one.updated or 0.0), one.name))
    rows = "".join(_row(one, now, live) for one in ordered)
    table = (
        '<div class="table"><table class="runs"><thead><tr><th scope="col">Run</th><th scope="col">Status</th>'
        '<th scope="col" class="wide">Progress</th><th scope="col">Time left</th><th scope="col">Images/s</th>'
        f'<th scope="col">Loss</th><th scope="col">Last record</th></tr></thead><tbody>{rows}</tbody></table></div>'
        if states
        else '<p class="note">There is no run in this folder yet.</p>'
    )
    remarks = "".join(f'<p class="note">{escape(note, 300)}</p>' for note in notes)
    words = f"<code>{escape(root, 200)}</code>" + (f" · {summary}" if summary else "")
    head = f'<header><h1>Runs</h1><p class="sub">{words}</p></header>'
    return document(f"runs: {summary or 'none'}", part("runs", head + table + remarks), live)


def _row(state: State, now: float, live: bool) -> str:
    name = escape(state.name)
    link = f'<a href="{address(state.name)}">{name}</a>' if live else name
    reason = f'<span class="reason">{escape(state.reason, 300)}</span>' if state.reason else ""
    cells = (
        ("Time left", duration(state.eta_seconds)),
        ("Images/s", figure(state.images_per_second)),
        ("Loss", figure(state.loss)),
        ("Last record", ago(state.updated, now)),
    )
    shown = "".join(
        f'<td data-label="{label}"{" class=none" if value == NOTHING else ""}>{value}</td>' for label, value in cells
    )
    return (
        f'<tr class="{state.status}"><th scope="row">{link}<small>{escape(state.recipe)}</small></th>'
        f'<td class="status">{pill(state)}{reason}</td><td class="wide">{progress(state)}</td>{shown}</tr>'
    )


def pill(state: State) -> str:
    """Return the status of a run as a coloured word."""
    return f'<span class="pill {state.status}">{WORDS.get(state.status, state.status)}</span>'


def progress(state: State) -> str:
    """Return the progress of a run as a bar with its steps."""
    planned = f" / {state.planned:,}" if state.planned else ""
    share = state.progress
    drawn = bar(share, state.status) if share is not None else ""
    return f'<span class="progress">{drawn}<span>{state.step:,}{planned}</span></span>'


def run_head(state: State, now: float, home: bool) -> str:
    """Return the head of a run's page.

    Args:
        state: the run.
        now: seconds since 1970.
        home: whether to link to the list of runs.
    """
    back = '<nav><a href="/">Runs</a></nav>' if home else ""
    words = [f"{kind} {name}" for kind, name in (("recipe", state.recipe), ("phase", state.phase)) if name]
    reason = f'<p class="reason {state.status}">{escape(state.reason, 1000)}</p>' if state.reason else ""
    share = percent(state.progress, 0 if state.progress in (0.0, 1.0) else 1)
    facts = [
        ("Steps", f"{state.step:,}" + (f" <small>of {state.planned:,}</small>" if state.planned else "")),
        ("Done", share),
        ("Time left", duration(state.eta_seconds)),
        ("A step", duration(state.seconds_per_step)),
        ("Images/s", figure(state.images_per_second)),
        ("Waits for data", percent(state.data_wait, 1)),
        ("Epoch", figure(state.epoch)),
        ("Loss", figure(state.loss)),
    ]
    if state.vacuity is not None:
        facts.append(("Mean vacuity", figure(state.vacuity)))
    if state.validation:
        facts.append((f"Validation {escape(state.validation[0], 40)}", figure(state.validation[1])))
    facts.append(("Checkpoint", f"{state.checkpoint:,}" if state.checkpoint is not None else NOTHING))
    facts.append(("Last record", ago(state.updated, now)))
    drawn = bar(state.progress, state.status) if state.progress is not None else ""
    tiles = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return (
        f'<header>{back}<h1>{escape(state.name)} {pill(state)}</h1><p class="sub">{escape(" · ".join(words))}</p>'
        f'{reason}{drawn}<dl class="facts">{tiles}</dl></header>'
    )


def curves_part(journal: Journal) -> str:
    """Return the curves of training and validations."""
    note = ""
    if journal.behind:
        note += f'<p class="note">Still reading metrics.jsonl: {size(journal.behind)} to go.</p>'
    if journal.damaged:
        note += f'<p class="note">{journal.damaged:,} lines of metrics.jsonl are no records.</p>'
    drawn = cards([*training_groups(journal), *validation_groups(journal)], journal.step)
    return note + (f'<div class="grid">{drawn}</div>' if drawn else '<p class="note">No step has been logged yet.</p>')


def vacuity_part(journal: Journal, ranks: RanksView) -> str:
    """Return vacuity over time, its distribution, and how well it finds errors."""
    return f'<div class="grid">{cards(vacuity_groups(journal), journal.step)}{distribution_card(ranks)}</div>'


def ranks_part(view: RanksView) -> str:
    """Return the table of ranks, with the one that the others wait for."""
    if view.problem:
        return f'<p class="note">Not available: {escape(view.problem, 300)}.</p>'
    own = sorted(one.own_seconds for one in view.ranks if one.own_seconds is not None)
    median = own[(len(own) - 1) // 2] if own else 0.0
    longest = own[-1] if own else 0.0
    has_memory = any(one.memory is not None for one in view.ranks)
    has_gpu = any(one.gpu_memory is not None for one in view.ranks)
    rows = []
    for one in view.ranks:
        if one.problem:
            rows.append(
                f'<tr><th scope="row">{one.rank}</th><td>{escape(one.node, 40)}</td>'
                f'<td colspan="7" class="bad">{escape(one.problem, 200)}</td></tr>'
            )
            continue
        slow = one.own_seconds is not None and len(own) > 1 and one.own_seconds > STRAGGLER * median > 0
        share = one.own_seconds / longest if one.own_seconds is not None and longest else 0.0
        devices = f"<td>{size(one.memory)}</td>" if has_memory else ""
        devices += f"<td>{percent(one.gpu_utilization)}</td><td>{size(one.gpu_memory)}</td>" if has_gpu else ""
        rows.append(
            f'<tr{" class=slow" if slow else ""}><th scope="row">{one.rank}</th><td>{escape(one.node, 40)}</td>'
            f"<td>{duration(one.step_seconds)}</td><td>{duration(one.own_seconds)}</td>"
            f'<td class="wide">{bar(share, "slow" if slow else "")}</td><td>{percent(one.waiting, 1)}</td>'
            f"<td>{percent(one.data_wait, 1)}</td>{devices}</tr>"
        )
    over = f"the last {duration(view.window)}" if view.window else "this start of the run"
    over += f", as written by {moment(view.written)}" if view.written else ""
    heads = ["Rank", "Node", "Step", "Own work", "", "Waits for ranks", "Waits for data"]
    heads += (["Memory"] if has_memory else []) + (["GPU busy", "GPU memory"] if has_gpu else [])
    columns = "".join(f'<th scope="col"{" class=wide" if not head else ""}>{head}</th>' for head in heads)
    return (
        f'<p class="note">Over {over}. A rank with more own work than the others is the one they wait for; '
        f"it is marked from {STRAGGLER} times the median.</p>"
        f'<div class="table"><table><thead><tr>{columns}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def pictures_part(sheets: Mapping[str, float], link: Link) -> str:
    """Return the last pictures of validations and evaluations.

    Args:
        sheets: when the picture of each evaluation was drawn, by its name.
        link: returns the address of a picture.
    """
    if not sheets:
        return '<p class="note">No validation has drawn a picture yet.</p>'
    shown = []
    for place, (name, drawn) in enumerate(sheets.items()):
        source = link(name, f"{drawn:.3f}")
        caption = f"{escape(name)} <small>drawn {moment(drawn)}</small>"
        later = ' loading="lazy"' if place else ""
        picture = f'<img src="{source}" alt="cases of {escape(name)}"{later}>'
        if not source.startswith("data:"):
            picture = f'<a href="{source}">{picture}</a>'
        shown.append(f'<figure class="sheet"><figcaption>{caption}</figcaption>{picture}</figure>')
    return "".join(shown)


def figures_part(journal: Journal) -> str:
    """Return the tables of all figures of the validations."""
    tables = []
    for validation in validations(journal):
        rows = "".join(
            f'<tr><th scope="row">{escape(name.replace("_", " "))}</th><td>{figure(one.last)}</td>'
            f"<td>{figure(one.lowest[0] if one.lowest else None)}</td>"
            f"<td>{figure(one.highest[0] if one.highest else None)}</td>"
            f"<td>{one.last_step:,}</td></tr>"
            for name, one in figures_of(journal, validation).items()
        )
        title = f"<h3>{escape(validation)}</h3>" if validation else ""
        tables.append(
            f'{title}<div class="table"><table><thead><tr><th scope="col">Figure</th><th scope="col">last</th>'
            '<th scope="col">lowest</th><th scope="col">highest</th><th scope="col">at step</th></tr></thead>'
            f"<tbody>{rows}</tbody></table></div>"
        )
    return "".join(tables) or '<p class="note">There was no validation yet.</p>'


def config_part(config: bytes | None) -> str:
    """Return the resolved configuration."""
    if config is None:
        return '<p class="note">config.toml cannot be read.</p>'
    text = config.decode(errors="replace")
    lines = "\n".join(escape(line, 500) for line in text[:MAX_CONFIG].splitlines())
    return f"<details><summary>config.toml</summary><pre>{lines}</pre></details>"
