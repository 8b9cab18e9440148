"""Floating-point operations of training steps, and how much of the device's peak they use.

torch's counter slows a step down, so it counts one step of each kind; further steps of the kind are taken to have as
many. It counts matrix products, convolutions and attention of this rank's micro batches, forward and backward. It
counts nothing else: no element-wise operations, normalisation, pooling and resizing, no operators of uml_kernels
(losses, opinions, gating), be they in Triton on a GPU or on the CPU, no optimiser, and no validation. What is computed
twice to save memory (`model.checkpointing`) counts twice.
"""

import logging
from collections.abc import Callable, Collection, Hashable, Iterator
from typing import Any

from prometheus_client.core import Metric

from .table import counter_family, gauge_family

logger = logging.getLogger(__name__)

MAX_KINDS = 100
"""Kinds of steps that are counted; operations of further ones would be missing, so then there are no metrics."""

TRIES = 8
"""Further steps that are counted to find one of a kind that has just come up, as networks may learn in turns."""


class FlopCollector:
    """Counts the floating-point operations of steps. One thread trains, others collect.

    Args:
        peak: the device's peak in operations per second; None if it is not known.
    """

    names = ("uml_flops_total", "uml_peak_flops_per_second", "uml_mfu_ratio")

    def __init__(self, peak: float | None = None) -> None:
        self._peak = peak
        self._total: float | None = None
        self._utilisation: float | None = None
        self._before = 0.0
        self._counts: dict[tuple[Hashable, frozenset[str]], int] = {}
        self._uncounted: dict[tuple[Hashable, frozenset[str]], int] = {}
        self._tries: dict[Hashable, int] = {}
        self._shape: Hashable = None
        self._counter: Any = None
        self._working = True

    def begin_step(self, shape: Hashable) -> None:
        """Begin a step.

        Args:
            shape: what its operations depend on and is known before it: phase, streams, and sizes of micro batches.
        """
        self._shape = shape
        if not self._working or self._tries.setdefault(shape, 1) <= 0:
            return
        self._tries[shape] -= 1
        try:
            counter = _make_counter(self._give_up)
            counter.__enter__()
            self._counter = counter
        except Exception as error:
            self._give_up(error)

    def end_step(self, networks: Collection[str]) -> None:
        """End the step.

        Args:
            networks: names of the networks that learnt in it.
        """
        counter, self._counter = self._counter, None
        kind = (self._shape, frozenset(networks))
        if counter is not None:
            counter.__exit__(None, None, None)
            self._counts[kind] = counter.get_total_flops()
        if not self._working:
            return
        if kind in self._counts:
            steps = 1 + self._uncounted.pop(kind, 0)
            self._total = (self._total or 0.0) + steps * self._counts[kind]
            if not any(shape == self._shape for shape, _ in self._uncounted):
                self._tries[self._shape] = 0
        else:
            self._uncounted[kind] = self._uncounted.get(kind, 0) + 1
            self._tries[self._shape] = self._tries[self._shape] or TRIES
        if len(self._counts) + len(self._uncounted) > MAX_KINDS:
            self._give_up(ValueError(f"there are more than {MAX_KINDS} kinds of steps"))

    def end_window(self, seconds: float) -> None:
        """Compute the utilisation since the last call.

        Args:
            seconds: time of the steps since then, without validations and checkpoints.
        """
        total = self._total
        if total is None or self._peak is None or seconds <= 0:
            return
        self._utilisation = (total - self._before) / (seconds * self._peak)
        self._before = total

    def collect(self) -> Iterator[Metric]:
        """Return what has been counted."""
        if self._peak is not None:
            yield gauge_family("uml_peak_flops_per_second", [((), self._peak)])
        if self._working and self._total is not None:
            yield counter_family("uml_flops_total", [((), self._total)])
        if self._working and self._utilisation is not None:
            yield gauge_family("uml_mfu_ratio", [((), self._utilisation)])

    def _give_up(self, error: Exception) -> None:
        """Stop counting, after one warning: counts would be wrong from now on."""
        if self._working:
            self._working = False
            logger.warning("floating-point operations are not counted: %s", error)


class _NoModules:
    """Takes the place of the counter's tracker of modules, whose hooks in each module nobody needs here."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _make_counter(fail: Callable[[Exception], None]) -> Any:
    """Return torch's counter, such that an operation that it cannot count does not end the training.

    Args:
        fail: called with the error.
    """
    # Not before: it takes 0.3 s.
    from torch.utils.flop_counter import FlopCounterMode

    def careful(formula: Callable[..., int]) -> Callable[..., int]:
        def count(*arguments: Any, **named: Any) -> int:
            try:
                return formula(*arguments, **named)
            except Exception as error:
                fail(error)
                return 0

        return count

    counter: Any = FlopCounterMode(display=False)
    counter.mod_tracker = _NoModules()
    counter.flop_registry = {operation: careful(formula) for operation, formula in counter.flop_registry.items()}
    return counter
