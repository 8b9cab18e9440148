"""Rank, device, and exchange of Python objects between ranks; without a process group there is one rank."""

from typing import TypeVar

import numpy as np
import torch
import torch.distributed as distributed
from numpy.typing import NDArray

T = TypeVar("T")


def rank() -> int:
    """Return the index of this rank."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Return the number of ranks."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def device_of(kind: str, local_rank: int) -> torch.device:
    """Return the device of a rank; a GPU also becomes the current device.

    Args:
        kind: "cuda" or "cpu".
        local_rank: index of the rank on its machine.
    """
    if kind == "cpu":
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def all_gather(value: T) -> list[T]:
    """Return the values of all ranks, in their order, on every rank. All ranks must call it."""
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def gather(value: T) -> list[T]:
    """Return the values of all ranks, in their order, on rank 0, and [] on the others. All ranks must call it."""
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size() if rank() == 0 else []
    distributed.gather_object(value, values or None, dst=0)
    return values  # type: ignore[return-value]


def broadcast(value: T) -> T:
    """Return the value of rank 0 on every rank. All ranks must call it."""
    values = [value]
    if world_size() > 1:
        distributed.broadcast_object_list(values, src=0)
    return values[0]


def barrier() -> None:
    """Wait until all ranks call it."""
    if world_size() > 1:
        distributed.barrier()


def sum_on_first_rank(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum over ranks on rank 0, and undefined values on the others. All ranks must call it."""
    if world_size() == 1:
        return values
    on_gpu = distributed.get_backend() == "nccl"
    total = torch.from_numpy(values.copy()).to("cuda" if on_gpu else "cpu")
    distributed.reduce(total, dst=0)
    return total.cpu().numpy()
