"""Checks the voxel size and the position of a volume, which its json may state."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ..errors import ShardError, reading
from ..strict_json import first_problem

SMALLEST_DETERMINANT = 1e-6
"""Determinant of an affine's axes, each scaled to length 1, below which they count as linearly dependent."""


def _check_invertible(affine: list[list[float]]) -> list[list[float]]:
    if affine[3] != [0, 0, 0, 1]:
        raise ValueError("the last row must be 0, 0, 0, 1")
    axes = np.asarray(affine, dtype=np.float64)[:3, :3]
    lengths = np.linalg.norm(axes, axis=0)
    if not lengths.all() or not abs(np.linalg.det(axes / lengths)) > SMALLEST_DETERMINANT:
        raise ValueError("the matrix has no inverse")
    return affine


_Row = Annotated[list[float], Field(min_length=4, max_length=4)]


class _Geometry(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    spacing: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)] | None = None
    affine: Annotated[list[_Row], Field(min_length=4, max_length=4), AfterValidator(_check_invertible)] | None = None


def check_geometry(meta: Mapping[str, Any]) -> None:
    """Check `spacing` (mm along x, y, z) and `affine` (4 x 4, voxel to mm) of a volume; either may be missing or null.

    Raises:
        ShardError: they are not finite numbers, a spacing is not positive, or the affine has no inverse.
    """
    with reading("json:"):
        try:
            _Geometry.model_validate({name: meta.get(name) for name in _Geometry.model_fields})
        except ValidationError as error:
            raise ShardError(f"json: {first_problem(error)}") from None
