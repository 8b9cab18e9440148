"""Hooks: code that the Trainer calls around each step, for guards, signals and tests."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from deepspeed import DeepSpeedEngine
from torch import Tensor, nn

from ..batch import Batch
from ..recipes import MicroBatchResult, Progress
from ..telemetry import span


class Hook:
    """Called by the Trainer at four places of a step; override the methods that you need.

    All ranks call the hooks at the same places, in the order in which the Trainer got them. So a hook may use
    collectives, such as reading a full gradient, if it does so on all ranks. If a hook changes weights or gradients, it
    must do so on all ranks alike. It must not draw from global random generators.

    A hook that raises an exception ends the run. `UmlError` ends it with one line for the user and exit code 2, and
    `status.json` records the reason. No checkpoint is written: the newest one is from before the step. If only one rank
    raises, the others are ended when they miss it.

    Hooks should not wait for the device. To look at a tensor, keep it and read it a step later. The time in hooks is in
    the span "hooks".
    """

    def before_step(self, progress: Progress, batches: Sequence[Mapping[str, Batch]]) -> None:
        """Called when a step's micro batches have been loaded, before anything is computed from them.

        Args:
            progress: progress before the step.
            batches: this rank's micro batches by stream, on the CPU.
        """

    def around_forward(
        self, forward: Callable[[], MicroBatchResult], networks: Mapping[str, nn.Module], progress: Progress
    ) -> MicroBatchResult:
        """Called instead of the forward pass of each micro batch, of which it returns the result.

        Args:
            forward: computes the losses of the micro batch, each time that it is called. It may be a collective.
            networks: all networks by name; engines of those that learn.
            progress: progress before the step.
        """
        return forward()

    def before_update(self, network: str, engine: DeepSpeedEngine, progress: Progress) -> None:
        """Called for each network that learns in the step, before the first of them is updated.

        The gradients are complete, reduced over all micro batches and ranks, and not clipped. DeepSpeed's
        `safe_get_full_grad` reads them at every ZeRO stage.

        Args:
            network: name of the network.
            engine: the network's engine.
            progress: progress before the step.
        """

    def after_step(self, progress: Progress, norms: Mapping[str, Tensor | float | None]) -> None:
        """Called when networks and averages have been updated, before the step is logged, validated or saved.

        Args:
            progress: progress after the step.
            norms: gradient norm before clipping of each network that was updated; tensors may still be on the device.
        """


class Hooks(Hook):
    """Calls several hooks, one after the other.

    Args:
        hooks: hooks in the order in which they are called.
    """

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self._hooks = tuple(hooks)

    def before_step(self, progress: Progress, batches: Sequence[Mapping[str, Batch]]) -> None:
        """Call each hook before a step."""
        with self._span():
            for hook in self._hooks:
                hook.before_step(progress, batches)

    def around_forward(
        self, forward: Callable[[], MicroBatchResult], networks: Mapping[str, nn.Module], progress: Progress
    ) -> MicroBatchResult:
        """Let each hook call the forward pass."""
        for hook in self._hooks:
            forward = partial(hook.around_forward, forward, networks, progress)
        return forward()

    def before_update(self, network: str, engine: DeepSpeedEngine, progress: Progress) -> None:
        """Call each hook before a network is updated."""
        with self._span():
            for hook in self._hooks:
                hook.before_update(network, engine, progress)

    def after_step(self, progress: Progress, norms: Mapping[str, Tensor | float | None]) -> None:
        """Call each hook after a step."""
        with self._span():
            for hook in self._hooks:
                hook.after_step(progress, norms)

    def _span(self) -> AbstractContextManager[None]:
        """Return the span of hooks; without hooks, there is nothing to measure."""
        return span("hooks") if self._hooks else nullcontext()
