"""The report of one evaluation: `evaluate.py --report`."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from uml_shards.durable import replace_text
from uml_shards.read.stream import Stream

from ..evaluate import Evaluation, PredictionSource
from ..metrics.columns import Columns
from ..metrics.summary import is_overlap
from ..watch.curves import cards, training_groups, vacuity_groups, validation_groups
from ..watch.files import read_bytes
from ..watch.journal import Journal
from ..watch.page import config_part, document
from ..watch.state import MAX_CONFIG
from ..watch.text import escape
from .calibration import calibration_part
from .cases import cases_part
from .confusion import counts_part
from .parts import (
    Section,
    body,
    claim_part,
    facts,
    interval,
    left_out_part,
    metric_tables,
    notes_list,
    style,
    tiles,
    value,
)
from .records import ceiling_of
from .selective import coverage_part

FILE = "report.html"

RELIABILITY = (
    "Of the predictions of a confidence, as large a share should be right: on the dashed line. Below it, predictions "
    "are overconfident. The lower panel has the number of predictions in each bin, on a logarithmic scale; the thin "
    "lines are 95 % intervals of the share of images (Wilson)."
)
COVERAGE = (
    "If the most uncertain cases are referred to a person, what is the risk of the others? A useful uncertainty lowers "
    "the curve as coverage falls. AURC is the mean over the coverages of the diagram of that name, AUGRC the area "
    "below its curve."
)
CASES = (
    "Chosen by a rule, not by hand; a case can be of several kinds. With label → predicted class and its probability. "
    "Pictures are in the size of the prediction; of volumes, the slice along each axis with the largest reference mask."
)


def write_report(
    folder: Path,
    record: Mapping[str, Any],
    result: Evaluation,
    predictor: PredictionSource,
    stream: Stream,
    run: Path,
    batch_size: int,
) -> Path:
    """Write report.html beside the metrics.json of an evaluation, and return its path.

    Args:
        folder: folder of the evaluation.
        record: the contents of its metrics.json.
        result: the evaluation.
        predictor: what predicted it, for the pictures of cases.
        stream: the split.
        run: the run folder, or the folder of exported weights.
        batch_size: samples per batch.
    """
    columns = Columns(result.cases, result.manifest, result.empty)
    metrics, perfect = record["metrics"], bool(record.get("ceiling"))
    evaluated = f"{record.get('shards') or record['dataset']} {record['split']}"
    sections = [
        Section("headline", "Headline", tiles(record), _interval_note(record)),
        Section("claim", "What the uncertainty can and cannot claim", claim_part(metrics)),
        Section("calibration", "Calibration", calibration_part(columns, metrics), RELIABILITY),
        Section("coverage", "Risk and coverage", coverage_part(columns, metrics), COVERAGE),
        Section("counts", "Confusion matrix and counts", counts_part(record["tables"]) + _counts(record)),
        Section("cases", "Cases", cases_part(predictor, stream, result, batch_size), CASES),
        Section("metrics", "All metrics", _tables(record, ceiling_of(folder, record["data_digest"]))),
        Section("training", "Training", "" if perfect else _curves(run), _evaluated_step(record)),
        Section("left-out", "Metrics that could not be formed", left_out_part(record)),
        Section("notes", "Rules and notes", notes_list(_notes(record))),
        Section("configuration", "Configuration and versions", _versions(record) + config_part(_config(run))),
    ]
    title = f"{'The perfect model' if perfect else record['run']} on {evaluated}"
    page = body(title, "Evaluation report", _head(record), sections)
    path = folder / FILE
    replace_text(path, document(title, page, live=False, more_style=style()))
    return path


def _head(record: Mapping[str, Any]) -> str:
    counts = record["counts"]
    cases = f"{counts['cases']:,}" + (f" of {counts['patients']:,} patients" if "patients" in counts else "")
    second = record.get("second_split")
    given = [
        ("Run", record["run"]),
        ("Recipe", record["recipe"]),
        ("Checkpoint", f"{record['checkpoint']}, {record['weights']} weights" if "checkpoint" in record else None),
        ("Data set", record["dataset"] + (f" in {record['shards']}" if "shards" in record else "")),
        ("Split", record["split"]),
        ("Cases", cases),
        ("With a label", f"{counts['labelled']:,}"),
        ("With a mask", f"{counts['masked']:,}"),
        ("Second split", f"{second['dataset']} {second['split']}, {second['cases']:,} images" if second else None),
        ("Data digest", record["data_digest"][:16]),
        ("Written", time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())),
    ]
    perfect = (
        '<p class="warn">These are the figures of the perfect model of generated data, not of the run.</p>'
        if record.get("ceiling")
        else ""
    )
    return perfect + facts(given)


def _interval_note(record: Mapping[str, Any]) -> str:
    level, kind = round(100 * record["interval"]["level"]), record["interval"]["kind"]
    return (
        f"With intervals of {level} % ({escape(kind)}, {record['interval']['draws']:,} draws). They cover the choice "
        "of the cases, not that of the training: for that, train several seeds."
    )


def _tables(record: Mapping[str, Any], ceiling: Mapping[str, float] | None) -> str:
    heads = ["Value", f"{round(100 * record['interval']['level'])} % interval"]
    if ceiling is not None:
        heads.append("Perfect model")
    cells = {
        name: [f"<b>{value(number)}</b>", interval(record["intervals"].get(name))]
        + ([] if ceiling is None else [value(ceiling.get(name))])
        for name, number in record["metrics"].items()
    }
    if not cells:
        return '<p class="note">None: there are no labels or masks, or the predictions are not numbers.</p>'
    return metric_tables(record, heads, cells)


def _counts(record: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name.replace("_", " ").capitalize(), 60)}</th><td>{count:,}</td></tr>'
        for name, count in record["counts"].items()
    )
    return (
        "<details><summary>All counts: cases, and classes that are empty in the mask or the prediction</summary>"
        f"<table><tbody>{rows}</tbody></table></details>"
    )


def _notes(record: Mapping[str, Any]) -> list[str]:
    notes = [f"{title.replace('_', ' ')}: {line}" for title, line in record["notes"].items()]
    if any(map(is_overlap, record["metrics"])):
        notes.append(f"empty masks: {record['empty_masks_rule']}")
    if record["interval"]["bias_corrected"]:
        names = ", ".join(record["interval"]["bias_corrected"])
        notes.append(f"{names}: larger in small samples, for which the interval is corrected")
    return notes


def _curves(run: Path) -> str:
    journal = Journal(run)
    journal.update(seconds=float("inf"))
    groups = [*training_groups(journal), *validation_groups(journal), *vacuity_groups(journal)]
    drawn = cards(groups, journal.step)
    return f'<div class="grid">{drawn}</div>' if drawn else ""


def _evaluated_step(record: Mapping[str, Any]) -> str:
    return f"Curves of the run up to its end; step {record['step']:,} is evaluated." if "step" in record else ""


def _versions(record: Mapping[str, Any]) -> str:
    return facts([(escape(name), version) for name, version in record["versions"].items()])


def _config(run: Path) -> bytes | None:
    return read_bytes(run, "config.toml", limit=MAX_CONFIG)
