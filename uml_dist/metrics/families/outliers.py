"""How well an uncertainty tells the images of another data set from those of the evaluated one."""

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
from torch import Tensor

from uml_shards.format.manifest import Manifest

from ...batch import Batch, Prediction
from .. import weighted
from ..cases import Cases
from ..columns import Columns
from ..image_scores import AGGREGATIONS, UNCERTAINTIES, column_of, image_scores
from ..weighted import Metric
from .family import Definition, MetricFamily

SECOND = "second"
"""Column of `joined` cases: 1 for those of the second split."""

SCORES: Mapping[str, str] = {
    **{f"image_{name}": f"outlier_image_{name}" for name in UNCERTAINTIES},
    **{f"{name}_{how}": column_of(name, how) for name in UNCERTAINTIES for how in AGGREGATIONS},
}
"""Scores of an image -> columns."""


TEXTS: Mapping[str, str] = {
    **{f"image_{name}": f"{name} of the image" for name in UNCERTAINTIES},
    **{
        f"{name}_{how}": f"{name} of the pixels, {text}" for name in UNCERTAINTIES for how, text in AGGREGATIONS.items()
    },
}
"""What each score is."""


class Outliers(MetricFamily):
    """Area under the ROC curve of each uncertainty of the image as a sign that it is of the second split.

    Its columns are of one split; its metrics are of the cases of two splits, see `joined`. Neither labels nor masks
    matter.
    """

    definitions: ClassVar[Mapping[str, Definition]] = {
        f"ood_auroc_{name}": Definition(f"area under the ROC curve as a sign of the second split: {text}")
        for name, text in TEXTS.items()
    }

    def columns(self, batch: Batch, prediction: Prediction, manifest: Manifest) -> Mapping[str, Tensor]:
        """Return every uncertainty (B,) of the images that is predicted."""
        of_images = {"vacuity": prediction.image_vacuity, "entropy": prediction.image_entropy}
        found = {f"outlier_image_{name}": values.float() for name, values in of_images.items() if values is not None}
        return found | image_scores(prediction)

    def metrics(self, columns: Columns) -> Iterator[tuple[str, Metric]]:
        """Yield the metrics of joined cases; nothing of one split."""
        if not columns.has(SECOND):
            return
        second, every = columns.column(SECOND) > 0, np.ones(len(columns.cases), dtype=bool)
        for name, column in SCORES.items():
            if columns.has(column):
                yield f"ood_auroc_{name}", weighted.auroc(second, columns.column(column), every)

    def requirements(self, manifest: Manifest) -> Mapping[str, str]:
        """Nothing is required of a single split, which has none of the metrics."""
        return {}


def joined(first: Cases, second: Cases) -> Cases:
    """Return the cases of two splits with the columns of `Outliers`; those of the second have 1 in the column `SECOND`.

    The draws of one split are combined with those of the other, so their seeds should differ.
    """
    shared = [column for column in SCORES.values() if column in first.columns and column in second.columns]
    columns = {name: np.concatenate([first.columns[name], second.columns[name]]) for name in shared}
    columns[SECOND] = np.repeat([0, 1], [len(first), len(second)])
    draws = np.concatenate([first.draws, second.draws], axis=1)
    return Cases(first.keys + second.keys, columns, draws=draws, seed=first.seed)
