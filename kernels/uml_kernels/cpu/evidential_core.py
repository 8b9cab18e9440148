"""The evidential objective of planes of pixels: the part that torch.compile can fuse into one loop on the CPU.

Planes are (P,) of a slice of one sample, or (B, P) of all samples; sums are over the last dimension.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .dirichlet import Planes, Slopes, Terms, hard_slopes, hard_terms, soft_slopes, soft_terms
from .opinion import evidence_of, slope_of


class Pixels(NamedTuple):
    """What the objective knows of some pixels.

    Attributes:
        logits: C planes, as they are given.
        target: class numbers, or C planes of shares.
        weight: a plane, or None.
        class_weight: (C,), or None.
    """

    logits: list[Tensor]
    target: Tensor | list[Tensor]
    weight: Tensor | None
    class_weight: Tensor | None


class Setting(NamedTuple):
    """What is the same for all pixels; `whole` where every pixel counts, is of a class and has no weight."""

    kind: str
    dice: str
    ignore_index: int
    whole: bool


class _Weighing(NamedTuple):
    """Where pixels do not count, their weight in the Dice sums and in the loss; None where all weigh 1."""

    excluded: Tensor | None
    overlap: Tensor | None
    loss: Tensor | None

    def loss_of(self, value: Tensor) -> Tensor:
        """A plane of the loss, weighed."""
        return self._weigh(value, self.loss)

    def overlap_of(self, value: Tensor) -> Tensor:
        """A plane of an overlap, weighed."""
        return self._weigh(value, self.overlap)

    def _weigh(self, value: Tensor, factor: Tensor | None) -> Tensor:
        value = value if factor is None else value * factor
        return value if self.excluded is None else torch.where(self.excluded, 0.0, value)


def _weighing(pixels: Pixels, setting: Setting, dtype: torch.dtype) -> _Weighing:
    if setting.whole:
        return _Weighing(None, None, None)
    excluded = overlap = None
    classes = len(pixels.logits)
    if isinstance(pixels.target, Tensor):
        target = _comparable(pixels.target)
        excluded = target == setting.ignore_index
        unknown = (target < 0) | (target >= classes)
        overlap = torch.where(unknown, torch.nan, 1.0).to(dtype)
    if pixels.weight is not None:
        weight, nothing = pixels.weight.to(dtype), pixels.weight == 0
        overlap = weight if overlap is None else overlap * weight
        excluded = nothing if excluded is None else excluded | nothing
    loss = overlap
    if pixels.class_weight is not None:
        assert isinstance(pixels.target, Tensor)
        assert overlap is not None
        loss = overlap * pixels.class_weight.to(dtype)[pixels.target.long().clamp(0, classes - 1)]
    return _Weighing(excluded, overlap, loss)


def _comparable(target: Tensor) -> Tensor:
    # Torch's C++ back end turns a mask of bytes into numbers one by one, and that took half of the time.
    return target.int() if torch.compiler.is_compiling() and target.dtype == torch.uint8 else target


def _evidence(pixels: Pixels, kind: str) -> list[Tensor]:
    return [evidence_of(plane, kind) for plane in pixels.logits]


def _slopes_of(pixels: Pixels, kind: str) -> list[Tensor]:
    """The derivatives of the evidence of each class."""
    return [slope_of(plane, kind) for plane in pixels.logits]


def _terms(evidence: Planes, shares: Planes, hard: bool) -> Terms:
    return hard_terms(evidence, shares) if hard else soft_terms(evidence, shares)


def _slopes(evidence: Planes, shares: Planes, hard: bool) -> Slopes:
    return hard_slopes(evidence, shares) if hard else soft_slopes(evidence, shares)


def _shares(target: Tensor | list[Tensor], like: Planes) -> list[Tensor]:
    """The target as C planes of the evidence's dtype; what is no class, and so excluded or NaN, is the first."""
    if isinstance(target, Tensor):
        target = _comparable(target)
        others = [(target == c).to(plane.dtype) for c, plane in enumerate(like) if c > 0]
        return [1 - sum(others[1:], others[0]), *others]
    return [share.to(plane.dtype) for share, plane in zip(target, like, strict=True)]


def _probability(evidence: Planes, inverse_strength: Tensor, dice: str) -> list[Tensor]:
    """What overlaps with the target: softmax of the evidence, or alpha / S."""
    if dice == "expected":
        return [(each + 1) * inverse_strength for each in evidence]
    if len(evidence) == 2:
        first = torch.sigmoid(evidence[0] - evidence[1])
        return [first, 1 - first]
    largest = evidence[0]
    for each in evidence[1:]:
        largest = torch.maximum(largest, each)
    powers = [(each - largest).exp() for each in evidence]
    inverse = 1 / sum(powers[1:], powers[0])
    return [power * inverse for power in powers]


def sums_and_vacuity(pixels: Pixels, setting: Setting) -> tuple[Tensor, Tensor]:
    """Sums (4,) or (4 + 3 C,), of planes (B, P) each (B, ...): weight, cross-entropy, KL, vacuity, overlaps.

    And the vacuity of each pixel.
    """
    evidence = _evidence(pixels, setting.kind)
    classes, dtype = len(evidence), evidence[0].dtype
    shares = _shares(pixels.target, evidence)
    weighing = _weighing(pixels, setting, dtype)
    terms = _terms(evidence, shares, isinstance(pixels.target, Tensor))
    vacuity = classes * terms.inverse_strength
    each = [weighing.loss_of(plane) for plane in (terms.cross_entropy, terms.kl, vacuity)]
    if setting.dice != "none":
        probability = _probability(evidence, terms.inverse_strength, setting.dice)
        products = [q * share for q, share in zip(probability, shares, strict=True)]
        each += [weighing.overlap_of(plane) for plane in (*products, *probability, *shares)]
    if setting.whole:
        count = vacuity.new_full(vacuity.shape[:-1], vacuity.shape[-1])
    else:
        count = weighing.loss_of(torch.ones_like(vacuity)).sum(-1)
    return torch.stack([count, *(plane.sum(-1) for plane in each)], -1), vacuity


def sums(pixels: Pixels, setting: Setting) -> Tensor:
    """The sums of `sums_and_vacuity` alone: compiled, the vacuities are never written."""
    return sums_and_vacuity(pixels, setting)[0]


def sums_gradient(upstream: Tensor, pixels: Pixels, setting: Setting) -> list[Tensor]:
    """Gradients of the C planes of logits for an upstream one of `sums`."""
    evidence = _evidence(pixels, setting.kind)
    classes = len(evidence)
    shares = _shares(pixels.target, evidence)
    weighing = _weighing(pixels, setting, evidence[0].dtype)
    _, for_cross_entropy, for_kl, _, *for_overlaps = (each.unsqueeze(-1) for each in upstream.unbind(-1))
    by_terms = _slopes(evidence, shares, isinstance(pixels.target, Tensor))
    gradients = [
        weighing.loss_of(torch.addcmul(for_cross_entropy * cross_entropy, for_kl, kl))
        for cross_entropy, kl in zip(by_terms.cross_entropy, by_terms.kl, strict=True)
    ]
    if setting.dice != "none":
        probability = _probability(evidence, by_terms.inverse_strength, setting.dice)
        asked = [torch.addcmul(for_overlaps[classes + c], for_overlaps[c], shares[c]) for c in range(classes)]
        if classes == 2:
            # q (asked - mean) of two classes is q0 q1 times the difference of what is asked, one way and the other
            product = probability[0] * probability[1] if setting.dice == "softmax" else by_terms.inverse_strength
            factors = (
                (product, product)
                if setting.dice == "softmax"
                else (probability[1] * product, probability[0] * product)
            )
            difference = asked[0] - asked[1]
            parts = [factors[0] * difference, -(factors[1] * difference)]
        else:
            products = [q * ask for q, ask in zip(probability, asked, strict=True)]
            mean = sum(products[1:], products[0])
            factors = [by_terms.inverse_strength] * classes if setting.dice == "expected" else probability
            parts = [factor * (ask - mean) for factor, ask in zip(factors, asked, strict=True)]
        gradients = [one + weighing.overlap_of(part) for one, part in zip(gradients, parts, strict=True)]
    # Once more: the slope of a pixel that does not count may be no number.
    slopes = _slopes_of(pixels, setting.kind)
    return [_zero(weighing, gradient * slope) for gradient, slope in zip(gradients, slopes, strict=True)]


def sums_gradient_whole(upstream: Tensor, pixels: Pixels, setting: Setting) -> Tensor:
    """`sums_gradient` as one tensor (B, C, P) of the logits' dtype: compiled, what it is made of is never written."""
    return torch.stack(sums_gradient(upstream, pixels, setting), 1).to(pixels.logits[0].dtype)


def loss(kl_weight: Tensor, pixels: Pixels, setting: Setting) -> tuple[Tensor, Tensor]:
    """Loss and vacuity of each pixel."""
    evidence = _evidence(pixels, setting.kind)
    terms = _terms(evidence, _shares(pixels.target, evidence), isinstance(pixels.target, Tensor))
    weighing = _weighing(pixels, setting, evidence[0].dtype)
    return weighing.loss_of(terms.cross_entropy + kl_weight * terms.kl), len(evidence) * terms.inverse_strength


def loss_gradient(upstream: Tensor, kl_weight: Tensor, pixels: Pixels, setting: Setting) -> list[Tensor]:
    """Gradients of the C planes of logits for an upstream one of each pixel."""
    evidence = _evidence(pixels, setting.kind)
    weighing = _weighing(pixels, setting, evidence[0].dtype)
    by_terms = _slopes(evidence, _shares(pixels.target, evidence), isinstance(pixels.target, Tensor))
    slopes = _slopes_of(pixels, setting.kind)
    return [
        _zero(weighing, weighing.loss_of(upstream * (cross_entropy + kl_weight * kl)) * slope)
        for cross_entropy, kl, slope in zip(by_terms.cross_entropy, by_terms.kl, slopes, strict=True)
    ]


def _zero(weighing: _Weighing, gradient: Tensor) -> Tensor:
    return gradient if weighing.excluded is None else torch.where(weighing.excluded, 0.0, gradient)
