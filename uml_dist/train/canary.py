"""The canary: finds ranks that compute wrongly, or whose weights differ, because a processor or memory is faulty."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
import torch.distributed as distributed
from deepspeed import DeepSpeedEngine
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from ..distributed.ranks import world_size
from ..errors import CorruptionError
from ..recipes import MicroBatchResult, Progress
from ..telemetry import span
from .engine import module_of
from .hooks import Hook

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers with as many bytes as an element."""

FAULTY = "a memory or processor may be faulty: resume on other machines"


class Canary(Hook):
    """Every few steps, repeats a forward pass and compares the replicated weights of all ranks, bit by bit.

    The forward pass is that of a micro batch; what the networks return must be the same. The first comparison of each
    phase only tells whether passes can be repeated at all on this device, where kernels may be chosen by chance. The
    backward pass is not repeated: gradients are reduced over ranks while they are computed.

    For the weights, every rank adds up the bits of its parameters, and the sums are gathered. With two ranks, nobody
    knows which of them is right.

    Args:
        every: steps between two comparisons; 0: never.
        say: called on all ranks with a line for the user.
    """

    def __init__(self, every: int, say: Callable[[str], object] = print) -> None:
        self._every = every
        self._say = say
        self._last: int | None = None
        self._repeatable: dict[str, bool] = {}

    def around_forward(
        self, forward: Callable[[], MicroBatchResult], networks: Mapping[str, nn.Module], progress: Progress
    ) -> MicroBatchResult:
        """Repeat the forward pass of the first micro batch of a step.

        Raises:
            CorruptionError: it gave another result; raised on all ranks.
        """
        due = self._every and progress.step % self._every == 0 and self._last != progress.step
        if not due or not self._repeatable.get(progress.phase, True):
            return forward()
        self._last = progress.step
        go_back = snapshot(networks)
        with watched(networks) as sums:
            result = forward()
        with span("hooks"):
            go_on = snapshot(networks)
            go_back()
            # The counter of operations, if there is one, must not count these.
            with watched(networks) as again, _disable_current_modes(), without_memory():
                forward()
            go_on()
            odd = [rank for rank, equal in enumerate(_gather(_equal(sums, again))) if not equal] if sums else []
        if progress.phase not in self._repeatable:
            self._repeatable[progress.phase] = not odd
            if odd:
                self._say(f"forward passes of phase {progress.phase} cannot be repeated on this device, bit by bit")
        elif odd:
            ranks = f"rank{'s' if odd[1:] else ''} {', '.join(map(str, odd))}"
            raise CorruptionError(
                f"a forward pass of step {progress.step + 1}, repeated, gave another result on {ranks}: {FAULTY}"
            )
        return result

    def before_update(self, network: str, engine: DeepSpeedEngine, progress: Progress) -> None:
        """Compare the weights of a network before its update.

        Raises:
            CorruptionError: they differ between ranks; raised on all ranks.
        """
        if not self._every or progress.step % self._every or world_size() == 1 or engine.zero_optimization_stage() == 3:
            return
        odd = odd_ranks(_gather(checksum(module_of(engine))))
        if odd:
            ranks = f"rank {odd[0]} differ" if len(odd) == 1 else f"ranks {', '.join(map(str, odd))} differ"
            before = f"before step {progress.step + 1}"
            raise CorruptionError(f"the weights of {network} on {ranks} from those of the others {before}: {FAULTY}")


def checksum(module: nn.Module) -> Tensor:
    """Return a sum (int64 scalar) over the bits of all parameters; a single changed bit changes it."""
    return sum_of_bits(list(module.parameters()))


def sum_of_bits(tensors: Sequence[Tensor]) -> Tensor:
    """Return a sum (int64 scalar) over the bits of tensors, at least one; a single changed bit changes it."""
    total = torch.zeros((), dtype=torch.int64, device=tensors[0].device)
    for tensor in tensors:
        total = total * 31 + tensor.detach().contiguous().view(BITS[tensor.element_size()]).sum(dtype=torch.int64)
    return total


def tensors_in(output: object) -> Iterator[Tensor]:
    """Yield the tensors in what a network returns: a tensor, or a list, tuple, mapping or dataclass of them."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from (tensor for part in output.values() for tensor in tensors_in(part))
    elif isinstance(output, list | tuple):
        yield from (tensor for part in output for tensor in tensors_in(part))
    elif is_dataclass(output) and not isinstance(output, type):
        yield from (tensor for part in fields(output) for tensor in tensors_in(getattr(output, part.name)))


@contextmanager
def watched(networks: Mapping[str, nn.Module]) -> Iterator[list[Tensor]]:
    """Give a list that gets a sum over the bits of what each call of a network inside the block returns."""
    sums: list[Tensor] = []

    def watch(module: nn.Module, inputs: object, output: object) -> None:
        if tensors := list(tensors_in(output)):
            sums.append(sum_of_bits(tensors))

    modules = (module_of(one) if isinstance(one, DeepSpeedEngine) else one for one in networks.values())
    handles = [module.register_forward_hook(watch) for module in modules]
    try:
        yield sums
    finally:
        for handle in handles:
            handle.remove()


def without_memory() -> AbstractContextManager[Any]:
    """Return a context in which a forward pass keeps nothing for a backward pass, which is impossible then.

    Without gradients, torch and the kernels may choose other ways, whose results are rounded otherwise.
    """
    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, lambda nothing: nothing)


def snapshot(networks: Mapping[str, nn.Module]) -> Callable[[], None]:
    """Return a function that makes the buffers of networks and the random generators what they are now."""
    buffers = [buffer for network in networks.values() for buffer in network.buffers()]
    values = [buffer.clone() for buffer in buffers]
    state = torch.get_rng_state()
    on_device = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None

    def restore() -> None:
        for buffer, value in zip(buffers, values, strict=True):
            buffer.data.copy_(value)  # which autograd does not notice: a backward pass may still need the buffer
        torch.set_rng_state(state)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device)

    return restore


def _equal(sums: Sequence[Tensor], again: Sequence[Tensor]) -> Tensor:
    """Return whether two lists of sums are equal, as an int64 scalar."""
    if len(sums) != len(again):
        return torch.zeros_like(sums[0])
    return (torch.stack(list(sums)) == torch.stack(list(again))).all().long()


def _gather(own: Tensor) -> list[int]:
    """Return an int64 scalar of each rank."""
    if world_size() == 1:
        return [int(own)]
    every = [torch.empty_like(own) for _ in range(world_size())]
    distributed.all_gather(every, own)
    return [int(one) for one in every]


def odd_ranks(sums: Sequence[int]) -> list[int]:
    """Return the ranks whose sum is not that of the majority; all of them without a majority."""
    (common, count), *_ = Counter(sums).most_common(1)
    if count == len(sums):
        return []
    return [rank for rank, one in enumerate(sums) if one != common or 2 * count <= len(sums)]
