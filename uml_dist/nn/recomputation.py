"""Activations that backward computes anew instead of keeping them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from .keyed_dropout import current_rng_key, use_rng_key


def recomputed(function: Callable[..., Any], *inputs: Any) -> Any:
    """What a function gives for its inputs, which alone are kept for backward.

    Backward runs the function anew as far as the last operation whose inputs are needed: a convolution at the end does
    not run twice. Keyed dropout drops the same channels. Without gradients it is a plain call.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(
        function, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=_same_key(current_rng_key())
    )


def _same_key(
    rng_key: torch.Tensor | None,
) -> Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]:
    """Contexts for the first run and the recomputation: the latter runs when the batch's key is no longer set."""
    return lambda: (nullcontext(), use_rng_key(rng_key))
