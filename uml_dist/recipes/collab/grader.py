"""The grader: grades a whole image, and again by what the attention to each lesion lets through."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from uml_kernels.layout import at_least_float32

from ...backbones.normalisation import Normalisation
from ...nn.fork import fork
from ...nn.recomputation import recomputed
from .attention import LesionAttention, Refinement
from .heads import OrdinalHead
from .trunk import Trunk

AttentionKind = Literal["none", "mask", "low", "full"]
"""What the grade sees of lesions: nothing; the feature weighted by their maps; by maps refined by the low feature; or
by these and the vector of the whole image."""


class GraderFeatures(NamedTuple):
    """What the attention knows of the image itself.

    Attributes:
        low: (B, low_width, h, w).
        vector: (B, high_width).
    """

    low: Tensor
    vector: Tensor


class GraderOutput(NamedTuple):
    """What the grader returns (a tuple, because DeepSpeed's hooks find tensors in no other class).

    Attributes:
        logits: (B, K), or (B, K - 1) of the ordinal head, at least in float32.
        attention: (B, L, h, w) in [0, 1], the refined maps at the size of the low feature; None without attention.
    """

    logits: Tensor
    attention: Tensor | None

    def attention_at(self, size: tuple[int, int]) -> Tensor:
        """Return the refined maps (B, L, H, W) at a size (H, W), such as the image's."""
        assert self.attention is not None, "the grade was computed without attention"
        if self.attention.shape[2:] == size:
            return self.attention
        return functional.interpolate(self.attention, size, mode="bilinear", align_corners=False)


class Grader(nn.Module):
    """A trunk with a head for the grade, and attention to lesions between the two parts of the trunk.

    Args:
        trunk: the backbone.
        lesions: number of lesions, L.
        grades: number of grades, K.
        width: channels of the attention, at least 4.
        norm: creates the normalisations of the attention.
        attention: kind of attention.
        refinement: how the attention refines maps, see `LesionAttention`.
        ordinal: whether the head has one score with thresholds instead of a score for each grade.
        one_by_one: whether lesions go through the network one after another, with activations recomputed in backward,
            so that memory hardly depends on the number of lesions. Otherwise all go through the high part together, as
            one larger batch; batch norm needs this, since it takes its statistics over all lesions.
        checkpointing: whether to recompute the activations of the trunk for the image itself, too.

    Attributes:
        attended: bool tensor, whether the attention has learnt; before, grades by attention mean nothing.
    """

    attended: Tensor

    def __init__(
        self,
        trunk: Trunk,
        lesions: int,
        grades: int,
        width: int,
        norm: Normalisation,
        attention: AttentionKind = "full",
        refinement: Refinement = "correction",
        ordinal: bool = False,
        one_by_one: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.lesions = lesions
        self.one_by_one = one_by_one
        self.checkpointing = checkpointing
        refined = lesions if attention in ("low", "full") else 0
        attentions = (LesionAttention(trunk.low_width, width, norm, refinement) for _ in range(refined))
        self.attention = nn.ModuleList(attentions)
        self.gate = nn.Linear(trunk.high_width, width) if attention == "full" else None
        self.join = _averaging(lesions, trunk.high_width) if attention != "none" else None
        self.register_buffer("attended", torch.zeros((), dtype=torch.bool))
        self.head = OrdinalHead(trunk.high_width, grades) if ordinal else nn.Linear(trunk.high_width, grades)

    def features(self, image: Tensor) -> GraderFeatures:
        """Compute the features of images (B, channels, H, W), which another copy accepts in `forward`."""
        low, for_vector = fork(self._low(image), 2)
        return GraderFeatures(low, self._high(for_vector))

    def forward(
        self, image: Tensor, maps: Tensor | None = None, features: GraderFeatures | None = None
    ) -> GraderOutput:
        """Grade images by themselves or, given maps of lesions, by the attention to each lesion.

        Args:
            image: (B, channels, H, W), both sides multiples of 16, at least 32.
            maps: (B, L, H, W) in [0, 1]; None to grade without attention.
            features: features of the images by another copy, such as a frozen one, which take the place of the own
                ones; the images and the low part are not used then.
        """
        low = self._low(image) if features is None else features.low
        if maps is None or self.join is None:
            return GraderOutput(self._logits(self._high(low)), None)
        if self.training:
            self.attended.fill_(True)
        gate = None
        if self.gate:
            low, for_gate = fork(low, 2)
            gate = self.gate(self._high(for_gate) if features is None else features.vector)
        if self.trunk.stride > 1:
            # The maximum, because the mean would erase lesions of one pixel.
            maps = functional.max_pool2d(maps, self.trunk.stride)
        attend = self._one_by_one if self.one_by_one else self._together
        attention, vectors = attend(maps, low, gate)
        return GraderOutput(self._logits(self.join(vectors)), attention)

    def _one_by_one(self, maps: Tensor, low: Tensor, gate: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the refined maps (B, L, h, w) and the lesions' vectors (B, L high_width)."""
        attention: list[Tensor] = []
        vectors: list[Tensor] = []
        gates = fork(gate, self.lesions) if gate is not None else [None] * self.lesions
        for lesion, lesion_map in enumerate(maps.split(1, 1)):
            # Forked lesion by lesion: backward then keeps the sum of the gradients, not those of all lesions.
            uses = 2 if lesion + 1 < self.lesions else 1
            for_vector, *rest = fork(low, uses + bool(self.attention))
            if self.attention:
                lesion_map = recomputed(self.attention[lesion], lesion_map, rest.pop(), gates[lesion])
            attention.append(lesion_map)
            vectors.append(recomputed(self._vector, lesion_map, for_vector))
            low = rest[0] if rest else low
        return torch.cat(attention, 1), torch.cat(vectors, 1)

    def _together(self, maps: Tensor, low: Tensor, gate: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the same with the lesions as one batch of the high part."""
        low, *others = fork(low, 1 + len(self.attention))
        if self.attention:
            split = zip(self.attention, maps.split(1, 1), others, strict=True)
            maps = torch.cat([attention(lesion_map, other, gate) for attention, lesion_map, other in split], 1)
        weighted = low.unsqueeze(1) * maps.unsqueeze(2).to(low.dtype)
        vectors = self.trunk.high(weighted.flatten(0, 1))
        return maps, vectors.unflatten(0, (-1, self.lesions)).flatten(1)

    def _vector(self, lesion_map: Tensor, low: Tensor) -> Tensor:
        return self.trunk.high(low * lesion_map.to(low.dtype))

    def _low(self, image: Tensor) -> Tensor:
        return recomputed(self.trunk.low, image) if self.checkpointing else self.trunk.low(image)

    def _high(self, low: Tensor) -> Tensor:
        return recomputed(self.trunk.high, low) if self.checkpointing else self.trunk.high(low)

    def _logits(self, vector: Tensor) -> Tensor:
        return at_least_float32(self.head(vector))


def _averaging(lesions: int, width: int) -> nn.Linear:
    """Return a layer that joins the lesions' vectors, at first by their mean.

    The head has learnt to grade vectors of this kind. With random weights, it began from evidence of nothing, whose
    gradient vanishes.
    """
    join = nn.Linear(lesions * width, width)
    with torch.no_grad():
        join.weight.copy_(torch.eye(width).repeat(1, lesions) / lesions)
        join.bias.zero_()
    return join
