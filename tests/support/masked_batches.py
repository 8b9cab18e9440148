"""Batches of masks and certain predictions, for tests of metrics that need no images."""

from collections.abc import Sequence

import numpy as np
import torch

from uml_dist.batch import Batch, Prediction


def batch_of(masks: Sequence[np.ndarray], spacings: Sequence[Sequence[float] | None] | None = None) -> Batch:
    """Return a batch of masks, each (*S) or (L, *S), with voxel sizes in mm where they are known."""
    stacked = torch.as_tensor(np.stack(masks), dtype=torch.uint8)
    number = len(masks)
    return Batch(
        image=torch.zeros(number, 1, *stacked.shape[1:]),
        mask=stacked,
        label=torch.full((number,), -1),
        weight=torch.ones(number),
        rng_key=torch.arange(number),
        position=torch.arange(number),
        keys=tuple(map(str, range(number))),
        meta=tuple({} if one is None else {"spacing": one} for one in spacings or [None] * number),
    )


def predicting(classes: Sequence[np.ndarray], number: int = 2) -> Prediction:
    """Return the certain prediction of pixel classes, each (*S)."""
    hot = torch.nn.functional.one_hot(torch.as_tensor(np.stack(classes)).long(), number)
    return Prediction(pixel_probability=hot.movedim(-1, 1).float())
