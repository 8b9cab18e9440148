"""How well the probability of each lesion ranks the pixels: average precision and area under the ROC curve."""

from collections.abc import Iterator, Mapping
from math import ceil
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from uml_shards.format.manifest import Manifest
from uml_shards.sample import IGNORE

from ...batch import Batch, Prediction
from .. import weighted
from ..columns import Columns
from ..histograms import BINS, score_histogram
from ..weighted import Metric
from .family import Definition, MetricFamily

POOLED = f"over all pixels of the masked cases together, in {BINS} bins of ln(p / (1 - p))"


class LesionRanking(MetricFamily):
    """The ranking of the pixels by the probability of each of L lesions, without a threshold. Masked cases only.

    Both are formed from histograms. They take 16 kB per lesion, or 16 MB with 1000 bootstrap draws, whatever the number
    of cases. AUPR and AUROC are within 1e-3 of those from the pixels where their logits spread by 1 or more (standard
    deviation), within 3e-3 where they spread by 0.3, if a thousand pixels or more have the lesion. The notes state by
    how much AUPR can differ at most from that of the pixels, which depends on the scores.
    """

    definitions: ClassVar[Mapping[str, Definition]] = {
        "aupr": Definition("mean over the lesions of their areas under the precision-recall curve"),
        "aupr_": Definition(f"average precision, sum of (R_i - R_i-1) P_i, of the probability of a lesion, {POOLED}"),
        "lesion_auroc": Definition("mean over the lesions of their areas under the ROC curve"),
        "lesion_auroc_": Definition(f"area under the ROC curve of a lesion, {POOLED}"),
    }

    def columns(self, batch: Batch, prediction: Prediction, manifest: Manifest) -> Mapping[str, Tensor]:
        """Return `lesion_histogram_l` (B, 2, bins) of each lesion l: pixels without and with it by its probability."""
        if prediction.lesion_probability is None or not manifest.mask_names:
            return {}
        probability = prediction.lesion_probability.float()
        return {
            histogram_name(number): score_histogram(probability[:, number], mask == 1, mask != IGNORE)
            for number, mask in enumerate(torch.unbind(batch.mask, 1))
        }

    def metrics(self, columns: Columns) -> Iterator[tuple[str, Metric]]:
        """Yield the metrics of the masked cases."""
        histograms = _histograms(columns)
        for kind, area in (("aupr", weighted.pooled_average_precision), ("lesion_auroc", weighted.pooled_auroc)):
            each = {name: area(histogram) for name, histogram in histograms.items()}
            if each:
                yield kind, weighted.mean_of(list(each.values()))
            yield from ((f"{kind}_{name}", metric) for name, metric in each.items())

    def requirements(self, manifest: Manifest) -> Mapping[str, str]:
        """All metrics need a mask."""
        masks = "" if manifest.masked else "an image with a mask"
        names = [f"{kind}{end}" for kind in ("aupr", "lesion_auroc") for end in _endings(manifest.mask_names)]
        return dict.fromkeys(names, masks)

    def lacking(self, columns: Columns) -> Mapping[str, str]:
        """A lesion without any pixel has no metric, nor has their mean."""
        absent = [name for number, name in columns.foreground if not columns.column(f"true_{number}").any()]
        if not _histograms(columns) or not absent:
            return {}
        need = {"": absent[0], **{f"_{name}": name for name in absent}}
        return {
            f"{kind}{end}": f"a pixel of {name} in a mask"
            for kind in ("aupr", "lesion_auroc")
            for end, name in need.items()
        }

    def notes(self, columns: Columns) -> Mapping[str, str]:
        """Return how large the error of AUPR can be on these cases."""
        errors = [weighted.average_precision_error(one)(columns.cases.all)[0] for one in _histograms(columns).values()]
        largest = max(filter(np.isfinite, errors), default=None)
        return (
            {}
            if largest is None
            else {"aupr": f"from bins, within {ceil(1e4 * largest) / 1e4:.4f} of that from the pixels"}
        )


def histogram_name(number: int) -> str:
    """Return the name of the sums (D, 2, bins) of a lesion: pixels without and with it, by ascending probability."""
    return f"lesion_histogram_{number}"


def _endings(names: tuple[str, ...]) -> list[str]:
    return ["", *(f"_{name}" for name in names)] if names else []


def _histograms(columns: Columns) -> dict[str, str]:
    """Return the name of the sums of each lesion; none without masked cases."""
    if not columns.masked.any():
        return {}
    named = {name: histogram_name(number) for number, name in columns.foreground}
    return {name: histogram for name, histogram in named.items() if histogram in columns.cases.sums}
