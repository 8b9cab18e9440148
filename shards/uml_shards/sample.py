"""A decoded sample of a data set."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORE = 255
"""Mask value of pixels that are excluded from every loss and metric."""


PICTURES = ("jpg", "jpeg", "png", "tif", "tiff")
"""Extensions of the components that contain a 2D image."""


@dataclass(frozen=True)
class Sample:
    """An image with its annotations.

    Attributes:
        key: name of the sample, unique within a split.
        image: image (H, W, channels), uint8 or uint16; or volume (H, W, D, channels), uint8, uint16, int16, float16 or
            float32.
        mask: class numbers (H, W) or (H, W, D), uint8, 255 = ignore; (L, H, W) for L overlapping lesions; None
            without a mask.
        label: image class, or None if it is unknown.
        weight: 1, or 0 for a placeholder that replaces a bad sample.
        meta: all other entries of the sample's json.
    """

    key: str
    image: NDArray[Any]
    mask: NDArray[np.uint8] | None = None
    label: int | None = None
    weight: float = 1.0
    meta: Mapping[str, Any] = field(default_factory=dict)
