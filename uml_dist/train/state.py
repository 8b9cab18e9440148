"""The state of a network outside of any engine."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class NetworkState:
    """A network at rest, on the CPU.

    Attributes:
        weights: every parameter and buffer.
        moments: name of a moment -> parameter -> tensor of its shape; empty before the first optimiser step.
        steps: optimiser steps taken.
    """

    weights: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    steps: int = 0
