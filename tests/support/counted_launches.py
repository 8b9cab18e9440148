"""How many GPU kernels a call launches, counted on tensors of device "meta" without a GPU."""

from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from launches import recorded

NO_KERNEL = (
    "view", "reshape", "detach", "alias", "expand", "select", "slice", "split", "squeeze", "permute", "transpose",
    "unbind", "as_strided", "empty", "lift", "t.default", "_to_copy.same",
)  # fmt: skip
"""Operators that move or make no data."""


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().partition("::")[2]
        if not any(word in name for word in NO_KERNEL):
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def launched(call: Callable[[], torch.Tensor]) -> tuple[list[str], list[str]]:
    """Names of the Triton kernels and of torch's operators that a scalar loss and its `backward()` launch."""
    with _Counter() as counter:
        kernels = [launch.name for launch in recorded(call)]
    return kernels, counter.names
