"""Encodes masks and maps as NIfTI on the voxels of the input."""

import gzip
from typing import Any

from numpy.typing import NDArray

from uml_shards.sources.volume_files import ending

from .case import Case
from .geometry import VolumeGeometry

_PLACE = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
"""Fields of a header that say where the voxels are. Others, such as free text, may identify people."""


def encode_nifti(values: NDArray[Any], case: Case, slope: float = 1.0) -> bytes:
    """Return a gzipped NIfTI-1 file with the affine of the input.

    For an input in NIfTI, transforms, codes and units are those of its header, so that both are equal to the bit. The
    axes of other inputs are in mm of RAS.

    Args:
        values: (x, y, z) as the input stores them, uint8 or uint16.
        case: the case.
        slope: factor of the stored values.
    """
    from nibabel.loadsave import load
    from nibabel.nifti1 import Nifti1Header, Nifti1Image

    geometry, path = case.ready.geometry, case.source.path
    assert isinstance(geometry, VolumeGeometry)
    if case.source.kind == "volume" and ending(path.name).lower() in (".nii", ".nii.gz"):
        given: Any = load(path)
        header = Nifti1Header()
        for field in _PLACE:
            header[field] = given.header[field]
        made = Nifti1Image(values, given.affine, header)
    else:
        made = Nifti1Image(values, geometry.affine)
        made.header.set_xyzt_units("mm")
        made.set_qform(geometry.affine, code=1)
        made.set_sform(geometry.affine, code=1)
    made.header.set_data_dtype(values.dtype)
    made.header.set_slope_inter(slope, 0)
    return gzip.compress(made.to_bytes(), compresslevel=3, mtime=0)
