"""Keeps the largest connected component of each predicted class."""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from ..batch import Prediction
from ..errors import UmlError

NEEDS_CLASSES = "evaluation.largest_component needs one class per pixel"


def keep_largest(prediction: Prediction) -> Prediction:
    """Return a prediction with the pixel classes of which only the largest component of each class is kept.

    Pixels that touch at a face, an edge or a corner are connected. Of components of one size, the first one in memory
    order is kept. The other pixels of a class become background. Probabilities and uncertainties stay.

    Raises:
        UmlError: no pixel classes are predicted.
    """
    classes = prediction.pixel_class
    if classes is None:
        raise UmlError(f"{NEEDS_CLASSES}, which the recipe does not predict: set it to false")
    kept = np.stack([_largest_components(one) for one in classes.cpu().numpy()])
    return replace(prediction, cleaned=torch.from_numpy(kept).to(classes.device))


def _largest_components(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return classes (*S) with one component at most of each class but 0, the background."""
    kept = np.zeros_like(classes)
    touching = np.ones((3,) * classes.ndim, dtype=bool)
    for number, box in enumerate(ndimage.find_objects(classes), 1):
        if box is None:
            continue
        components = np.zeros(classes[box].shape, dtype=np.int32)
        ndimage.label(classes[box] == number, touching, output=components)
        sizes = np.bincount(components.ravel())
        kept[box][components == 1 + int(sizes[1:].argmax())] = number
    return kept
