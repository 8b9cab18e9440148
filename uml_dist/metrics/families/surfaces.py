"""Distances between the surfaces of mask and prediction, of pixel classes and of lesions."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from uml_shards.format.manifest import Manifest
from uml_shards.sample import IGNORE

from ...batch import Batch, Prediction
from .. import weighted
from ..columns import Columns
from ..weighted import Flags, Metric
from .family import Definition, MetricFamily

Unit = Literal["mm", "voxel"]
Missing = Literal["leave-out", "10-pixels"]
Percentile = Literal["together", "larger"]

MISSING_DISTANCE = 10.0
"""Distance in pixels of a class that is empty in the mask or in the prediction, by the rule "10-pixels"."""

UNIT = "in mm, or in voxels where no case states its voxel size or voxels are asked for"

KINDS = {
    "hd95": "95th percentile of the distances of both surfaces from each other, taken together unless a note states "
    f"otherwise, {UNIT}",
    "asd": f"mean distance of the surface of the prediction from that of the mask, {UNIT}",
    "assd": f"mean of asd and of the mean distance of the surface of the mask from that of the prediction, {UNIT}",
}
"""The distances of a pair of surfaces, as medpy defines them."""

FAILURES = "surface_failures"


class Surfaces(MetricFamily):
    """Distances between surfaces, over the cases in which a class is both in the mask and predicted.

    The surface of a class is its pixels that have a face in common with a pixel outside. Ignored pixels belong to
    neither mask nor prediction. Cases in which a class is on one side only have no distance, and are counted as
    failures. If some cases state their voxel size and others do not, only the former have distances in mm.

    Args:
        unit: "mm" uses the voxel size of each case where it is known; "voxel" never does.
        missing: "leave-out": a case in which a class is empty on either side has no distance of it; "10-pixels": it has
            10, also where the class is empty on both sides, as in the published code of `uml`. Of the unit "voxel".
        percentile: "together": `hd95` is the 95th percentile of the distances of both surfaces; "larger": the larger
            one of the percentiles of either surface, as MONAI has it.
    """

    definitions: ClassVar[Mapping[str, Definition]] = {
        **{kind: Definition(f"{text}: mean over the classes", lower_is_better=True) for kind, text in KINDS.items()},
        **{
            f"{kind}_": Definition(f"{text}: mean over the cases that have and predict the class", lower_is_better=True)
            for kind, text in KINDS.items()
        },
        FAILURES: Definition(
            "number of times that a class is in the mask and not predicted, or the reverse, so that its surfaces have "
            "no distance",
            lower_is_better=True,
        ),
    }

    def __init__(self, unit: Unit = "mm", missing: Missing = "leave-out", percentile: Percentile = "together") -> None:
        assert missing == "leave-out" or unit == "voxel", "10 pixels are no distance in mm"
        self.unit: Unit = unit
        self.missing: Missing = missing
        self.percentile: Percentile = percentile

    def columns(self, batch: Batch, prediction: Prediction, manifest: Manifest) -> Mapping[str, Tensor]:
        """Return the distances of each case by class, whether they are in mm, and whether a class is missing."""
        pairs = list(_masks(batch, prediction, manifest))
        if not pairs:
            return {}
        spacing = batch.spacing.numpy() if self.unit == "mm" else np.full((len(batch), 3), np.nan)
        known = np.logical_and(np.isfinite(spacing).all(1), batch.image.dim() == 5)
        sizes = [tuple(size) if is_known else None for size, is_known in zip(spacing, known, strict=True)]
        columns = {"surface_mm": torch.from_numpy(known)}
        for number, predicted, true in pairs:
            distances = [
                self._distances(found, truth, size) if counts else dict.fromkeys(KINDS, np.nan)
                for found, truth, size, counts in zip(predicted, true, sizes, batch.masked.tolist(), strict=True)
            ]
            for kind in KINDS:
                values = [one[kind] for one in distances]
                columns[f"{kind}_{number}"] = torch.tensor(values, dtype=torch.float64)
            failed = [bool(p.any() != t.any()) for p, t in zip(predicted, true, strict=True)]
            columns[f"surface_failed_{number}"] = torch.tensor(failed)
        return columns

    def _distances(
        self, predicted: NDArray[np.bool_], true: NDArray[np.bool_], spacing: tuple[float, ...] | None
    ) -> dict[str, float]:
        if self.missing == "10-pixels" and not (predicted.any() and true.any()):
            return dict.fromkeys(KINDS, MISSING_DISTANCE)
        return surface_distances(predicted, true, spacing, self.percentile)

    def metrics(self, columns: Columns) -> Iterator[tuple[str, Metric]]:
        """Yield the distances, each over all classes and by class, and the failures."""
        if not columns.has("surface_mm") or not columns.masked.any():
            return
        counted = _one_unit(columns)
        for kind in KINDS:
            by_class = {name: columns.column(f"{kind}_{number}") for number, name in columns.foreground}
            each = {name: weighted.mean(of, counted & np.isfinite(of)) for name, of in by_class.items()}
            yield kind, weighted.mean_of(list(each.values()))
            yield from ((f"{kind}_{name}", metric) for name, metric in each.items())
        failed = np.sum([columns.column(f"surface_failed_{number}") for number, _ in columns.foreground], axis=0)
        yield FAILURES, weighted.total(failed, columns.masked)

    def requirements(self, manifest: Manifest) -> Mapping[str, str]:
        """All metrics need a mask."""
        names = manifest.mask_names or manifest.mask_classes[1:]
        masks = "" if manifest.masked else "an image with a mask"
        found = [name for kind in KINDS for name in (kind, *(f"{kind}_{one}" for one in names))]
        return dict.fromkeys([*found, FAILURES], masks) if names else {}

    def notes(self, columns: Columns) -> Mapping[str, str]:
        """Return the unit of the distances, and how many cases have none in it."""
        if not columns.has("surface_mm") or not columns.masked.any():
            return {}
        counted = _one_unit(columns)
        unit = "mm" if (columns.column("surface_mm") > 0)[columns.masked].any() else f"{_voxel(columns)}s"
        left_out = int((columns.masked & ~counted).sum())
        without = f"; left out: {left_out} without a known voxel size" if left_out else ""
        missing = f"; {MISSING_DISTANCE:.0f} where a class is empty in the mask or in the prediction"
        larger = "; hd95 is the larger one of the 95th percentiles of either surface"
        rules = (missing if self.missing == "10-pixels" else "") + (larger if self.percentile == "larger" else "")
        return {"surface_distances": f"in {unit}{without}{rules}"}

    def table(self, columns: Columns) -> Mapping[str, Iterable[Any]]:
        """Return the distances of each case by class."""
        if not columns.has("surface_mm"):
            return {}
        found = {f"{kind}_{name}": columns.column(f"{kind}_{n}") for n, name in columns.foreground for kind in KINDS}
        return {"surface_unit": ["mm" if mm else _voxel(columns) for mm in columns.column("surface_mm")], **found}


def surface_distances(
    predicted: NDArray[np.bool_],
    true: NDArray[np.bool_],
    spacing: tuple[float, ...] | None = None,
    percentile: Percentile = "together",
) -> dict[str, float]:
    """Return the distances of `KINDS` between the surfaces of two masks; NaN if either is empty.

    Args:
        predicted: (*S), the prediction.
        true: (*S), the reference.
        spacing: size of a voxel along each axis; by default 1.
        percentile: how `hd95` is formed, see `Surfaces`.
    """
    if not predicted.any() or not true.any():
        return dict.fromkeys(KINDS, np.nan)
    (box,) = ndimage.find_objects((predicted | true).astype(np.uint8))  # both surfaces are inside it
    surfaces = [mask[box] & (ndimage.binary_erosion(mask[box]) == 0) for mask in (predicted, true)]
    to_true, to_predicted = (
        np.asarray(ndimage.distance_transform_edt(~other, sampling=spacing))[own]
        for own, other in (surfaces, surfaces[::-1])
    )
    asd = float(to_true.mean())
    sets = [np.concatenate([to_true, to_predicted])] if percentile == "together" else [to_true, to_predicted]
    return {
        "hd95": max(float(np.percentile(distances, 95)) for distances in sets),
        "asd": asd,
        "assd": (asd + float(to_predicted.mean())) / 2,
    }


def _masks(
    batch: Batch, prediction: Prediction, manifest: Manifest
) -> Iterator[tuple[int, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Yield number, prediction and mask (B, *S) of every class but the background, or of every lesion."""
    mask, classes, lesions = batch.mask.cpu().numpy(), prediction.pixel_class, prediction.lesions
    if manifest.mask_names and lesions is not None:
        found = lesions.cpu().numpy() & (mask != IGNORE)
        for number in range(found.shape[1]):
            yield number, found[:, number], mask[:, number] == 1
    elif not manifest.mask_names and classes is not None:
        found = np.where(mask == IGNORE, 0, classes.cpu().numpy())
        for number in range(1, len(manifest.mask_classes)):
            yield number, found == number, mask == number


def _voxel(columns: Columns) -> str:
    return "voxel" if columns.manifest.dimensions == 3 else "pixel"


def _one_unit(columns: Columns) -> Flags:
    """Return the masked cases whose distances are in the same unit: in mm, if that of any case is."""
    in_mm = (columns.column("surface_mm") > 0) & columns.masked
    return in_mm if in_mm.any() else columns.masked
