"""Decide which values of a binary mask are foreground, by the values themselves."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShardError

_SCALES = (255, 65535)
"""Full scale of integer masks of more than two values: the smaller one that is not exceeded."""

_NEAR = 0.25
"""Largest distance from 0 or from full scale, as a fraction of it, of values that JPEG or resizing has blurred."""

_BETWEEN = 0.1
"""Largest number of pixels between both clusters, as a fraction of the foreground. JPEG of quality 50 to 95 leaves up
to 0.02, resizing by linear interpolation 0.03 around a lesion 80 pixels wide and 0.13 around one of 16 pixels."""

_FEW = 8
"""Up to this number of different values, each is probably meant: noise leaves more."""

_LISTED = 4
"""Number of values that an error lists."""


def foreground(values: NDArray[Any], path: Path, threshold: float | None = None) -> tuple[NDArray[np.uint8], bool]:
    """Return 1 where a mask marks the foreground, and whether blurred values had to be cut at half of full scale.

    A mask is exact if it consists of 0 and one other value, which is 1 or at least half of full scale: 2 alone could be
    a class number. It is blurred if its values form two clusters, near 0 and
    near full scale, as after a JPEG or a resize. Everything else could mean two things and is refused.

    Args:
        values: integers, or floats of which full scale is 1.
        path: path of the mask, for error messages.
        threshold: fraction of full scale from which values are foreground; None decides by the values.

    Raises:
        ShardError: values are negative, or can also be read as class numbers or as a soft map.
    """
    levels = _levels(values)
    if not np.isfinite(levels).all():
        raise ShardError(f"{path}: the mask contains NaN or infinite values: fix the file")
    if levels[0] < 0:
        raise ShardError(
            f"{path}: the mask has negative values, {levels[0]:g} to {levels[-1]:g}: if it is an image, remove it; if "
            "they mark pixels to ignore, store 255 there and class numbers elsewhere, and use mask_values=classes"
        )
    scale = _full_scale(levels)
    if threshold is not None:
        return (values >= threshold * scale).astype(np.uint8), False
    marks = levels[levels != 0]
    if len(marks) == 0 or (len(marks) == 1 and len(levels) <= 2 and (marks[0] == 1 or marks[0] >= scale / 2)):
        return (values != 0).astype(np.uint8), False
    if not _is_blurred(values, levels, scale):
        raise _ambiguous(levels, scale, path)
    return (values >= scale / 2).astype(np.uint8), True


def _levels(values: NDArray[Any]) -> NDArray[Any]:
    """Return the different values, sorted."""
    if values.dtype.kind not in "iu" or values.dtype.itemsize > 2:
        return np.unique(values)
    lowest = int(values.min())  # counting is 20 times faster than sorting
    return np.flatnonzero(np.bincount(values.ravel().astype(np.int32) - lowest)) + lowest


def _full_scale(levels: NDArray[Any]) -> float:
    """Return the value of a mask that is foreground everywhere."""
    if levels.dtype.kind == "f" and levels[-1] <= 1:
        return 1.0
    return float(next((scale for scale in _SCALES if levels[-1] <= scale), levels[-1]))


def _is_blurred(values: NDArray[Any], levels: NDArray[Any], scale: float) -> bool:
    """Whether the values form one cluster near 0 and one near full scale, with hardly anything in between."""
    low, high = levels <= _NEAR * scale, levels >= (1 - _NEAR) * scale
    if not high.any():
        return False
    if not low.any():
        return bool(high.all())
    # 0, 1 and 255 are class numbers with 255 for pixels to ignore as likely as noise.
    if levels[high].tolist() == [scale] and levels[low].any():
        return False
    if (low | high).all():
        return True
    between = (values > _NEAR * scale) & (values < (1 - _NEAR) * scale)
    foreground_pixels = np.count_nonzero(values >= scale / 2)
    return len(levels) > _FEW and bool(np.count_nonzero(between) <= _BETWEEN * foreground_pixels)


def _ambiguous(levels: NDArray[Any], scale: float, path: Path) -> ShardError:
    """Return the error that names both readings of a mask."""
    listed = ", ".join(f"{level:g}" for level in levels[:_LISTED])
    more = f" and {len(levels) - _LISTED} more up to {levels[-1]:g}" if len(levels) > _LISTED else ""
    usual = "0 and 1" if scale == 1 else f"0 and 1, or 0 and {scale:g}"
    return ShardError(
        f"{path}: a binary mask must have the values {usual}, but this one has {listed}{more}: for class numbers use "
        "mask_values=classes; for a soft map state the threshold, such as mask_threshold=0.5; if everything except 0 "
        "is foreground, use mask_values=nonzero"
    )
