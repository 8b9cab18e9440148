"""Metrics of the optic disc and its cup, as in the REFUGE challenge."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from uml_shards.format.manifest import Manifest
from uml_shards.sample import IGNORE

from ...batch import Batch, Prediction
from .. import weighted
from ..columns import Columns
from ..weighted import Metric
from .family import Definition, MetricFamily

RIM, CUP = "rim", "cup"
"""Names of the pixel classes. The disc is both of them: the rim is the disc without the cup."""


class OpticDisc(MetricFamily):
    """Overlap of the disc and error of the vertical cup-to-disc ratio, where the pixel classes have a rim and a cup.

    The overlaps of rim and cup are those of `PixelClasses`.
    """

    definitions: ClassVar[Mapping[str, Definition]] = {
        "dice_disc": Definition(
            "Dice of the optic disc, rim and cup together, mean over masked cases", by_empty_masks=True
        ),
        "iou_disc": Definition(
            "IoU of the optic disc, rim and cup together, mean over masked cases", by_empty_masks=True
        ),
        "cup_to_disc_error": Definition(
            "absolute error of the vertical cup-to-disc ratio, mean over the cases whose mask has a disc. A vertical "
            "diameter is the largest number of pixels in a column; without a predicted disc the ratio is 0",
            lower_is_better=True,
        ),
    }

    def columns(self, batch: Batch, prediction: Prediction, manifest: Manifest) -> Mapping[str, Tensor]:
        """Return areas of the disc, and the vertical cup-to-disc ratios of prediction and mask, NaN without a disc."""
        classes, numbers = prediction.pixel_class, _numbers(manifest)
        if classes is None or numbers is None:
            return {}
        rim, cup = numbers
        valid = batch.mask != IGNORE
        found, true = (((one == rim) | (one == cup)) & valid for one in (classes, batch.mask))
        columns = {
            f"{name}_disc": disc.flatten(1).sum(1)
            for name, disc in (("intersection", found & true), ("predicted", found), ("true", true))
        }
        columns["cup_to_disc"] = _ratio((classes == cup) & valid, found).nan_to_num(0.0)
        columns["true_cup_to_disc"] = _ratio(batch.mask == cup, true)
        return columns

    def metrics(self, columns: Columns) -> Iterator[tuple[str, Metric]]:
        """Yield the metrics of the masked cases."""
        if not columns.has("cup_to_disc") or not columns.masked.any():
            return
        for name, values in zip(("dice_disc", "iou_disc"), columns.overlap("disc"), strict=True):
            yield name, weighted.mean(values, np.isfinite(values))
        error = np.abs(columns.column("cup_to_disc") - columns.column("true_cup_to_disc"))
        yield "cup_to_disc_error", weighted.mean(error, columns.masked & np.isfinite(error))

    def requirements(self, manifest: Manifest) -> Mapping[str, str]:
        """All metrics need a mask; without the two classes there are none."""
        masks = "" if manifest.masked else "an image with a mask"
        return {} if _numbers(manifest) is None else dict.fromkeys(self.definitions, masks)

    def table(self, columns: Columns) -> Mapping[str, Iterable[Any]]:
        """Return Dice and IoU of the disc and both ratios."""
        if not columns.has("cup_to_disc"):
            return {}
        dice, iou = columns.overlap("disc")
        ratios = {name: columns.column(name) for name in ("cup_to_disc", "true_cup_to_disc")}
        return {"dice_disc": dice, "iou_disc": iou, **ratios}


def _numbers(manifest: Manifest) -> tuple[int, int] | None:
    """Return the class numbers of rim and cup; None of other classes, or of volumes."""
    names = manifest.mask_classes
    if RIM not in names or CUP not in names or "disc" in names or manifest.dimensions != 2:
        return None
    return names.index(RIM), names.index(CUP)


def _ratio(cup: Tensor, disc: Tensor) -> Tensor:
    """Return the ratio (B,) of vertical diameters of masks (B, H, W); NaN without a disc."""
    of_cup, of_disc = (mask.sum(1).amax(1).double() for mask in (cup, disc))
    return torch.where(of_disc > 0, of_cup / of_disc, torch.nan)
