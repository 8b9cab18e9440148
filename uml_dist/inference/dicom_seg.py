"""Encodes the mask of a DICOM series as a DICOM Segmentation. Needs the extra `dicomseg`."""

import io
import logging
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uml_shards.errors import ShardError, reason_of
from uml_shards.sources.dicom_files import dicom_kind
from uml_shards.text import shorten

from ..errors import UmlError
from .case import Case

_EMPTY_ALLOWED = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName"),
)
"""Attributes that a Segmentation copies from its images, which may leave them out although the standard does not."""

_LABEL = 64
"""Longest label of a segment, in characters."""


def check_highdicom() -> None:
    """Check that the extra is installed.

    Raises:
        UmlError: it is not.
    """
    try:
        import highdicom  # noqa: F401
    except ModuleNotFoundError:
        raise UmlError("DICOM Segmentations need highdicom: pip install 'uml-dist[dicomseg]'") from None


def encode_segmentation(case: Case) -> bytes | None:
    """Return the mask of a DICOM series as a Segmentation with a binary segment per class; None for another input.

    It refers to the images of the series, and has their patient and study, as the standard requires.

    Raises:
        ShardError: the series lacks attributes that a Segmentation needs.
    """
    folder, mask = case.source.path, case.mask
    if case.source.kind != "volume" or not folder.is_dir() or mask is None:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):
            return _encoded(_images(folder), mask, case.classes.pixel)
    except Exception as error:
        problem = f"{folder} has no DICOM Segmentation: {reason_of(error)}: leave out --dicom-seg"
        raise ShardError(problem) from error


def _images(folder: Path) -> list[Any]:
    """Return the images of a series in the order of the slices of its volume."""
    import pydicom

    files = (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
    images = [pydicom.dcmread(path) for path in files if path.is_file() and dicom_kind(path) == "slice"]
    for image in images:
        for name in _EMPTY_ALLOWED:
            if name not in image:
                setattr(image, name, "")
    across, down = np.asarray(images[0].ImageOrientationPatient, np.float64).reshape(2, 3)
    normal = np.cross(across, down)
    places = [float(np.asarray(image.ImagePositionPatient, np.float64) @ normal) for image in images]
    step = float(np.median(np.diff(np.sort(places))))
    for image in images:
        if image.get("SliceThickness") is None:
            image.SliceThickness = f"{step:.6g}"
    return [images[number] for number in np.argsort(places, kind="stable")]


def _encoded(images: list[Any], mask: NDArray[np.uint8], classes: tuple[str, ...]) -> bytes:
    import highdicom

    logging.getLogger("highdicom").setLevel(logging.ERROR)  # it warns of an empty mask
    from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="uml-dist", version=version("uml-dist"), family=codes.DCM.ArtificialIntelligence
    )
    described = [
        SegmentDescription(
            segment_number=number,
            segment_label=shorten(name, _LABEL),
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Lesion,
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for number, name in enumerate(classes)
        if number
    ]
    made = Segmentation(
        source_images=images,
        pixel_array=np.ascontiguousarray(mask.transpose(2, 1, 0)),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=highdicom.UID(),
        series_number=1000,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="uml-dist",
        manufacturer_model_name="uml-dist",
        software_versions=version("uml-dist"),
        device_serial_number="1",
    )
    buffer = io.BytesIO()
    made.save_as(buffer)
    return buffer.getvalue()
