"""Families of metrics. Each is one file: from predictions to columns of the cases, and from columns to metrics."""

from .family import Definition, MetricFamily
from .grades import Grades
from .image_classes import ImageClasses
from .lesion_ranking import LesionRanking
from .lesions import Lesions
from .pixel_classes import PixelClasses
from .surfaces import Surfaces
from .tasks import Tasks

STANDARD: tuple[MetricFamily, ...] = (ImageClasses(), PixelClasses(), Lesions(), LesionRanking())
"""The families of every recipe that does not name others."""

__all__ = [
    "STANDARD",
    "Definition",
    "Grades",
    "ImageClasses",
    "LesionRanking",
    "Lesions",
    "MetricFamily",
    "PixelClasses",
    "Surfaces",
    "Tasks",
]
