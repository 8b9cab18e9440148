"""Means of the figures of steps, added up on the device and read at logging steps."""

from collections.abc import Mapping

import torch
import torch.distributed as distributed
from torch import Tensor

from ..distributed.ranks import world_size
from ..recipes import MicroBatchResult
from ..telemetry import bin_opinions


class Means:
    """Adds up losses, other terms and vacuities, and bins the opinions of logging steps, without waiting."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._parts: dict[str, int] = {}
        self._bins: dict[str, Tensor] = {}

    def add(self, result: MicroBatchResult, logged: bool) -> None:
        """Add one micro batch.

        Args:
            result: what the recipe has computed.
            logged: whether it belongs to a logging step.
        """
        vacuity = {f"vacuity_{level}": mean for level, mean in result.vacuity.items()}
        for name, value in {**result.terms, **vacuity}.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._parts[name] = self._parts.get(name, 0) + 1
        for level, opinions in result.opinions.items() if logged else ():
            bins = bin_opinions(opinions.vacuity, opinions.classes)
            self._bins[level] = self._bins[level] + bins if level in self._bins else bins

    def read(self) -> dict[str, float]:
        """Return the means over all ranks since the last call, by name; all ranks must call it."""
        names = list(self._sums)
        means = torch.stack([self._sums[name] / self._parts[name] for name in names])
        if world_size() > 1:
            distributed.all_reduce(means)
            means /= world_size()
        self._sums, self._parts = {}, {}
        return dict(zip(names, means.tolist(), strict=True))

    def read_bins(self) -> Mapping[str, list[float]]:
        """Return this rank's opinions since the last call by level, as `bin_opinions` counts them."""
        levels, bins = list(self._bins), list(self._bins.values())
        self._bins = {}
        return dict(zip(levels, torch.stack(bins).tolist(), strict=True)) if bins else {}
