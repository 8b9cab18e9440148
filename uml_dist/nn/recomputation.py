"""Activations that are recomputed in backward instead of being stored."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from .keyed_dropout import current_rng_key, use_rng_key


def recomputed(function: Callable[..., Any], *inputs: Any) -> Any:
    """Call a function and store only its inputs for backward.

    Backward runs the function again up to the last operation whose inputs are needed, so a convolution at the end does
    not run twice. Keyed dropout drops the same channels. Without gradients, this is a plain call.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(
        function, *inputs, use_reentrant=False, preserve_rng_state=False, context_fn=_same_key(current_rng_key())
    )


def _same_key(
    rng_key: torch.Tensor | None,
) -> Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]:
    """Return contexts for the first run and the recomputation, at which the batch's key is no longer set."""
    return lambda: (nullcontext(), use_rng_key(rng_key))
