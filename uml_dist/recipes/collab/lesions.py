"""Lesion maps: the generator's scores as probabilities, and as evidence."""

from dataclasses import dataclass

import torch
from torch import Tensor

from uml_kernels import opinion

from .evidence import EVIDENCE

PRESENCE = 2
"""Classes of an opinion on a lesion: absent and present."""


@dataclass(frozen=True)
class LesionMaps:
    """What the generator predicts of each lesion in each pixel.

    Attributes:
        probability: (B, L, H, W) float32.
        vacuity: (B, L, H, W) float32 in (0, 1]; None without evidence.
    """

    probability: Tensor
    vacuity: Tensor | None = None

    @classmethod
    def of(cls, scores: Tensor) -> "LesionMaps":
        """Return the maps of logits (B, L, H, W), or of the evidence of absence and presence, (B, L, 2, H, W)."""
        if scores.dim() == 4:
            return cls(torch.sigmoid(scores.float()))
        seen = opinion(scores, EVIDENCE, dim=2)
        return cls(seen.probability[:, :, 1], seen.vacuity)
