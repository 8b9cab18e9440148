"""An encoder as a configuration chooses it: its name, widths, normalisation and published weights."""

from typing import NamedTuple

import torch

from .normalisation import Normalisation
from .registry import ENCODERS, Encoder, EncoderName
from .weights import load_weights


class EncoderChoice(NamedTuple):
    """The encoder of one task, resolved.

    Attributes:
        name: name of the encoder.
        widths: channels of its four features.
        weights: file of its published weights.
        frozen: whether batch norm is frozen at the statistics of the weights.
        norm: makes its normalisations; `nn.Identity` for none.
    """

    name: EncoderName
    widths: tuple[int, ...]
    weights: str | None
    frozen: bool
    norm: Normalisation

    def build(self, channels: int) -> Encoder:
        """Return an encoder with random weights for images with a number of channels."""
        return ENCODERS[self.name].make(channels, self.widths, self.norm)

    def load(self, encoder: Encoder) -> list[str]:
        """Load the weights of the file, if one is given; see `uml_dist.backbones.load_weights`."""
        published = ENCODERS[self.name].published
        if self.weights is None or published is None:
            return []
        return [load_weights(encoder, self.weights, published)]

    def check(self, channels: int) -> None:
        """Compare the file of weights, if one is given, with the encoder, without building it.

        Raises:
            UmlError: see `uml_dist.backbones.load_weights`.
        """
        if self.weights:
            with torch.device("meta"):
                self.load(self.build(channels))


def scaled(channels: tuple[int, ...], width: float) -> tuple[int, ...]:
    """Return numbers of channels scaled by the width, rounded to multiples of 8, at least 8."""
    return tuple(max(8, round(number * width / 8) * 8) for number in channels)
