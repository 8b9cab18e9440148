"""The state of a network outside its engine."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn


@dataclass
class NetworkState:
    """The state of a network that no engine holds, on the CPU.

    Attributes:
        weights: every parameter and buffer.
        moments: name of a moment -> parameter -> tensor of its shape; empty before the first optimiser step.
        steps: optimiser steps taken.
    """

    weights: dict[str, Tensor]
    moments: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    steps: int = 0


def with_added(
    state: NetworkState, module: nn.Module, added: re.Pattern[str] | None, where: str
) -> tuple[NetworkState, list[str]]:
    """Complete the state of an earlier version with zeros for the parameters that were added later.

    Args:
        state: state from a checkpoint.
        module: the network as it is built now.
        added: matches the parameters that may be missing; see `Trained.added`.
        where: origin of the state, for the message.

    Returns:
        The completed state, and a line for the user if parameters were missing.
    """
    own = dict(module.named_parameters())
    missing = [name for name in own if added and added.fullmatch(name) and name not in state.weights]
    if not missing:
        return state, []

    def completed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**tensors, **{name: torch.zeros(own[name].shape, dtype=own[name].dtype) for name in missing}}

    moments = {moment: completed(tensors) for moment, tensors in state.moments.items()}
    more = f" and {len(missing) - 1} more parameters" if missing[1:] else ""
    line = f"{where} was written by an earlier version, which lacks {missing[0]}{more}: they start at zero"
    return replace(state, weights=completed(state.weights), moments=moments), [line]
