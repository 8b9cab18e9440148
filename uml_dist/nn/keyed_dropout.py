"""Keyed random numbers on tensors, and dropout whose mask is a function of (seed, stream, position, layer).

The hash is that of `uml_shards.keyed`, in wrapping int64 arithmetic, which runs on any device. Each sample of a batch
carries its `rng_key`, one int64 hashed from seed, stream and position; a layer adds its name and the element. So a mask
does not depend on rank, micro batch, worker or earlier calls, and no generator state has to be saved.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from uml_shards.keyed import FIRST, GOLDEN, SECOND, word

_RNG_KEY: ContextVar[Tensor | None] = ContextVar("rng_key", default=None)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift_right(value: Tensor, bits: int) -> Tensor:
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def keyed_bits(key: Tensor, *words: str | int | Tensor) -> Tensor:
    """Return 64 random bits as int64 for each key extended by words (names, integers, int64 tensors that broadcast)."""
    state = key
    for part in words:
        part = part if isinstance(part, Tensor) else _signed(word(part))
        state = (state ^ part) + _signed(int(GOLDEN))
        state = (state ^ _shift_right(state, 30)) * _signed(int(FIRST))
        state = (state ^ _shift_right(state, 27)) * _signed(int(SECOND))
        state = state ^ _shift_right(state, 31)
    return state


def keyed_uniform(key: Tensor, *words: str | int | Tensor) -> Tensor:
    """Return uniform float32 numbers in [0, 1) with 24 random bits, for each key extended by words."""
    return _shift_right(keyed_bits(key, *words), 40).to(torch.float32) * 2.0**-24


def keyed_normal(key: Tensor, shape: Sequence[int], *words: str | int | Tensor) -> Tensor:
    """Return standard normal float32 numbers (B, *shape), by the Box-Muller method from uniform ones of 24 bits.

    Args:
        key: (B,) int64, such as `Batch.rng_key`.
        shape: shape of the values of one sample.
        words: further parts of the key, such as the name of the operation.
    """
    each = torch.arange(math.prod(shape), device=key.device)
    radius, angle = (keyed_uniform(key[:, None], *words, name, each) for name in ("radius", "angle"))
    # 1 - u is in (0, 1], so the logarithm is finite.
    values = torch.sqrt(-2.0 * torch.log1p(-radius)) * torch.cos(2.0 * math.pi * angle)
    return values.reshape(len(key), *shape)


@contextmanager
def use_rng_key(rng_key: Tensor | None) -> Iterator[None]:
    """Set the keys of the random numbers for the samples of the batch inside the block.

    Args:
        rng_key: (B,) int64, `Batch.rng_key`.
    """
    token = _RNG_KEY.set(rng_key)
    try:
        yield
    finally:
        _RNG_KEY.reset(token)


def current_rng_key() -> Tensor | None:
    """Return the keys of the innermost `use_rng_key`, or None."""
    return _RNG_KEY.get()


class KeyedDropout(nn.Module):
    """Dropout of whole channels or of single values, keyed by sample and layer.

    The layer's name is part of the key; `name_layers` sets it from the module tree, so that two runs agree.

    Args:
        probability: probability that a channel, or a value, is set to zero in training; the others are scaled by
            1 / (1 - probability).
        whole_channels: whether all values of a channel are dropped together.
    """

    def __init__(self, probability: float, whole_channels: bool = True) -> None:
        super().__init__()
        self.probability = probability
        self.whole_channels = whole_channels
        self.layer: str | None = None

    def forward(self, feature: Tensor) -> Tensor:
        """Drop channels, or values, of a feature (B, channels, *S).

        Raises:
            RuntimeError: in training, outside of `use_rng_key` or before `name_layers`.
        """
        if not self.training or self.probability == 0.0:
            return feature
        rng_key = current_rng_key()
        if rng_key is None or self.layer is None:
            raise RuntimeError("keyed dropout needs `use_rng_key(batch.rng_key)` around the network's call")
        shape = feature.shape[1:2] if self.whole_channels else feature.shape[1:]
        each = torch.arange(shape.numel(), device=feature.device)
        uniform = keyed_uniform(rng_key[:, None], self.layer, each)
        keep = (uniform >= self.probability).to(feature.dtype) / (1.0 - self.probability)
        return feature * keep.reshape(len(feature), *shape, *(1,) * (feature.dim() - 1 - len(shape)))

    def extra_repr(self) -> str:
        """Return the probability for printing."""
        return f"probability={self.probability}, whole_channels={self.whole_channels}"


def name_layers(network: nn.Module) -> nn.Module:
    """Name every keyed layer of a network by its path in the module tree; return the network."""
    for name, module in network.named_modules():
        if isinstance(module, KeyedDropout):
            module.layer = name
    return network
