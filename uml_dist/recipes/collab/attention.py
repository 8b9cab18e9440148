"""The attention to one lesion: its map, refined by what the grade needs of the image."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from uml_kernels.layout import at_least_float32

from ...backbones.normalisation import Normalisation


class LesionAttention(nn.Module):
    """Refines the map of one lesion by the low feature and, channel by channel, by the vector of the whole image.

    Every lesion has one of its own. Together they are the grouped convolutions of the method, but can be run one after
    another.

    Args:
        low_width: channels of the low feature.
        width: channels of the joint feature, at least 4; the map is embedded in half as many.
        norm: creates a normalisation layer for a number of channels.
    """

    def __init__(self, low_width: int, width: int, norm: Normalisation) -> None:
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
        return torch.sigmoid(at_least_float32(self.head(joint)))
