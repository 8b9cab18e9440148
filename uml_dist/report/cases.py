"""Cases of a report: the best, the median, the worst and the most uncertain ones, with pictures and figures."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.cm import ScalarMappable
from PIL import Image

from uml_shards.read.stream import Stream

from ..evaluate import Evaluation, PredictionSource
from ..evaluate.examples import Example, predict_examples
from ..evaluate.results import case_table
from ..evaluate.sheet import Picture, class_colour, legend_of, panels_of, small_png, vacuity_scale
from ..metrics.columns import Columns
from ..metrics.image_scores import UNCERTAINTIES, column_of
from ..metrics.weighted import Flags, Floats
from ..watch.text import escape
from .names import title_of

EACH = 3
"""Cases of each kind."""

SIDE = 320
"""Longest side of a picture in pixels."""

LEAST = 96
"""Length in pixels to which the longest side of a smaller picture is enlarged."""

MOST_CLASSES = 12
"""Most pixel classes in a legend, and of which a case shows figures."""

FIGURES = ("dice_", "hd95_", "image_vacuity", "image_entropy", "map_vacuity_mean", "map_entropy_mean")
"""Beginnings of the columns of cases.csv that are shown beside a case."""


@dataclass(frozen=True)
class Choice:
    """Cases of one kind.

    Attributes:
        title: which cases they are, of ours.
        note: by what they were chosen, of ours.
        rows: their rows among all cases.
    """

    title: str
    note: str
    rows: tuple[int, ...]


def choices(columns: Columns) -> list[Choice]:
    """Return the best, median and worst cases, the most uncertain ones, and the least uncertain ones that are wrong.

    By the Dice of each case, or else by the likelihood of its label; equals are in the order of their keys.
    """
    found = []
    quality, by, counted = _quality(columns)
    order = [int(row) for row in np.argsort(-quality, kind="stable") if counted[row]]
    if len(order) >= 3:
        each = min(EACH, len(order) // 3)
        middle = (len(order) - each) // 2
        found += [
            Choice("Best", by, tuple(order[:each])),
            Choice("Median", by, tuple(order[middle : middle + each])),
            Choice("Worst", by, tuple(order[: -each - 1 : -1])),
        ]
    score, name = _uncertainty(columns)
    if score is not None:
        ranked = [int(row) for row in np.argsort(-score, kind="stable")]
        found.append(Choice("Most uncertain", f"by the {name}", tuple(ranked[:EACH])))
        if columns.has("image_nll"):
            wrong = columns.labelled & (columns.predicted != columns.label)
            certain = [row for row in reversed(ranked) if wrong[row]]
            found.append(Choice("Wrong, yet most certain", f"wrong class, least {name}", tuple(certain[:EACH])))
    return [one for one in found if one.rows]


def _quality(columns: Columns) -> tuple[Floats, str, Flags]:
    """Return the quality (N,) of each case, what it is, and the cases that have one."""
    if columns.masked.any() and columns.foreground and np.isfinite(columns.dice).any():
        return np.nan_to_num(columns.dice), "by Dice", np.isfinite(columns.dice)
    likelihood = -columns.column("image_nll")
    return np.nan_to_num(likelihood, nan=-np.inf), "by the likelihood of the label", np.isfinite(likelihood)


def _uncertainty(columns: Columns) -> tuple[Floats | None, str]:
    """Return the uncertainty (N,) by which cases are ranked, and its name; None without any."""
    if columns.has("image_vacuity"):
        return columns.column("image_vacuity"), "vacuity of the image"
    if columns.has("image_nll"):
        return columns.entropy, "entropy of the image"
    for name in UNCERTAINTIES:
        if columns.has(column_of(name, "mean")):
            return columns.column(column_of(name, "mean")), f"mean {name} of the pixels"
    return None, ""


def cases_part(predictor: PredictionSource, stream: Stream, result: Evaluation, batch_size: int) -> str:
    """Return the chosen cases with their pictures, which are predicted again; "" if none can be chosen.

    Args:
        predictor: the recipe with its networks.
        stream: the split, in its own order.
        result: its evaluation.
        batch_size: samples per batch.
    """
    # Where a class is neither in the mask nor predicted, there is nothing to see.
    chosen = choices(Columns(result.cases, result.manifest, "leave-out"))
    rows = sorted({row for one in chosen for row in one.rows})
    if not rows:
        return ""
    examples = predict_examples(predictor, stream, result.cases.rows(rows), batch_size, result.empty, all_planes=True)
    planes = len(examples) // len(rows)
    of_row = {row: examples[place * planes : (place + 1) * planes] for place, row in enumerate(rows)}
    table = {name: list(column) for name, column in case_table(result).items()}
    scale = vacuity_scale(examples)
    drawn = {row: _card(row, given, examples, table, scale) for row, given in of_row.items()}
    groups = "".join(
        f"<h3>{one.title} <small>{one.note}</small></h3>{''.join(drawn[row] for row in one.rows)}" for one in chosen
    )
    return _legend(legend_of(result.manifest), examples, scale) + groups


def _card(
    row: int,
    given: Sequence[Example],
    examples: Sequence[Example],
    table: Mapping[str, Sequence[object]],
    scale: ScalarMappable,
) -> str:
    """Return the card of a case: key, figures, and a row of panels for each plane."""
    panels = panels_of(examples, scale)
    lines = []
    for example in given:
        shown = "".join(_panel(title, draw(example), example.aspect) for title, draw in panels.items())
        plane = f'<p class="plane">{escape(example.plane)}</p>' if example.plane else ""
        lines.append(f'{plane}<div class="panels">{shown}</div>')
    wrong = '<span class="wrong">wrong class</span>' if given[0].wrong else ""
    return (
        f'<figure class="case"><figcaption><code>{escape(table["key"][row], 60)}</code>{wrong}'
        f"{_figures(row, table)}</figcaption><div>{''.join(lines)}</div></figure>"
    )


def _figures(row: int, table: Mapping[str, Sequence[object]]) -> str:
    """Return the figures of a case: label and predicted class, Dice, distances and uncertainties."""
    parts = []
    if "prediction" in table:
        label, predicted = str(table["label"][row]), str(table["prediction"][row])
        probability = table.get(f"probability_{predicted}")
        share = f" {probability[row]:.2f}" if probability is not None else ""
        parts.append(f"{escape(label, 30) or '?'} → {escape(predicted, 30)}{share}")
    names = [name for start in FIGURES for name in table if name.startswith(start)]
    if "prediction" in table:  # the image's own uncertainties suffice
        names = [name for name in names if not name.startswith("map_")]
    for name in names[:MOST_CLASSES]:
        number = table[name][row]
        if isinstance(number, float) and math.isfinite(number):
            parts.append(f"{escape(title_of(name), 40)} {number:.2f}")
    return "".join(f"<span>{part}</span>" for part in parts)


def _panel(title: str, picture: Picture, aspect: float) -> str:
    image = Image.fromarray((np.clip(np.nan_to_num(picture), 0.0, 1.0) * 255).round().astype(np.uint8))
    # No axis is made smaller to have the true shape, and pixels are so many that rounding does not change it.
    height, width = image.height * max(aspect, 1.0), image.width * max(1.0 / aspect, 1.0)
    factor = min(SIDE / max(height, width), max(1.0, LEAST / max(height, width)))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    name = escape(title, 40)
    return f'<div><img src="{_address(small_png(image))}" alt="{name}"><small>{name}</small></div>'


def _legend(classes: Sequence[str], examples: Sequence[Example], scale: ScalarMappable) -> str:
    """Return the colours of the pixel classes, and the scale of the vacuity."""
    items = [
        f'<li><svg class="swatch" viewBox="0 0 1 1" aria-hidden="true"><rect width="1" height="1" '
        f'fill="{class_colour(number)}"/></svg><span>{escape(name, 40)}</span></li>'
        for number, name in list(enumerate(classes))[1 : MOST_CLASSES + 1]
    ]
    if len(classes) - 1 > MOST_CLASSES:
        items.append(f"<li><span>and {len(classes) - 1 - MOST_CLASSES} more</span></li>")
    if any(one.truth is not None for one in examples):
        items.append("<li><span>white line: outline of the reference mask</span></li>")
    if any(one.vacuity is not None for one in examples):
        ramp = np.asarray(scale.to_rgba(np.linspace(0.0, scale.norm.vmax or 1.0, 64)))[None, :, :3]
        picture = io.BytesIO()
        Image.fromarray((ramp * 255).round().astype(np.uint8)).save(picture, format="PNG")
        bar = f'<img class="ramp" src="{_address(picture.getvalue())}" alt="">'
        items.append(f"<li><span>vacuity 0</span>{bar}<span>{scale.norm.vmax:.2f}</span></li>")
    return f'<ul class="legend">{"".join(items)}</ul>'


def _address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
