"""Bidirectional copy-paste of labelled and unlabelled patches (Bai et al., CVPR 2023)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...nn.keyed_dropout import keyed_uniform


@dataclass(frozen=True)
class Pasting:
    """A box of every pair of patches: inside it, the patches of the pair are exchanged.

    Attributes:
        inside: (B, *S) bool, the voxels of the box.
    """

    inside: Tensor

    @classmethod
    def draw(cls, shape: tuple[int, ...], share: float, rng_key: Tensor) -> "Pasting":
        """Draw a box for each sample, anywhere within the patch.

        Args:
            shape: sides of the patch, *S.
            share: side of the box, as a share of the patch's.
            rng_key: (B,) int64, the keys of the samples.
        """
        inside = torch.ones((len(rng_key), *shape), dtype=torch.bool, device=rng_key.device)
        for axis, side in enumerate(shape):
            length = max(1, round(share * side))
            corner = (keyed_uniform(rng_key, "box", axis) * (side - length + 1)).long().clamp(max=side - length)
            place = torch.arange(side, device=rng_key.device)
            within = (place >= corner[:, None]) & (place < corner[:, None] + length)
            inside &= within.reshape(-1, *(side if other == axis else 1 for other in range(len(shape))))
        return cls(inside)

    def exchange(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the first (B, ...) with the second's boxes, then the second with the first's: (2 B, ...).

        Args:
            first: (B, *S) or (B, channels, *S).
            second: of the same shape.
        """
        inside = self.inside if first.dim() == self.inside.dim() else self.inside[:, None]
        return torch.cat([torch.where(inside, second, first), torch.where(inside, first, second)])
