"""Reliability: how often predictions of each confidence are right."""

import numpy as np

from ..metrics.columns import Columns
from ..metrics.histograms import CALIBRATION_BINS
from ..metrics.weighted import Floats
from ..watch.curves import card, swatch
from .diagrams import reliability_diagram
from .parts import value

NORMAL = 1.96
"""Standard deviations of an interval of 95 %."""

KINDS = (
    ("image", "Class of the image", "image_ece", "labelled cases"),
    ("pixel", "All pixels", "pixel_ece", "pixels"),
    ("border", "Pixels along the border", "pixel_ece_border", "pixels"),
)


def confidence_bins(columns: Columns) -> dict[str, Floats]:
    """Return (bins, 3), number, sum of confidences and hits by confidence: of "image", "pixel" and "border".

    Those of the image are of the labelled cases; kinds that these cases do not have are left out.
    """
    found: dict[str, Floats] = {}
    labelled = columns.labelled
    if labelled.any() and columns.has("image_nll"):
        confidence = columns.probability.max(1)[labelled]
        right = (columns.predicted == columns.label)[labelled].astype(np.float64)
        place = np.minimum(np.nan_to_num(confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
        weights = (None, confidence, right)
        found["image"] = np.stack([np.bincount(place, one, CALIBRATION_BINS) for one in weights], axis=1).astype(float)
    for kind, name in (("pixel", "pixel_calibration"), ("border", "border_calibration")):
        sums = columns.cases.sums.get(name)
        if sums is not None and sums[0, :, 0].any():
            found[kind] = sums[0]
    return found


def wilson(bins: Floats) -> Floats:
    """Return 95 % intervals (bins, 2) of the share of hits in each bin, by Wilson's formula; NaN in empty bins."""
    number, hits = bins[:, 0], bins[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        share, size = hits / number, NORMAL**2 / number
        middle = share + size / 2
        half = np.sqrt(size * (share * (1 - share) + size / 4))
        return np.stack([middle - half, middle + half], axis=1) / (1 + size)[:, None]


def calibration_part(columns: Columns, metrics: dict[str, float]) -> str:
    """Return the reliability diagrams, with the numbers in their bins; "" where nothing is known."""
    bins = confidence_bins(columns)
    cards = []
    for colour, (kind, title, metric, unit) in enumerate(KINDS):
        if kind not in bins or not np.isfinite(bins[kind]).all():  # predictions that are not numbers
            continue
        spread = wilson(bins[kind]) if kind == "image" else None
        svg = reliability_diagram(f"reliability-{kind}", bins[kind], colour, spread)
        error = f"<b>{value(metrics[metric])}</b>" if metric in metrics else ""
        total = f"{bins[kind][:, 0].sum():,.0f} {unit}"
        legend = f'<ul class="legend"><li>{swatch(colour)}<span>calibration error</span>{error}</li></ul>'
        cards.append(card(title, total, svg, legend + _bin_table(bins[kind], unit)))
    return f'<div class="grid thirds">{"".join(cards)}</div>' if cards else ""


def _bin_table(bins: Floats, unit: str) -> str:
    width = 1 / len(bins)
    rows = "".join(
        f'<tr><th scope="row">{place * width:.2f} to {(place + 1) * width:.2f}</th><td>{number:,.0f}</td>'
        f"<td>{confidence / number:.3f}</td><td>{hits / number:.3f}</td></tr>"
        for place, (number, confidence, hits) in enumerate(bins)
        if number
    )
    return (
        '<details class="inner"><summary>Numbers in the bins</summary><table><thead><tr><th scope="col">Confidence</th>'
        f'<th scope="col">{unit}</th><th scope="col">mean confidence</th><th scope="col">right</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></details>"
    )
