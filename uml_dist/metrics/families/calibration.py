"""Calibration beyond the expected error: Brier scores, and the pixels along the boundary of the mask."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from uml_shards.format.manifest import Manifest
from uml_shards.sample import IGNORE

from ...batch import Batch, Prediction
from .. import weighted
from ..borders import border
from ..columns import Columns
from ..histograms import calibration_histogram
from ..weighted import Metric
from .family import Definition, MetricFamily

BAND = 3
"""Half the width of the band along the boundary of the mask, in pixels."""


class Calibration(MetricFamily):
    """Brier scores of images, pixels and lesions, and the calibration error in a band along the boundary of the mask.

    Most pixels are far from any boundary, where they are easy, so an error over all of them can hide that the others
    are badly calibrated.
    """

    definitions: ClassVar[Mapping[str, Definition]] = {
        "image_brier": Definition(
            "Brier score: sum over the classes of (probability - truth)^2, 0 to 2, mean over labelled cases",
            lower_is_better=True,
        ),
        "pixel_brier": Definition(
            "the same of the pixels, mean over masked cases of the mean over pixels", lower_is_better=True
        ),
        "lesion_brier": Definition(
            "(probability - truth)^2, mean over masked cases of the mean over pixels and lesions", lower_is_better=True
        ),
        "pixel_ece_border": Definition(
            "expected calibration error of the most probable pixel class in 15 bins, over all pixels that have another "
            f"class of the mask at most {BAND} pixels away along each axis",
            lower_is_better=True,
            biased=True,
        ),
    }

    def columns(self, batch: Batch, prediction: Prediction, manifest: Manifest) -> Mapping[str, Tensor]:
        """Return the Brier scores of each case's pixels or lesions, and `border_calibration` (B, bins, 3)."""
        valid, columns = batch.mask != IGNORE, {}
        if prediction.pixel_probability is not None and not manifest.mask_names:
            probability, target = prediction.pixel_probability.float(), torch.where(valid, batch.mask, 0).long()
            of_target = probability.gather(1, target[:, None])[:, 0]
            columns["pixel_brier"] = _mean(probability.square().sum(1) - 2.0 * of_target + 1.0, valid)
            confidence, most_probable = probability.max(1)
            band = border(target, valid, BAND)
            columns["border_calibration"] = calibration_histogram(confidence, most_probable == target, band)
        if prediction.lesion_probability is not None and manifest.mask_names:
            error = prediction.lesion_probability.float() - (batch.mask == 1).float()
            columns["lesion_brier"] = _mean(error.square(), valid)
        return columns

    def metrics(self, columns: Columns) -> Iterator[tuple[str, Metric]]:
        """Yield the metrics of the labelled and of the masked cases."""
        if columns.labelled.any() and columns.has("image_nll"):
            truth = columns.label[:, None] == np.arange(len(columns.manifest.classes))
            score = ((columns.probability - truth) ** 2).sum(1)
            yield "image_brier", weighted.mean(score, columns.labelled)
        if not columns.masked.any():
            return
        for name in ("pixel_brier", "lesion_brier"):
            if columns.has(name):
                yield name, weighted.mean(columns.column(name), columns.masked)
        if "border_calibration" in columns.cases.sums:
            yield "pixel_ece_border", weighted.pooled_calibration_error("border_calibration")

    def requirements(self, manifest: Manifest) -> Mapping[str, str]:
        """The score of images needs a label, the others a mask."""
        lacks: dict[str, str] = {}
        if manifest.classes:
            lacks["image_brier"] = "" if manifest.labelled else "an image with a label"
        names = ["lesion_brier"] if manifest.mask_names else ["pixel_brier", "pixel_ece_border"]
        return lacks | dict.fromkeys(names, "" if manifest.masked else "an image with a mask")

    def table(self, columns: Columns) -> Mapping[str, Iterable[Any]]:
        """Return the Brier score of the pixels, or of the lesions."""
        names = ("pixel_brier", "lesion_brier")
        return {name: columns.column(name) for name in names if columns.has(name)}


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean (B,) of the values that count; NaN without any."""
    number = valid.flatten(1).sum(1)
    return torch.where(number > 0, torch.where(valid, values, 0.0).flatten(1).sum(1) / number, torch.nan)
