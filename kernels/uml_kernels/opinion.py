"""Subjective opinions of logits: evidence, belief, vacuity, gate and probability.

The terms follow Jøsang, Subjective Logic, 2016; the evidence Sensoy et al. 2018; the gate UML, MICCAI 2023.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from uml_kernels import plain
from uml_kernels.check import check_logits
from uml_kernels.cpu import opinion as cpu
from uml_kernels.layout import as_pixels, map_shape, result_dtype
from uml_kernels.operation import Operation

EvidenceKind = Literal["softplus", "relu", "exp", "given"]
"""How logits become evidence.

softplus as in UML; relu as in Sensoy et al. 2018; exp of the logits, clamped to at most 16; given where the logits are
evidence already. Evidence is clamped to at most 1e9.
"""


@dataclass(frozen=True)
class Opinion:
    """The opinion of a Dirichlet distribution with alpha = evidence + 1; its properties are computed on access.

    The beliefs and the vacuity sum to 1; probability = belief + vacuity / C. All values are differentiable, in float32
    (float64 for float64 logits). It is a pytree of its three tensors, so a model can return one under torch.func and
    torch.export.

    Attributes:
        evidence: (*lead, C, *S), from 0 to 1e9.
        vacuity: (*lead, *S) in (0, 1]: C / strength, the belief mass not assigned to any class.
        gate: (*lead, *S) in [1/e, 1]: exp(-vacuity).
        dim: class dimension. `opinion` sets a negative one, which stays valid under torch.vmap.
    """

    evidence: Tensor
    vacuity: Tensor
    gate: Tensor
    dim: int = 1

    @property
    def alpha(self) -> Tensor:
        """Dirichlet parameters (*lead, C, *S), at least 1."""
        return self.evidence + 1

    @property
    def strength(self) -> Tensor:
        """Sum of alpha (*lead, *S), at least C."""
        return self.evidence.shape[self.dim] / self.vacuity

    @property
    def belief(self) -> Tensor:
        """Belief masses (*lead, C, *S) in [0, 1): evidence / strength."""
        return self.evidence * self._inverse_strength

    @property
    def probability(self) -> Tensor:
        """Expected probabilities (*lead, C, *S): alpha / strength; they sum to 1."""
        return self.alpha * self._inverse_strength

    @property
    def _inverse_strength(self) -> Tensor:
        return (self.vacuity / self.evidence.shape[self.dim]).unsqueeze(self.dim)


def _leaves(opinion: Opinion) -> tuple[list[Any], int]:
    return [opinion.evidence, opinion.vacuity, opinion.gate], opinion.dim


def _named_leaves(opinion: Opinion) -> tuple[list[tuple[Any, Any]], int]:
    leaves, dim = _leaves(opinion)
    names = ("evidence", "vacuity", "gate")
    return [(pytree.GetAttrKey(name), leaf) for name, leaf in zip(names, leaves, strict=True)], dim


pytree.register_pytree_node(
    Opinion,
    _leaves,
    lambda leaves, dim: Opinion(*leaves, dim=dim),
    serialized_type_name="uml_kernels.Opinion",
    flatten_with_keys_fn=_named_leaves,
)


class PredictiveMaps(NamedTuple):
    """Results of inference for each pixel, float32 (float64 for float64 logits), without gradient.

    Attributes:
        probability: (*lead, C, *S), the expected probability alpha / strength; None if labels were requested.
        label: (*lead, *S) uint8, the class with the most evidence (the lowest index of equals), 255 where a logit is
            NaN; None unless labels were requested.
        vacuity: (*lead, *S) in (0, 1].
        entropy: (*lead, *S), entropy of the expected probability in nats, from 0 to ln C.
    """

    probability: Tensor | None
    label: Tensor | None
    vacuity: Tensor
    entropy: Tensor


pytree._register_namedtuple(PredictiveMaps, serialized_type_name="uml_kernels.PredictiveMaps")


def opinion(logits: Tensor, kind: EvidenceKind = "softplus", dim: int = 1) -> Opinion:
    """Compute evidence, vacuity and gate in one read of the logits; differentiable, with one backward pass.

    Args:
        logits: (*lead, C, *S), 2 to 16 classes along `dim`, any floating-point dtype, any strides. The computation is
            in float32 (for float64 logits on a CPU in float64), regardless of autocast.
        kind: how logits become evidence; see `EvidenceKind`.
        dim: class dimension.

    Raises:
        ValueError: the logits are not floating-point, lack the dimension, or have too few or too many classes along it;
            or the kind is unknown.
    """
    check_logits(logits, dim, kind)
    dim %= logits.dim()
    from_back = dim - logits.dim()
    if plain.is_exporting():
        return Opinion(*plain.opinion(logits, kind, dim), from_back)
    pixels, alone = _as_pixels(logits, dim)
    evidence, vacuity, gate = _opinion(pixels, kind)
    shape = map_shape(logits, dim)
    return Opinion(_as_classes(evidence, logits, alone), vacuity.reshape(shape), gate.reshape(shape), from_back)


def predictive_maps(
    logits: Tensor, kind: EvidenceKind = "softplus", dim: int = 1, classes: bool = False
) -> PredictiveMaps:
    """Compute probability or label, vacuity and entropy in one read of the logits, without gradient.

    Args:
        logits: see `opinion`.
        kind: see `opinion`.
        dim: see `opinion`.
        classes: return the label of each pixel instead of the probability of each class: one byte instead of C floats.

    Raises:
        ValueError: see `opinion`.
    """
    check_logits(logits, dim, kind)
    logits, shape = logits.detach(), map_shape(logits, dim)
    if plain.is_exporting():
        first, vacuity, entropy = plain.predictive_maps(logits, kind, dim % logits.dim(), classes)
        return PredictiveMaps(None if classes else first, first if classes else None, vacuity, entropy)
    pixels, alone = _as_pixels(logits, dim)
    first, vacuity, entropy = _predictive_maps(pixels, kind, classes)
    probability = None if classes else _as_classes(first, logits, alone)
    label = first.reshape(shape) if classes else None
    return PredictiveMaps(probability, label, vacuity.reshape(shape), entropy.reshape(shape))


def _as_pixels(logits: Tensor, dim: int) -> tuple[Tensor, bool]:
    """View logits as (B, C, P); samples of one pixel become pixels of one sample, so that a program processes many.

    Returns:
        The view, and whether samples became pixels.
    """
    pixels = as_pixels(logits, dim)
    alone = pixels.shape[2] == 1
    return (pixels.permute(2, 1, 0) if alone else pixels), alone


def _as_classes(pixels: Tensor, like: Tensor, alone: bool) -> Tensor:
    """Restore the shape from before `_as_pixels`."""
    return (pixels.permute(2, 1, 0) if alone else pixels).reshape(like.shape)


def _shapes(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    dtype = result_dtype(logits)
    vacuity = logits.new_empty((logits.shape[0], logits.shape[2]), dtype=dtype)
    return torch.empty_like(logits, dtype=dtype), vacuity, torch.empty_like(vacuity)


def _maps_shapes(logits: Tensor, kind: str, classes: bool) -> tuple[Tensor, Tensor, Tensor]:
    probability, vacuity, entropy = _shapes(logits)
    return torch.empty_like(vacuity, dtype=torch.uint8) if classes else probability, vacuity, entropy


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(inputs[0])
    ctx.kind = inputs[1]


def _gradient(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, None]:
    if all(each is None for each in upstream):
        return None, None
    return _opinion_backward(*ctx.saved_tensors, *upstream, ctx.kind), None


_opinion_backward = Operation(
    "opinion_backward(Tensor logits, Tensor? for_evidence, Tensor? for_vacuity, Tensor? for_gate, str kind) -> Tensor",
    cpu=cpu.opinion_backward,
    gpu="opinion.opinion_backward",
    shapes=lambda logits, *_: torch.empty_like(logits),
)
_opinion = Operation(
    "opinion(Tensor logits, str kind) -> (Tensor, Tensor, Tensor)",
    cpu=cpu.opinion,
    gpu="opinion.opinion",
    shapes=_shapes,
).differentiable(_save, _gradient)
_predictive_maps = Operation(
    "predictive_maps(Tensor logits, str kind, bool classes) -> (Tensor, Tensor, Tensor)",
    cpu=cpu.predictive_maps,
    gpu="opinion.predictive_maps",
    shapes=_maps_shapes,
)
