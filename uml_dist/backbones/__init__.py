"""Encoders that compute features at the scales 1, 1/2, 1/4 and 1/8 of an image."""

from .choice import EncoderChoice, scaled
from .compact import CompactEncoder
from .registry import ENCODERS, Encoder, EncoderKind, EncoderName
from .res2net import Res2Net50
from .vgg import Vgg16
from .weights import load_weights

__all__ = [
    "ENCODERS",
    "CompactEncoder",
    "Encoder",
    "EncoderChoice",
    "EncoderKind",
    "EncoderName",
    "Res2Net50",
    "Vgg16",
    "load_weights",
    "scaled",
]
