"""Binary tasks of image classes, also where the classes of a data set are not those that are predicted."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from uml_shards.format.manifest import Manifest

from ...batch import Batch, Prediction
from .. import weighted
from ..columns import Columns
from ..weighted import Metric
from .family import Definition, MetricFamily, absent_class

TASKS = {
    "auroc_tasks": Definition("mean of the areas under the ROC curve of the data set's binary tasks"),
    "auroc_": Definition("area under the ROC curve of a binary task of the data set"),
    "sensitivity_": Definition(
        "share of the positive cases of a binary task for which the probability of the positive classes is above 0.5"
    ),
    "specificity_": Definition("share of the negative cases of a binary task for which it is not"),
}
"""Metrics of binary tasks."""


class Tasks(MetricFamily):
    """The binary tasks that a data set and the training both name, whatever their classes are.

    So grades on one scale are compared with grades on another, such as 0 to 4 with 0 to 3, by "referable".

    Args:
        positive: task -> numbers of the predicted classes that count as positive. The data set's manifest has those of
            its labels.
    """

    definitions: ClassVar[Mapping[str, Definition]] = TASKS

    def __init__(self, positive: Mapping[str, tuple[int, ...]]) -> None:
        self.positive = positive

    def columns(self, batch: Batch, prediction: Prediction, manifest: Manifest) -> Mapping[str, Tensor]:
        """Return `task_NAME`, the probability of the positive classes."""
        probability = prediction.image_probability
        if probability is None:
            return {}
        return {f"task_{name}": probability.float()[:, list(of)].sum(1) for name, of in self.positive.items()}

    def metrics(self, columns: Columns) -> Iterator[tuple[str, Metric]]:
        """Yield the metrics of each task over the labelled cases."""
        if columns.labelled.any():
            scores = {name: columns.column(f"task_{name}") for name in self.positive}
            yield from task_metrics(columns, scores)

    def requirements(self, manifest: Manifest) -> Mapping[str, str]:
        """Each task needs a label on either side."""
        return task_requirements(manifest, self.positive)

    def table(self, columns: Columns) -> Mapping[str, Iterable[Any]]:
        """Return the probability of each task."""
        return {f"probability_{name}": columns.column(f"task_{name}") for name in self.positive}


def task_metrics(columns: Columns, scores: Mapping[str, weighted.Floats]) -> Iterator[tuple[str, Metric]]:
    """Yield the mean area under the ROC curve of tasks, and area, sensitivity and specificity of each.

    Args:
        columns: columns of the cases.
        scores: task -> (N,), probability of its positive classes.
    """
    labelled = columns.labelled
    positive = {name: np.isin(columns.label, columns.manifest.tasks[name]) for name in scores}
    each = {name: weighted.auroc(positive[name], score, labelled) for name, score in scores.items()}
    if each:
        yield "auroc_tasks", weighted.mean_of(list(each.values()))
    yield from ((f"auroc_{name}", metric) for name, metric in each.items())
    for name, score in scores.items():
        yield f"sensitivity_{name}", weighted.sensitivity(positive[name], score > 0.5, labelled)
        yield f"specificity_{name}", weighted.specificity(positive[name], score > 0.5, labelled)


def task_requirements(manifest: Manifest, names: Iterable[str]) -> Mapping[str, str]:
    """Return the metrics of tasks -> what a split lacks to form them; "" for nothing."""
    labels, numbers = "" if manifest.labelled else "an image with a label", frozenset(range(len(manifest.classes)))
    sides = {name: [frozenset(manifest.tasks[name]), numbers - set(manifest.tasks[name])] for name in names}
    lacks = {f"auroc_{name}": labels or absent_class(manifest, groups) for name, groups in sides.items()}
    found = {"auroc_tasks": next(filter(None, lacks.values()), ""), **lacks} if lacks else {}
    for name, (positive, negative) in sides.items():
        found[f"sensitivity_{name}"] = labels or absent_class(manifest, [positive])
        found[f"specificity_{name}"] = labels or absent_class(manifest, [negative])
    return found
