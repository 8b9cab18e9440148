"""Families of metrics. Each is one file: from predictions to columns of the cases, and from columns to metrics."""

from .calibration import Calibration
from .decisions import Decisions
from .family import CountTable, Definition, MetricFamily
from .grades import Grades
from .image_classes import ImageClasses
from .lesion_ranking import LesionRanking
from .lesions import Lesions
from .optic_disc import OpticDisc
from .outliers import Outliers
from .pixel_classes import PixelClasses
from .selective import Selective
from .surfaces import Surfaces
from .tasks import Tasks

STANDARD: tuple[MetricFamily, ...] = (
    ImageClasses(),
    Decisions(),
    PixelClasses(),
    Lesions(),
    LesionRanking(),
    OpticDisc(),
    Calibration(),
    Selective(),
)
"""The families of every recipe that does not name others."""

__all__ = [
    "STANDARD",
    "Calibration",
    "CountTable",
    "Decisions",
    "Definition",
    "Grades",
    "ImageClasses",
    "LesionRanking",
    "Lesions",
    "MetricFamily",
    "OpticDisc",
    "Outliers",
    "PixelClasses",
    "Selective",
    "Surfaces",
    "Tasks",
]
