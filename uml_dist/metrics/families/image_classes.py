"""Metrics of the image's class: likelihood, decisions, ranking, calibration and the detection of wrong decisions."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from uml_shards.format.manifest import Manifest

from ...batch import Batch, Prediction
from .. import weighted
from ..columns import Columns
from ..histograms import CALIBRATION_BINS
from ..weighted import Metric
from .family import Definition, MetricFamily, absent_class
from .tasks import TASKS, task_metrics, task_requirements


class ImageClasses(MetricFamily):
    """The classification of whole images or volumes."""

    likelihood = "image_nll"
    definitions: ClassVar[Mapping[str, Definition]] = {
        "image_nll": Definition(
            "negative log-likelihood of the label in nats, mean over labelled cases", lower_is_better=True
        ),
        "accuracy": Definition("share of labelled cases whose most probable class is the label"),
        "balanced_accuracy": Definition("mean over the classes of the share of their cases that is recognised"),
        "macro_f1": Definition("mean over the classes of 2 hits / (cases of the class + predictions of it)"),
        "auroc": Definition(
            "area under the ROC curve of the second of two classes, else the mean of each class against the rest"
        ),
        **TASKS,
        "image_ece": Definition(
            "expected calibration error of the most probable class in 15 bins of equal width, over labelled cases",
            lower_is_better=True,
            biased=True,
        ),
        "image_error_auroc_vacuity": Definition(
            "area under the ROC curve of the image vacuity as a sign that the class is wrong"
        ),
        "image_error_auroc_entropy": Definition("the same of the entropy of the image probability"),
    }

    def columns(self, batch: Batch, prediction: Prediction, manifest: Manifest) -> Mapping[str, Tensor]:
        """Return the probability of each class, the label's negative log-likelihood, and the vacuity."""
        columns: dict[str, Tensor] = {}
        if not manifest.classes:  # a stream of a recipe with several tasks may have none
            return columns
        if prediction.image_probability is not None:
            probability, label = prediction.image_probability.float(), batch.label
            columns |= {f"probability_{number}": probability[:, number] for number in range(probability.shape[1])}
            of_label = probability.gather(1, label.clamp(min=0)[:, None])[:, 0]
            columns["image_nll"] = torch.where(label >= 0, -of_label.clamp(min=1e-12).log(), torch.nan)
        if prediction.image_vacuity is not None:
            columns["image_vacuity"] = prediction.image_vacuity.float()
        return columns

    def metrics(self, columns: Columns) -> Iterator[tuple[str, Metric]]:
        """Yield the metrics of the labelled cases."""
        manifest, label, labelled = columns.manifest, columns.label, columns.labelled
        if not labelled.any():
            return
        yield "image_nll", weighted.mean(columns.column("image_nll"), labelled)
        probability, predicted = columns.probability, columns.predicted
        classes = len(manifest.classes)
        right = predicted == label
        yield "accuracy", weighted.mean(right.astype(np.float64), labelled)
        yield "balanced_accuracy", weighted.balanced_accuracy(label, predicted, classes, labelled)
        yield "macro_f1", weighted.macro_f1(label, predicted, classes, labelled)
        numbers = [1] if classes == 2 else range(classes)
        one_against_rest = [weighted.auroc(label == number, probability[:, number], labelled) for number in numbers]
        yield "auroc", weighted.mean_of(one_against_rest)
        yield from task_metrics(
            columns, {name: probability[:, list(positive)].sum(1) for name, positive in manifest.tasks.items()}
        )
        confidence = probability.max(1)
        place = np.minimum(np.nan_to_num(confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
        inside = (place[:, None] == np.arange(CALIBRATION_BINS)) & labelled[:, None]
        gap = np.where(inside, (right - confidence)[:, None], 0.0)
        yield "image_ece", weighted.calibration_error(gap, labelled.astype(np.float64))
        if columns.has("image_vacuity"):
            yield "image_error_auroc_vacuity", weighted.auroc(~right, columns.column("image_vacuity"), labelled)
        yield "image_error_auroc_entropy", weighted.auroc(~right, columns.entropy, labelled)

    def requirements(self, manifest: Manifest) -> Mapping[str, str]:
        """All metrics need a label; some need a sample of every class, or of both sides of a task."""
        labels = "" if manifest.labelled else "an image with a label"
        numbers = frozenset(range(len(manifest.classes)))
        every = labels or absent_class(manifest, [frozenset({number}) for number in numbers])
        lacks = {"image_nll": labels, "accuracy": labels, "balanced_accuracy": every, "macro_f1": every}
        lacks["auroc"] = every or ("a second class" if len(numbers) < 2 else "")
        lacks |= task_requirements(manifest, manifest.tasks)
        return lacks | dict.fromkeys(("image_ece", "image_error_auroc_vacuity", "image_error_auroc_entropy"), labels)

    def table(self, columns: Columns) -> Mapping[str, Iterable[Any]]:
        """Return the most probable class, all probabilities, the likelihood and the vacuity."""
        table: dict[str, Iterable[Any]] = {}
        if columns.has("image_nll"):
            names = columns.manifest.classes
            table["prediction"] = [names[number] for number in columns.predicted]
            table |= {f"probability_{name}": columns.probability[:, k] for k, name in enumerate(names)}
            table["image_nll"] = columns.column("image_nll")
        if columns.has("image_vacuity"):
            table["image_vacuity"] = columns.column("image_vacuity")
        return table
