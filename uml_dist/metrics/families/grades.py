"""Agreement of predicted and true grades, for image classes that are in order."""

from collections.abc import Iterator, Mapping
from typing import ClassVar

from torch import Tensor

from uml_shards.format.manifest import Manifest

from ...batch import Batch, Prediction
from .. import weighted
from ..columns import Columns
from ..weighted import Metric
from .family import Definition, MetricFamily


class Grades(MetricFamily):
    """The agreement of the most probable class with the label beyond chance, by Cohen's kappa.

    For recipes whose image classes are grades, in ascending order. It is formed from the columns of `ImageClasses`.
    """

    definitions: ClassVar[Mapping[str, Definition]] = {
        "quadratic_kappa": Definition(
            "Cohen's kappa of the most probable class, weighted by the squared distance of the grades: 1 is agreement, "
            "0 what chance gives"
        ),
        "kappa": Definition("Cohen's kappa of the most probable class: 1 is agreement, 0 what chance gives"),
    }

    def columns(self, batch: Batch, prediction: Prediction, manifest: Manifest) -> Mapping[str, Tensor]:
        """Return nothing: the columns are those of `ImageClasses`."""
        return {}

    def metrics(self, columns: Columns) -> Iterator[tuple[str, Metric]]:
        """Yield the metrics of the labelled cases."""
        if not columns.labelled.any():
            return
        classes = len(columns.manifest.classes)
        for name, power in (("quadratic_kappa", 2), ("kappa", 0)):
            yield name, weighted.kappa(columns.label, columns.predicted, classes, columns.labelled, power)

    def requirements(self, manifest: Manifest) -> Mapping[str, str]:
        """Both metrics need a label, and two classes."""
        labels = "" if manifest.labelled else "an image with a label"
        lacking = labels or ("a second class" if len(manifest.classes) < 2 else "")
        return dict.fromkeys(self.definitions, lacking)
