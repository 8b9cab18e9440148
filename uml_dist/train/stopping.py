"""Stops a training on all ranks after the same step, when a rank is asked to stop."""

import torch
from torch import Tensor


class StopRequest:
    """A request to stop, which all ranks see after the same step.

    A rank passes its request on with the counts of the global batch, which every step sums over the ranks anyway.

    Attributes:
        reason: why this rank was asked to stop; None if it was not.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._seen: Tensor | None = None
        self._before: Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def ask(self, reason: str) -> None:
        """Ask to stop; signal handlers and other threads may call this. Only the first reason counts."""
        self.reason = self.reason or reason

    def pass_on(self, stops: Tensor) -> None:
        """Keep the number of ranks that ask to stop, a scalar of this step's `GlobalBatch`, without waiting for it."""
        if stops.device.type != "cuda":
            self._seen = stops
            return
        # Read a step later, when the copy is long done, so that the step does not wait for the device.
        if self._copied is not None:
            self._copied.synchronize()
        self._seen, self._before = self._before, torch.empty((), pin_memory=True)
        self._before.copy_(stops, non_blocking=True)
        self._copied = torch.cuda.Event()
        self._copied.record()

    @property
    def agreed(self) -> bool:
        """Whether a rank asked to stop, as all ranks know: before the last step, or on a GPU before the one before."""
        return self._seen is not None and bool(self._seen > 0)
