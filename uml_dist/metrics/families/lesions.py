"""Metrics of lesions, which may overlap: every lesion has a mask and a probability of its own."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from uml_shards.format.manifest import Manifest
from uml_shards.sample import IGNORE

from ...batch import Batch, Prediction
from .. import weighted
from ..columns import Columns
from ..weighted import Metric
from .family import Definition, MetricFamily
from .pixel_classes import OVERLAP, overlap_metrics, overlap_names


class Lesions(MetricFamily):
    """The segmentation of L lesions by named masks. Masked cases only; the names of Dice and IoU are `PixelClasses`'s.

    A pixel is predicted to belong to a lesion from a probability of 0.5 on, or from the prediction's threshold on.
    """

    likelihood = "lesion_nll"
    definitions: ClassVar[Mapping[str, Definition]] = {
        "lesion_nll": Definition(
            "binary negative log-likelihood of the pixels in nats, mean over masked cases of the mean over pixels and "
            "lesions",
            lower_is_better=True,
        ),
        **OVERLAP,
    }

    def columns(self, batch: Batch, prediction: Prediction, manifest: Manifest) -> Mapping[str, Tensor]:
        """Return likelihood and areas of each case; lesion l has the areas `intersection_l` and so on."""
        lesions = prediction.lesions
        if prediction.lesion_probability is None or lesions is None or not manifest.mask_names:
            return {}
        probability, valid = prediction.lesion_probability.float(), batch.mask != IGNORE
        target = (batch.mask == 1) & valid
        predicted = lesions & valid
        counted = valid.flatten(1).sum(1)
        of_target = torch.where(target, probability, 1.0 - probability)
        nll = torch.where(valid, -of_target.clamp(min=1e-12).log(), 0.0).flatten(1).sum(1)
        columns = {"pixels": counted, "lesion_nll": torch.where(counted > 0, nll / counted, torch.nan)}
        for number in range(probability.shape[1]):
            columns[f"intersection_{number}"] = (predicted & target)[:, number].flatten(1).sum(1)
            columns[f"predicted_{number}"] = predicted[:, number].flatten(1).sum(1)
            columns[f"true_{number}"] = target[:, number].flatten(1).sum(1)
        return columns

    def metrics(self, columns: Columns) -> Iterator[tuple[str, Metric]]:
        """Yield the metrics of the masked cases."""
        if not columns.has("lesion_nll") or not columns.masked.any():
            return
        yield "lesion_nll", weighted.mean(columns.column("lesion_nll"), columns.masked)
        yield from overlap_metrics(columns)

    def requirements(self, manifest: Manifest) -> Mapping[str, str]:
        """All metrics need a mask."""
        if not manifest.mask_names:
            return {}
        masks = "" if manifest.masked else "an image with a mask"
        return dict.fromkeys(["lesion_nll", *overlap_names(manifest.mask_names)], masks)

    def table(self, columns: Columns) -> Mapping[str, Iterable[Any]]:
        """Return the likelihood, and the overlap of each lesion."""
        if not columns.has("lesion_nll"):
            return {}
        table: dict[str, Iterable[Any]] = {"lesion_nll": columns.column("lesion_nll")}
        for number, name in columns.foreground:
            table[f"dice_{name}"], table[f"iou_{name}"] = columns.overlap(number)
        return table
