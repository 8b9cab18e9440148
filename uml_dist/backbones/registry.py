"""The registry of encoders by name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from . import res2net, vgg
from .compact import CompactEncoder
from .normalisation import Normalisation
from .res2net import Res2Net50
from .vgg import Vgg16
from .weights import Published

EncoderName = Literal["compact", "res2net50", "vgg16"]
Encoder = CompactEncoder | Res2Net50 | Vgg16
"""Modules with `widths` that compute four features of an image, at 1, 1/2, 1/4 and 1/8 of its size, or one of them from
the one before by `stage`."""


@dataclass(frozen=True)
class EncoderKind:
    """How to create an encoder.

    Attributes:
        make: creates the encoder from the image's channels, the features' channels and the normalisation.
        widths: channels of the features in the encoder's paper; None if any are allowed.
        published: keys of its weight files; None if there are no published weights.
    """

    make: Callable[[int, Sequence[int], Normalisation], Encoder]
    widths: tuple[int, int, int, int] | None = None
    published: Published | None = None


ENCODERS: dict[EncoderName, EncoderKind] = {
    "compact": EncoderKind(CompactEncoder),
    "res2net50": EncoderKind(Res2Net50, res2net.WIDTHS, res2net.PUBLISHED),
    "vgg16": EncoderKind(Vgg16, vgg.WIDTHS, vgg.PUBLISHED),
}
