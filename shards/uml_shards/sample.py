"""One record of a data set, decoded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORE = 255
"""Mask value of pixels that no loss and no metric looks at."""


PICTURES = ("jpg", "jpeg", "png", "tif", "tiff")
"""Components that are an image of two dimensions."""


@dataclass(frozen=True)
class Sample:
    """One image with what is known of it.

    Attributes:
        key: its name in the data set, unique within a split.
        image: (H, W, channels), uint8 or uint16; of a volume (H, W, D, channels), uint8, uint16, int16, float16 or
            float32.
        mask: (H, W) or (H, W, D) uint8 class numbers with 255 = ignore; (L, H, W) for L overlapping lesions; None
            without a mask.
        label: image class, or None when it is not known.
        weight: 1, or 0 for a placeholder that keeps the place of a bad sample.
        meta: whatever else the sample's json holds.
    """

    key: str
    image: NDArray[Any]
    mask: NDArray[np.uint8] | None = None
    label: int | None = None
    weight: float = 1.0
    meta: Mapping[str, Any] = field(default_factory=dict)
