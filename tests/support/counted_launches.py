"""Counts the GPU kernels that a call launches, on "meta" tensors and without a GPU."""

from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from launches import recorded

NO_KERNEL = {
    "view", "_unsafe_view", "detach", "alias", "expand", "select", "slice", "split", "split_with_sizes", "narrow",
    "squeeze", "unsqueeze", "permute", "transpose", "t", "unbind", "unflatten", "as_strided", "empty", "empty_like",
    "empty_strided", "new_empty",
}  # fmt: skip
"""Operators that neither move nor create data."""


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().partition("::")[2].partition(".")[0]
        if name not in NO_KERNEL:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def launched(call: Callable[[], torch.Tensor]) -> tuple[list[str], list[str]]:
    """Return the names of the Triton kernels and torch operators that a scalar loss and its `backward()` launch."""
    with _Counter() as counter:
        kernels = [launch.name for launch in recorded(call)]
    return kernels, counter.names
