"""The moving average of a network: whole on every rank or, at ZeRO 3, a part of it on each."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from .engine import local_part, zero_parts


class Average:
    """The moving average of a trained network, in float32 as the network's own parameters.

    At ZeRO 3, each parameter is cut as ZeRO cuts that of the trained network, so that an update needs neither the whole
    network nor communication. A forward pass of the module, or of a layer, gathers the parameters, which stay until
    `release`.

    Args:
        module: a network of the same architecture; it becomes the average.
        decay: the largest share of its own value that the average keeps in a step.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = module
        self._decay = decay
        self._parameters: Sequence[Tensor] = list(module.parameters())
        self._shapes = tuple(parameter.shape for parameter in self._parameters)
        self._parts: list[Tensor] | None = None
        self._gathered = True

    def partition(self) -> None:
        """Keep only this rank's part of each parameter from now on."""
        if self._parts is not None:
            return
        self._parts = [local_part(parameter.detach()) for parameter in self._parameters]
        for layer in self.module.modules():
            layer.register_forward_pre_hook(lambda *_: self.gather())
        self.release()

    def gather(self) -> None:
        """Gather the parameters, if they are partitioned. All ranks must call it."""
        if self._gathered or self._parts is None:
            return
        whole = [part.new_empty(part.numel() * distributed.get_world_size()) for part in self._parts]
        works = [
            distributed.all_gather_into_tensor(full, part, async_op=True)
            for full, part in zip(whole, self._parts, strict=True)
        ]
        for work in works:
            assert work is not None
            work.wait()
        for parameter, full, shape in zip(self._parameters, whole, self._shapes, strict=True):
            parameter.data = full[: shape.numel()].view(shape)
        self._gathered = True

    def release(self) -> None:
        """Free the gathered parameters, if they are partitioned."""
        if self._parts is None or not self._gathered:
            return
        for parameter in self._parameters:
            parameter.data = parameter.new_empty(0)
        self._gathered = False

    @contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """Give the network with all its parameters, which each rank may call on its own. All ranks must enter it."""
        self.gather()
        try:
            yield self.module
        finally:
            self.release()

    @torch.no_grad()
    def update(self, trained: nn.Module, step: int) -> None:
        """Move towards the trained network after one of its steps.

        Args:
            trained: the trained network, in its engine.
            step: number of the step, counted from 0: the average keeps min(1 - 1 / (step + 1), decay) of itself.
        """
        keep = min(1.0 - 1.0 / (step + 1), self._decay)
        self.release()
        own = self._parameters if self._parts is None else self._parts
        new = trained.parameters() if self._parts is None else zero_parts(trained)
        # ZeRO-3 may keep its parts on the CPU (`offload_param`).
        moved = tuple(value.to(mean.device, non_blocking=True) for mean, value in zip(own, new, strict=True))
        torch._foreach_lerp_(tuple(own), moved, 1.0 - keep)
        for buffer, other in zip(self.module.buffers(), trained.buffers(), strict=True):
            buffer.copy_(other)
