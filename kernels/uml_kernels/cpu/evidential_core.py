"""The evidential objective on planes of pixels: the part that torch.compile can fuse into one CPU loop.

Planes are (P,) for a slice of one sample, or (B, P) for several samples; sums are over the last dimension.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .dirichlet import Planes, Slopes, Terms, hard_slopes, hard_terms, soft_slopes, soft_terms
from .opinion import evidence_of, slope_of


class Pixels(NamedTuple):
    """Inputs of the objective for some pixels.

    Attributes:
        logits: C planes in the dtype of the caller.
        target: plane of class indices, or C planes of soft labels.
        weight: plane of pixel weights, or None.
        class_weight: (C,), or None.
    """

    logits: list[Tensor]
    target: Tensor | list[Tensor]
    weight: Tensor | None
    class_weight: Tensor | None


class Setting(NamedTuple):
    """Arguments common to all pixels; `unmasked` if every pixel has a valid class and there are no weights."""

    kind: str
    dice: str
    ignore_index: int
    unmasked: bool


class _PixelWeights(NamedTuple):
    """Weights of the pixels.

    Attributes:
        excluded: mask of the pixels to ignore, or None if there are none.
        overlap: weights in the Dice sums, or None if all are 1.
        loss: weights in the loss, or None if all are 1.
    """

    excluded: Tensor | None
    overlap: Tensor | None
    loss: Tensor | None

    def weight_loss(self, value: Tensor) -> Tensor:
        """Multiply a plane of the loss by its weights."""
        return self._multiply(value, self.loss)

    def weight_overlap(self, value: Tensor) -> Tensor:
        """Multiply a plane of an overlap by its weights."""
        return self._multiply(value, self.overlap)

    def _multiply(self, value: Tensor, factor: Tensor | None) -> Tensor:
        value = value if factor is None else value * factor
        return value if self.excluded is None else torch.where(self.excluded, 0.0, value)


def _pixel_weights(pixels: Pixels, setting: Setting, dtype: torch.dtype) -> _PixelWeights:
    if setting.unmasked:
        return _PixelWeights(None, None, None)
    excluded = overlap = None
    classes = len(pixels.logits)
    if isinstance(pixels.target, Tensor):
        target = _comparable(pixels.target)
        excluded = target == setting.ignore_index
        unknown = (target < 0) | (target >= classes)
        overlap = torch.where(unknown, torch.nan, 1.0).to(dtype)
    if pixels.weight is not None:
        weight, zero_weight = pixels.weight.to(dtype), pixels.weight == 0
        overlap = weight if overlap is None else overlap * weight
        excluded = zero_weight if excluded is None else excluded | zero_weight
    loss = overlap
    if pixels.class_weight is not None:
        assert isinstance(pixels.target, Tensor)
        assert overlap is not None
        loss = overlap * pixels.class_weight.to(dtype)[pixels.target.long().clamp(0, classes - 1)]
    return _PixelWeights(excluded, overlap, loss)


def _comparable(target: Tensor) -> Tensor:
    # torch's C++ backend converts a mask of bytes to numbers one by one, which took half of the time.
    return target.int() if torch.compiler.is_compiling() and target.dtype == torch.uint8 else target


def _evidence(pixels: Pixels, kind: str) -> list[Tensor]:
    return [evidence_of(plane, kind) for plane in pixels.logits]


def _slopes_of(pixels: Pixels, kind: str) -> list[Tensor]:
    """Return the derivatives of the evidence of each class."""
    return [slope_of(plane, kind) for plane in pixels.logits]


def _terms(evidence: Planes, shares: Planes, hard: bool) -> Terms:
    return hard_terms(evidence, shares) if hard else soft_terms(evidence, shares)


def _slopes(evidence: Planes, shares: Planes, hard: bool) -> Slopes:
    return hard_slopes(evidence, shares) if hard else soft_slopes(evidence, shares)


def _shares(target: Tensor | list[Tensor], like: Planes) -> list[Tensor]:
    """Return the target as C planes of the evidence's dtype.

    Indices that are not classes become the first class; these pixels are excluded or have weight NaN.
    """
    if isinstance(target, Tensor):
        target = _comparable(target)
        others = [(target == c).to(plane.dtype) for c, plane in enumerate(like) if c > 0]
        return [1 - sum(others[1:], others[0]), *others]
    return [share.to(plane.dtype) for share, plane in zip(target, like, strict=True)]


def _probability(evidence: Planes, inverse_strength: Tensor, dice: str) -> list[Tensor]:
    """Return the probability in the Dice sums: softmax of the evidence, or alpha / S."""
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
    """Compute the sums and the vacuity of each pixel.

    Returns:
        Sums of weight, cross-entropy, KL and vacuity, and the Dice sums if any: (4,) or (4 + 3 C,), for planes (B, P)
        (B, ...); and the plane of vacuities.
    """
    evidence = _evidence(pixels, setting.kind)
    classes, dtype = len(evidence), evidence[0].dtype
    shares = _shares(pixels.target, evidence)
    weights = _pixel_weights(pixels, setting, dtype)
    terms = _terms(evidence, shares, isinstance(pixels.target, Tensor))
    vacuity = classes * terms.inverse_strength
    each = [weights.weight_loss(plane) for plane in (terms.cross_entropy, terms.kl, vacuity)]
    if setting.dice != "none":
        probability = _probability(evidence, terms.inverse_strength, setting.dice)
        products = [q * share for q, share in zip(probability, shares, strict=True)]
        each += [weights.weight_overlap(plane) for plane in (*products, *probability, *shares)]
    if setting.unmasked:
        count = vacuity.new_full(vacuity.shape[:-1], vacuity.shape[-1])
    else:
        count = weights.weight_loss(torch.ones_like(vacuity)).sum(-1)
    return torch.stack([count, *(plane.sum(-1) for plane in each)], -1), vacuity


def sums(pixels: Pixels, setting: Setting) -> Tensor:
    """Return only the sums of `sums_and_vacuity`: when compiled, the vacuities are never written."""
    return sums_and_vacuity(pixels, setting)[0]


def sums_gradient(upstream: Tensor, pixels: Pixels, setting: Setting) -> list[Tensor]:
    """Return the gradients of the C planes of logits for an upstream gradient of `sums`."""
    evidence = _evidence(pixels, setting.kind)
    classes = len(evidence)
    shares = _shares(pixels.target, evidence)
    weights = _pixel_weights(pixels, setting, evidence[0].dtype)
    _, for_cross_entropy, for_kl, _, *for_overlaps = (each.unsqueeze(-1) for each in upstream.unbind(-1))
    by_terms = _slopes(evidence, shares, isinstance(pixels.target, Tensor))
    gradients = [
        weights.weight_loss(torch.addcmul(for_cross_entropy * cross_entropy, for_kl, kl))
        for cross_entropy, kl in zip(by_terms.cross_entropy, by_terms.kl, strict=True)
    ]
    if setting.dice != "none":
        probability = _probability(evidence, by_terms.inverse_strength, setting.dice)
        slopes = [torch.addcmul(for_overlaps[classes + c], for_overlaps[c], shares[c]) for c in range(classes)]
        if classes == 2:
            # For two classes q (slope - mean) is q0 q1 times the difference of the slopes, with either sign
            product = probability[0] * probability[1] if setting.dice == "softmax" else by_terms.inverse_strength
            factors = (
                (product, product)
                if setting.dice == "softmax"
                else (probability[1] * product, probability[0] * product)
            )
            difference = slopes[0] - slopes[1]
            parts = [factors[0] * difference, -(factors[1] * difference)]
        else:
            products = [q * slope for q, slope in zip(probability, slopes, strict=True)]
            mean = sum(products[1:], products[0])
            factors = [by_terms.inverse_strength] * classes if setting.dice == "expected" else probability
            parts = [factor * (slope - mean) for factor, slope in zip(factors, slopes, strict=True)]
        gradients = [one + weights.weight_overlap(part) for one, part in zip(gradients, parts, strict=True)]
    # Excluded pixels are set to 0 again, because their slope of the evidence may be NaN
    evidence_slopes = _slopes_of(pixels, setting.kind)
    return [_zero(weights, gradient * slope) for gradient, slope in zip(gradients, evidence_slopes, strict=True)]


def stacked_sums_gradient(upstream: Tensor, pixels: Pixels, setting: Setting) -> Tensor:
    """Return `sums_gradient` as one tensor (B, C, P) in the logits' dtype; compiled, the parts are never written."""
    return torch.stack(sums_gradient(upstream, pixels, setting), 1).to(pixels.logits[0].dtype)


def loss(kl_weight: Tensor, pixels: Pixels, setting: Setting) -> tuple[Tensor, Tensor]:
    """Return the loss and the vacuity of each pixel."""
    evidence = _evidence(pixels, setting.kind)
    terms = _terms(evidence, _shares(pixels.target, evidence), isinstance(pixels.target, Tensor))
    weights = _pixel_weights(pixels, setting, evidence[0].dtype)
    return weights.weight_loss(terms.cross_entropy + kl_weight * terms.kl), len(evidence) * terms.inverse_strength


def loss_gradient(upstream: Tensor, kl_weight: Tensor, pixels: Pixels, setting: Setting) -> list[Tensor]:
    """Return the gradients of the C planes of logits for an upstream gradient of each pixel's loss."""
    evidence = _evidence(pixels, setting.kind)
    weights = _pixel_weights(pixels, setting, evidence[0].dtype)
    by_terms = _slopes(evidence, _shares(pixels.target, evidence), isinstance(pixels.target, Tensor))
    slopes = _slopes_of(pixels, setting.kind)
    return [
        _zero(weights, weights.weight_loss(upstream * (cross_entropy + kl_weight * kl)) * slope)
        for cross_entropy, kl, slope in zip(by_terms.cross_entropy, by_terms.kl, slopes, strict=True)
    ]


def _zero(weights: _PixelWeights, gradient: Tensor) -> Tensor:
    return gradient if weights.excluded is None else torch.where(weights.excluded, 0.0, gradient)
