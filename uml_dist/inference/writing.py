"""Writes the files of a case, each atomically."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from uml_shards.durable import replace_bytes

from .case import Case
from .names import safe_part
from .overlay import draw_overlay
from .settings import PredictSettings

FULL = 65535
"""Value of 1.0 in a map of 16 bits."""


def write_case(case: Case, name: str, out: Path, settings: PredictSettings) -> list[str]:
    """Write the files of a case.

    Masks have class numbers; those of lesions, which may overlap, have a file each, 255 inside. Maps have 16 bits,
    65535 times the value; in NIfTI, the header's slope undoes that. Where a run predicts no vacuity of pixels, their
    entropy takes its place, as a fraction of the largest possible.

    Args:
        case: the case.
        name: its name, a relative path with forward slashes.
        out: the folder of the predictions.
        settings: which files to write.

    Returns:
        The files, relative to the folder.

    Raises:
        OSError: a file cannot be written.
    """
    writer = _Writer(case, name, out)
    if "masks" in settings.outputs:
        if case.mask is not None:
            writer.mask("masks", case.mask)
        elif case.prediction.lesion_probability is not None:
            for number, lesion in enumerate(case.classes.lesions):
                writer.mask(f"masks/{safe_part(lesion)}", case.lesion_mask(number) * np.uint8(255))
    if "probabilities" in settings.outputs:
        for title, values in case.probability_maps():
            writer.map(f"probabilities/{safe_part(title)}", values)
    if "vacuity" in settings.outputs and (shown := case.uncertainty_map) is not None:
        title, values = shown
        writer.map(title, case.ready.geometry.restore(values, outside=1.0))
    if "maps" in settings.outputs:
        for title, values in case.maps():
            writer.map(f"maps/{safe_part(title)}", values)
    if "overlays" in settings.outputs:
        writer.write("overlays", ".png", draw_overlay(case, name))
    if settings.dicom_seg and case.source.path.is_dir() and case.mask is not None:
        from .dicom_seg import encode_segmentation

        if (data := encode_segmentation(case)) is not None:
            writer.write("dicom_seg", ".dcm", data)
    return writer.files


class _Writer:
    """Writes files of one case into folders of their kind."""

    def __init__(self, case: Case, name: str, out: Path) -> None:
        self.case, self.name, self.out = case, name, out
        self.volume = len(case.shape) == 3
        self.files: list[str] = []

    def mask(self, folder: str, values: NDArray[np.uint8]) -> None:
        if self.volume:
            from .nifti import encode_nifti

            self.write(folder, ".nii.gz", encode_nifti(values, self.case))
        else:
            self.write(folder, ".png", _png(values))

    def map(self, folder: str, values: NDArray[np.float32]) -> None:
        """Write a map with values in [0, 1]; what is not a number becomes 1, the largest uncertainty."""
        stored = np.rint(np.clip(np.nan_to_num(values, nan=1.0), 0, 1) * FULL).astype(np.uint16)
        if self.volume:
            from .nifti import encode_nifti

            self.write(folder, ".nii.gz", encode_nifti(stored, self.case, 1 / FULL))
        else:
            self.write(folder, ".png", _png(stored))

    def write(self, folder: str, ending: str, data: bytes) -> None:
        file = f"{folder}/{self.name}{ending}"
        path = self.out / file
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(path, data, durable=False)
        self.files.append(file)


def _png(values: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
