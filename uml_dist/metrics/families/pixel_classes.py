"""Metrics of pixel classes, of images and of volumes: likelihood, overlap, calibration and detection of errors."""

from collections.abc import Iterable, Iterator, Mapping
from math import log
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from uml_shards.format.manifest import Manifest
from uml_shards.sample import IGNORE

from ...batch import Batch, Prediction
from ...errors import UmlError
from .. import weighted
from ..columns import Columns
from ..histograms import calibration_histogram, score_histogram
from ..weighted import Metric
from .family import Definition, MetricFamily

OVERLAP = {
    "dice": Definition("mean of the Dice coefficients of the classes but the background", by_empty_masks=True),
    "dice_present": Definition(
        "mean of the Dice coefficients of the classes but the background, each over the cases whose mask contains it"
    ),
    "dice_": Definition("2 |A and B| / (|A| + |B|) of a class, mean over masked cases", by_empty_masks=True),
    "iou": Definition("mean of the IoU of the classes but the background", by_empty_masks=True),
    "iou_": Definition("|A and B| / |A or B| of a class, mean over masked cases", by_empty_masks=True),
}
"""Metrics of overlap, of classes and of lesions."""


class PixelClasses(MetricFamily):
    """The segmentation into classes of which every pixel has one. Masked cases only.

    The detection of errors is formed from bins of the uncertainty. It is within 1e-3 of that from the pixels where the
    evidence of the pixels spreads by a fifth or more (standard deviation), within 5e-3 where it spreads by a tenth.
    """

    likelihood = "pixel_nll"
    definitions: ClassVar[Mapping[str, Definition]] = {
        "pixel_nll": Definition(
            "negative log-likelihood of the pixels in nats, mean over masked cases of the mean over pixels",
            lower_is_better=True,
        ),
        **OVERLAP,
        "pixel_ece": Definition(
            "expected calibration error of the most probable pixel class in 15 bins, over all pixels",
            lower_is_better=True,
            biased=True,
        ),
        "pixel_error_auroc_vacuity": Definition(
            "area under the ROC curve of the pixel vacuity as a sign that the pixel is wrong, over all pixels, in 1024 "
            "bins of ln(u / (1 - u))"
        ),
        "pixel_error_auroc_entropy": Definition("the same of the entropy of the pixel probability"),
    }

    def columns(self, batch: Batch, prediction: Prediction, manifest: Manifest) -> Mapping[str, Tensor]:
        """Return likelihood and areas of each case, and histograms of its pixels; see `pixel_columns`.

        Raises:
            UmlError: the masks of the split overlap, so a pixel may have several classes.
        """
        if prediction.pixel_probability is None:
            return {}
        if manifest.mask_names:
            raise UmlError(
                f"the masks of {manifest.dataset} {manifest.split} overlap, but the recipe predicts one class per pixel"
            )
        return pixel_columns(prediction, batch.mask)

    def metrics(self, columns: Columns) -> Iterator[tuple[str, Metric]]:
        """Yield the metrics of the masked cases."""
        if not columns.has("pixel_nll") or not columns.masked.any():
            return
        yield "pixel_nll", weighted.mean(columns.column("pixel_nll"), columns.masked)
        yield from overlap_metrics(columns)
        if "pixel_calibration" in columns.cases.sums:
            yield "pixel_ece", weighted.pooled_calibration_error("pixel_calibration")
        for kind in ("vacuity", "entropy"):
            if f"{kind}_histogram" in columns.cases.sums:
                yield f"pixel_error_auroc_{kind}", weighted.pooled_auroc(f"{kind}_histogram")

    def requirements(self, manifest: Manifest) -> Mapping[str, str]:
        """All metrics need a mask."""
        if manifest.mask_names:
            return {}
        masks = "" if manifest.masked else "an image with a mask"
        names = ["pixel_nll", *overlap_names(manifest.mask_classes[1:])]
        return dict.fromkeys([*names, "pixel_ece", "pixel_error_auroc_vacuity", "pixel_error_auroc_entropy"], masks)

    def table(self, columns: Columns) -> Mapping[str, Iterable[Any]]:
        """Return mean vacuity and likelihood of the pixels, and the predicted area and the overlap of each class."""
        table: dict[str, Iterable[Any]] = {
            name: columns.column(name) for name in ("pixel_vacuity", "pixel_nll") if columns.has(name)
        }
        for number, name in columns.foreground if columns.has("pixel_nll") else ():
            table[f"area_{name}"] = columns.column(f"area_{number}")
            table[f"dice_{name}"], table[f"iou_{name}"] = columns.overlap(number)
        return table


def overlap_names(names: Iterable[str]) -> list[str]:
    """Return the metrics of overlap: Dice and IoU, their means and each class, and Dice where a class is present."""
    names = list(names)
    means = {"dice": ("dice", "dice_present"), "iou": ("iou",)}
    return [name for kind, of in means.items() if names for name in (*of, *(f"{kind}_{name}" for name in names))]


def overlap_metrics(columns: Columns) -> Iterator[tuple[str, Metric]]:
    """Yield the mean Dice, also of present classes alone, the Dice of each class or lesion, and the same of the IoU."""
    overlaps = [columns.overlap(number) for number, _ in columns.foreground]
    for kind, which in (("dice", 0), ("iou", 1)):
        each = [weighted.mean(overlap[which], np.isfinite(overlap[which])) for overlap in overlaps]
        if each:
            yield kind, weighted.mean_of(each)
        if each and kind == "dice":
            present = [columns.column(f"true_{number}") > 0 for number, _ in columns.foreground]
            dices = [overlap[which] for overlap in overlaps]
            yield "dice_present", weighted.mean_of(list(map(weighted.mean, dices, present)))
        for (_, name), metric in zip(columns.foreground, each, strict=True):
            yield f"{kind}_{name}", metric


def pixel_columns(prediction: Prediction, mask: Tensor) -> dict[str, Tensor]:
    """Return the figures of each case of a batch from its pixels; those with mask 255 count nowhere.

    Args:
        prediction: has a pixel probability (B, C, *S), where S is H, W or H, W, D.
        mask: (B, *S) uint8.

    Returns:
        `pixels` that count; `pixel_nll`, their mean negative log-likelihood in nats, NaN without any; for each class c
        `intersection_c`, `predicted_c` and `true_c` pixels, and `area_c`, the share of all pixels that are predicted to
        be of the class, whether they count or not, all (B,) and of the prediction's `pixel_class`. Of its probability:
        `pixel_calibration` (B, bins, 3), the number, sum of confidences and hits by confidence; `entropy_histogram` and
        `vacuity_histogram` (B, 2, bins) int32, right and wrong pixels by uncertainty, entropies divided by the largest,
        ln C.
    """
    assert prediction.pixel_probability is not None
    probability = prediction.pixel_probability.float()
    valid = mask != IGNORE
    target = torch.where(valid, mask, 0).long()
    confidence, most_probable = probability.max(1)
    hit = (most_probable == target) & valid
    predicted = prediction.pixel_class
    columns = {"pixels": valid.flatten(1).sum(1)}
    of_target = probability.gather(1, target[:, None])[:, 0]
    nll = torch.where(valid, -of_target.clamp(min=1e-12).log(), 0.0).flatten(1).sum(1)
    columns["pixel_nll"] = torch.where(columns["pixels"] > 0, nll / columns["pixels"], torch.nan)
    for number in range(probability.shape[1]):
        is_predicted = (predicted == number) & valid
        is_true = (target == number) & valid
        columns[f"intersection_{number}"] = (is_predicted & is_true).flatten(1).sum(1)
        columns[f"predicted_{number}"] = is_predicted.flatten(1).sum(1)
        columns[f"true_{number}"] = is_true.flatten(1).sum(1)
        columns[f"area_{number}"] = (predicted == number).flatten(1).float().mean(1)
    columns["pixel_calibration"] = calibration_histogram(confidence, hit, valid)
    entropy = prediction.pixel_entropy
    if entropy is not None and probability.shape[1] > 1:
        columns["entropy_histogram"] = score_histogram(entropy.float() / log(probability.shape[1]), ~hit, valid)
    if prediction.pixel_vacuity is not None:
        columns["vacuity_histogram"] = score_histogram(prediction.pixel_vacuity.float(), ~hit, valid)
        columns["pixel_vacuity"] = prediction.pixel_vacuity.float().flatten(1).mean(1)
    return columns
