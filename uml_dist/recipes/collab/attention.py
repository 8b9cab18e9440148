"""The attention to one lesion: its map, refined by what the grade needs of the image."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from uml_kernels.layout import at_least_float32

from ...backbones.normalisation import Normalisation

Refinement = Literal["correction", "anew"]

SMALLEST = 1e-4
"""Distance that a map keeps from 0 and 1 before its logit is taken."""


class LesionAttention(nn.Module):
    """Refines the map of one lesion by the low feature and, channel by channel, by the vector of the whole image.

    Every lesion has one of its own. Together they are the grouped convolutions of the method, but can be run one after
    another.

    Args:
        low_width: channels of the low feature.
        width: channels of the joint feature, at least 4; the map is embedded in half as many.
        norm: creates a normalisation layer for a number of channels.
        refinement: whether the refined map is a correction, added to the logit of the generator's map and 0 before
            training, or computed anew, as in the method's lineage.
    """

    def __init__(self, low_width: int, width: int, norm: Normalisation, refinement: Refinement = "correction") -> None:
        super().__init__()
        first, second = width // 4, width // 2
        self.embed = nn.Sequential(
            nn.Conv2d(1, first, 3, padding=1),
            nn.ReLU(inplace=True),
            norm(first),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(inplace=True),
            norm(second),
        )
        self.join = nn.Conv2d(second + low_width, width, 3, padding=1)
        self.head = nn.Conv2d(width, 1, 3, padding=1)
        self.corrects = refinement == "correction"
        if self.corrects:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, lesion_map: Tensor, low: Tensor, gate: Tensor | None) -> Tensor:
        """Return the refined map, (B, 1, h, w) in (0, 1), at least in float32.

        Args:
            lesion_map: (B, 1, h, w) in [0, 1].
            low: (B, low_width, h, w).
            gate: (B, width), factors of the joint feature's channels; None for ones.
        """
        joint = functional.relu(self.join(torch.cat([self.embed(lesion_map), low], 1)))
        if gate is not None:
            joint = joint * gate[:, :, None, None].to(joint.dtype)
        logit = at_least_float32(self.head(joint))
        if self.corrects:
            logit = logit + torch.logit(lesion_map.to(logit.dtype), SMALLEST)
        return torch.sigmoid(logit)
