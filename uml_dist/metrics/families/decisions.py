"""The decision for the most probable image class: each class against the rest, and how classes are confused."""

from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
from torch import Tensor

from uml_shards.format.manifest import Manifest

from ...batch import Batch, Prediction
from .. import weighted
from ..columns import Columns
from ..weighted import Metric
from .family import CountTable, Definition, MetricFamily, absent_class

MOST_CLASSES = 100
"""Largest number of classes of which a confusion matrix is given; that of more classes is mostly zeros."""


class Decisions(MetricFamily):
    """Sensitivity, specificity, weighted F1 and the confusion matrix, from the columns of `ImageClasses`.

    Of two classes, the second one is positive. Of more, each class is held against the rest.
    """

    definitions: ClassVar[Mapping[str, Definition]] = {
        "sensitivity": Definition(
            "share of the cases of the second of two classes that are recognised, else the mean of each class"
        ),
        "specificity": Definition(
            "share of the cases of the first of two classes that are recognised, else the mean over the classes of the "
            "share of the cases of other classes that are not taken for the class"
        ),
        "class_sensitivity_": Definition("share of the cases of a class that are recognised"),
        "class_specificity_": Definition("share of the cases of other classes that are not taken for the class"),
        "weighted_f1": Definition(
            "mean over the classes of 2 hits / (cases of the class + predictions of it), weighted by the cases"
        ),
    }

    def columns(self, batch: Batch, prediction: Prediction, manifest: Manifest) -> Mapping[str, Tensor]:
        """Return nothing: the columns are those of `ImageClasses`."""
        return {}

    def metrics(self, columns: Columns) -> Iterator[tuple[str, Metric]]:
        """Yield the metrics of the labelled cases."""
        names, label, labelled = columns.manifest.classes, columns.label, columns.labelled
        if not labelled.any() or not columns.has("image_nll"):
            return
        predicted = columns.predicted
        for kind, metric in (("sensitivity", weighted.sensitivity), ("specificity", weighted.specificity)):
            each = {k: metric(label == k, predicted == k, labelled) for k in _positive(names)}
            yield kind, weighted.mean_of(list(each.values()))
            if len(names) > 2:
                yield from ((f"class_{kind}_{names[number]}", of_class) for number, of_class in each.items())
        yield "weighted_f1", weighted.weighted_f1(label, predicted, len(names), labelled)

    def requirements(self, manifest: Manifest) -> Mapping[str, str]:
        """All metrics need a label; sensitivities and specificities need cases of the class or of the others."""
        names, labels = manifest.classes, "" if manifest.labelled else "an image with a label"
        numbers = frozenset(range(len(names)))
        lacks: dict[str, str] = {}
        for kind in ("sensitivity", "specificity"):
            positive = kind == "sensitivity"
            sides = {k: frozenset({k}) if positive else numbers - {k} for k in _positive(names)}
            lacks[kind] = labels or absent_class(manifest, list(sides.values()))
            if len(names) > 2:
                lacks |= {f"class_{kind}_{names[k]}": labels or absent_class(manifest, [s]) for k, s in sides.items()}
        return {**lacks, "weighted_f1": labels}

    def counts(self, columns: Columns) -> Mapping[str, CountTable]:
        """Return the confusion matrix of the labelled cases: the label of each row, the predicted class of each column.

        None of more than `MOST_CLASSES` classes.
        """
        names, labelled = columns.manifest.classes, columns.labelled
        if not labelled.any() or not columns.has("image_nll") or len(names) > MOST_CLASSES:
            return {}
        counts = np.zeros((len(names), len(names)), dtype=np.int64)
        np.add.at(counts, (columns.label[labelled], columns.predicted[labelled]), 1)
        values = tuple(tuple(row) for row in counts.tolist())
        text = "cases by label (rows) and predicted class (columns)"
        return {"confusion_matrix": CountTable(text, names, names, values)}


def _positive(names: tuple[str, ...]) -> list[int]:
    """Return the numbers of the classes that are held against the rest: of two the second, else every one."""
    return [1] if len(names) == 2 else list(range(len(names)))
