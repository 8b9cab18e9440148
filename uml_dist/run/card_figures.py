"""The figures of a model card: tests with intervals, the analysis of failures, and tables of all other metrics."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from uml_shards.text import markdown, markdown_code

from ..metrics.headline import HEADLINE, headline
from ..metrics.summary import EMPTY_RULES, is_overlap

Record = Mapping[str, Any]

FAILURES = (
    *("image_error_auroc_", "pixel_error_auroc_", "image_error_at_80_", "mask_error_at_80_vacuity_mean"),
    *("mask_error_at_80_entropy_mean", "surface_failures", "ood_auroc_"),
)
"""Beginnings of the names of metrics that tell how errors, and images of a second split, are found by uncertainty, and
how often a class is missed."""

LARGEST_MATRIX = 12
"""Most rows of a table of counts that is shown; metrics.json has it in any case."""


def is_external(record: Record) -> bool:
    """Whether an evaluation is of another data set than that of the training."""
    return "shards" in record


def data_of(record: Record) -> str:
    """Return the data set and split of an evaluation."""
    return f"{record.get('shards') or record.get('dataset')}, {record.get('split')}"


def first_of(record: Record) -> list[str]:
    """Return the headline metrics of an evaluation; of a recipe that has none of them, those that come first."""
    return headline(record["metrics"]) or list(record["metrics"])[: len(HEADLINE)]


def tested(evaluations: Iterable[Record], none: str) -> list[str]:
    """Return the headline figures of evaluations.

    Args:
        evaluations: their records.
        none: what is stated without any.
    """
    return list(map(_test, evaluations)) or [none]


def _test(record: Record) -> str:
    shards = f" (another data set, {record['shards']})" if is_external(record) else ""
    title = f"Evaluation on {record.get('dataset')}{shards}, split {record.get('split')}{_weights(record)}"
    names = first_of(record)
    notes = "".join(f"\n\n{markdown(f'{key}: {line}')}." for key, line in record.get("notes", {}).items())
    text = f"{markdown(title)}. {_cases(record)}\n\n{_metrics(record, names)}{notes}{_empty_masks(record, names)}"
    return text + "".join(f"\n\n{_matrix(name, one)}" for name, one in record.get("tables", {}).items() if _fits(one))


def _cases(record: Record) -> str:
    """Return how many cases, and patients, an evaluation has, and what its intervals are of."""
    counts, interval = record.get("counts", {}), record.get("interval", {})
    number, patients = counts.get("cases"), counts.get("patients")
    of = "" if number is None else f"{number} cases" + (f" of {patients} patients. " if patients else ". ")
    draws = f" ({interval['draws']} draws)" if interval.get("draws") else ""
    unit = "patients, each with all cases" if patients else "cases"
    return f"{of}Bootstrap intervals{draws} over {unit}:"


def tuned(validation: Record, selection: str, metrics: Sequence[str]) -> str:
    """Return the headline figures of the validation that a checkpoint was chosen by, and those that chose it.

    Args:
        validation: step, metrics and rule for empty masks of the last validation; may be empty.
        selection: what the best checkpoint is chosen by.
        metrics: the metrics in it.
    """
    if not validation:
        return "None: the run was not validated."
    figures = validation["metrics"]
    names = [*(name for name in dict.fromkeys((selection, *metrics)) if name in figures), *headline(figures)]
    rows = [(name, _number(figures[name])) for name in dict.fromkeys(names)]
    title = f"Validation at step {validation['step']}{markdown(_weights(validation))}; "
    title += f"the best checkpoint is chosen by {markdown_code(selection)}:"
    return f"{title}\n\n{table(('metric', 'value'), rows)}{_empty_masks(validation, names)}"


def failures(evaluations: Iterable[Record]) -> list[str]:
    """Return how errors of the tests are found by uncertainty, and how other data are told apart."""
    parts = []
    for record in evaluations:
        names = [name for name in record["metrics"] if name.startswith(FAILURES)]
        if names:
            other = record.get("second_split")
            against = f"; the outliers are {other.get('dataset')}, {other.get('split')}" if other else ""
            title = f"How errors are found by uncertainty on {data_of(record)}{against}:"
            parts.append(f"{markdown(title)}\n\n{_metrics(record, names)}")
    cases = "`cases.csv` of each evaluation has a row for each case, and `sheet.png` shows a dozen."
    return [*(parts or ["No figure was recorded of how errors are found by uncertainty."]), cases]


def others(evaluations: Iterable[Record]) -> list[str]:
    """Return tables of the metrics of evaluations that no other part of the card has."""
    parts = []
    for record in evaluations:
        first = first_of(record)
        names = [name for name in record["metrics"] if name not in first and not name.startswith(FAILURES)]
        if names:
            parts.append(f"{markdown(data_of(record))}:\n\n{_metrics(record, names)}{_empty_masks(record, names)}")
    return parts


def _metrics(record: Record, names: Iterable[str]) -> str:
    """Return metrics with intervals and definitions."""
    definitions = record.get("definitions", {})
    level = record.get("interval", {}).get("level")
    head = ("metric", "value", f"{100 * level:.0f} % interval" if level else "interval", "definition")
    return table(head, [(name, *_figure(record, name), definitions.get(name, "")) for name in names])


def _figure(record: Record, name: str) -> tuple[str, str]:
    ends = record.get("intervals", {}).get(name)
    return _number(record["metrics"][name]), " to ".join(map(_number, ends)) if ends else ""


def _fits(counted: Record) -> bool:
    return len(counted["rows"]) <= LARGEST_MATRIX


def _matrix(name: str, counted: Record) -> str:
    """Return a table of counts, such as the confusion matrix."""
    rows = [(title, *map(str, values)) for title, values in zip(counted["rows"], counted["values"], strict=True)]
    title = markdown(f"{name.replace('_', ' ').capitalize()}: {counted['text']}.")
    return f"{title}\n\n{table(('', *counted['columns']), rows)}"


def _weights(record: Record) -> str:
    """Return a note on the weights that were evaluated; empty where they are not known."""
    return f", {record['weights']} weights" if record.get("weights") else ""


def _empty_masks(record: Record, names: Iterable[str]) -> str:
    """Return a note on the rule for empty masks; empty where no metric depends on it or the rule is unknown."""
    rule = record.get("empty_masks")
    if not rule or not any(map(is_overlap, names)):
        return ""
    return f"\n\nEmpty masks: {markdown(EMPTY_RULES.get(rule, str(rule)))}."


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as Markdown, with all text quoted."""
    lines = [list(map(markdown, head)), ["---"] * len(head), *([markdown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
