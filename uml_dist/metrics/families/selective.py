"""What the uncertainty is worth: the risk that is left if the most uncertain cases are referred to a person."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from uml_shards.format.manifest import Manifest

from ...batch import Batch, Prediction
from ..columns import Columns
from ..image_scores import AGGREGATIONS, UNCERTAINTIES, column_of, image_scores
from ..risk_coverage import COVERAGE, RiskCoverage
from ..weighted import Flags, Floats, Metric
from .family import Definition, MetricFamily

KINDS = {
    "augrc": "area under the generalised risk-coverage curve: mean over all coverages of the summed {risk} of the most "
    "certain cases, divided by all cases; at most 1/2",
    "aurc": "area under the risk-coverage curve: mean over k of the mean {risk} of the k most certain cases",
    "error_at_80": f"mean {{risk}} of the {100 * COVERAGE:.0f} % most certain cases",
}
"""Figures of the curve of risk over coverage; the first one is the headline."""

IMAGE_RISK = "error of the image class"
MASK_RISK = "1 - Dice"


def _definitions() -> dict[str, Definition]:
    found = {}
    for kind, text in KINDS.items():
        for name in UNCERTAINTIES:
            what = f"{text.format(risk=IMAGE_RISK)}, by the {name} of the image"
            found[f"image_{kind}_{name}"] = Definition(what, lower_is_better=True)
    for kind, text in KINDS.items():
        for name in UNCERTAINTIES:
            for aggregation, how in AGGREGATIONS.items():
                what = f"{text.format(risk=MASK_RISK)}, by the {name} of the pixels: {how}"
                found[f"mask_{kind}_{name}_{aggregation}"] = Definition(what, lower_is_better=True, by_empty_masks=True)
    return found


class Selective(MetricFamily):
    """Risk and coverage of images by their uncertainty, and of masks by three aggregations of that of the pixels."""

    definitions: ClassVar[Mapping[str, Definition]] = _definitions()

    def columns(self, batch: Batch, prediction: Prediction, manifest: Manifest) -> Mapping[str, Tensor]:
        """Return the uncertainties of the images from their maps; see `image_scores`."""
        return image_scores(prediction)

    def metrics(self, columns: Columns) -> Iterator[tuple[str, Metric]]:
        """Yield the metrics of the labelled cases, then of the masked ones."""
        for level, curves in risk_coverage(columns).items():
            for kind in KINDS:
                for name, curve in curves.items():
                    metric = {"augrc": curve.augrc, "aurc": curve.aurc, "error_at_80": curve.risk_at_coverage}[kind]
                    yield f"{level}_{kind}_{name}", metric

    def requirements(self, manifest: Manifest) -> Mapping[str, str]:
        """Those of images need a label, those of masks a mask."""
        needs = {}
        if manifest.classes:
            needs["image_"] = "" if manifest.labelled else "an image with a label"
        if manifest.mask_names or manifest.mask_classes[1:]:
            needs["mask_"] = "" if manifest.masked else "an image with a mask"
        return {name: lack for begin, lack in needs.items() for name in self.definitions if name.startswith(begin)}

    def table(self, columns: Columns) -> Mapping[str, Iterable[Any]]:
        """Return the entropy of the image and the uncertainties from the maps, by which cases are referred."""
        table: dict[str, Iterable[Any]] = {}
        if columns.has("image_nll"):
            table["image_entropy"] = columns.entropy
        names = (column_of(name, how) for name in UNCERTAINTIES for how in AGGREGATIONS)
        return table | {name: columns.column(name) for name in names if columns.has(name)}


def risk_coverage(columns: Columns) -> dict[str, dict[str, RiskCoverage]]:
    """Return the curves of risk and coverage: "image" or "mask", where there is a risk -> uncertainty -> curve."""
    found: dict[str, dict[str, RiskCoverage]] = {}
    if columns.labelled.any() and columns.has("image_nll"):
        wrong = (columns.predicted != columns.label).astype(np.float64)
        scores = {"vacuity": columns.column("image_vacuity"), "entropy": columns.entropy}
        if not columns.has("image_vacuity"):
            del scores["vacuity"]
        found["image"] = _curves(wrong, scores, columns.labelled)
    if columns.masked.any() and columns.foreground:
        named = {f"{name}_{how}": column_of(name, how) for name in UNCERTAINTIES for how in AGGREGATIONS}
        scores = {name: columns.column(column) for name, column in named.items() if columns.has(column)}
        found["mask"] = _curves(1.0 - columns.dice, scores, np.isfinite(columns.dice))
    return found


def _curves(risk: Floats, scores: Mapping[str, Floats], counted: Flags) -> dict[str, RiskCoverage]:
    return {name: RiskCoverage(risk, score, counted) for name, score in scores.items()}
