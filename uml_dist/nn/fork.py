"""Uses one tensor several times, and adds the gradients in a fixed order."""

from typing import Any

import torch
from torch import Tensor


class _Fork(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, users: int) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for _ in range(users))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        total = grad_outputs[0]
        for gradient in grad_outputs[1:]:
            total = total + gradient
        return total, None


def fork(tensor: Tensor, users: int) -> tuple[Tensor, ...]:
    """Return the tensor once for each of its users.

    Autograd adds the gradients of three or more users as they arrive. ZeRO-3's hooks change that order, and with it the
    last bits. Here gradients are added in the order of the users, so all ZeRO stages agree bit for bit.
    """
    return _Fork.apply(tensor, users)  # type: ignore[return-value]
