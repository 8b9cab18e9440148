"""Runs all-reduces of several sizes on the ranks of a world, to check the sums and measure the speed."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
import torch.distributed as distributed

from ..launch import World, read_world

MIB = 2**20
SIZES = {"cuda": (MIB // 16, MIB, 16 * MIB, 256 * MIB), "cpu": (MIB // 16, MIB, 16 * MIB)}
"""Tensor sizes in bytes, by kind of device."""
REPEATS, WARM_UP = 10, 3


@dataclass(frozen=True)
class Reduced:
    """Result of the all-reduces of one size.

    Attributes:
        bytes: size of the tensor on each rank.
        seconds: median time of the slowest rank.
        ranks: number of ranks.
        right: whether every element was the correct sum on every rank.
    """

    bytes: int
    seconds: float
    ranks: int
    right: bool

    @property
    def algorithm_bandwidth(self) -> float:
        """Tensor bytes per second."""
        return self.bytes / self.seconds

    @property
    def bus_bandwidth(self) -> float:
        """Bytes per second that each rank sends in a ring, as in nccl-tests: the speed of the links."""
        return self.algorithm_bandwidth * 2 * (self.ranks - 1) / self.ranks


@dataclass(frozen=True)
class Collectives:
    """Results of all all-reduces: the device, the library, and a row for each size."""

    device: str
    backend: str
    rows: Sequence[Reduced]


def run_rank(path: Path, kind: str) -> None:
    """Run the all-reduces on this rank; rank 0 writes the results.

    Args:
        path: path of the JSON file.
        kind: "cuda" or "cpu".
    """
    world = read_world(os.environ)
    assert world is not None, "call ensure_world first"
    device = torch.device("cuda", world.local_rank) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=timedelta(seconds=60))
    rows = [reduce_one_size(size, device, world) for size in SIZES[kind]]
    if world.rank == 0:
        found = Collectives(_name(device), _library(kind), rows)
        path.write_text(json.dumps(asdict(found), indent=1) + "\n")
    distributed.barrier()
    distributed.destroy_process_group()


def read_collectives(path: Path) -> Collectives:
    """Read the results that `run_rank` wrote."""
    record = json.loads(path.read_text())
    return Collectives(record["device"], record["backend"], [Reduced(**row) for row in record["rows"]])


def reduce_one_size(size: int, device: torch.device, world: World) -> Reduced:
    """All-reduce float32 tensors of `size` bytes; their elements are integers, so that the sums are exact."""
    pattern = torch.arange(size // 4, device=device, dtype=torch.float32) % 8
    wanted = pattern * world.size + world.size * (world.size - 1) / 2
    seconds, right = [], True
    for turn in range(WARM_UP + REPEATS):
        tensor = pattern + world.rank
        _settle(device)
        start = perf_counter()
        distributed.all_reduce(tensor)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if turn >= WARM_UP:
            seconds.append(perf_counter() - start)
        right = right and torch.equal(tensor, wanted)
    agreed = torch.tensor([median(seconds), float(not right)], device=device, dtype=torch.float64)
    distributed.all_reduce(agreed, distributed.ReduceOp.MAX)
    slowest, wrong = agreed.tolist()
    return Reduced(size, slowest, world.size, not wrong)


def _settle(device: torch.device) -> None:
    """Synchronise all ranks."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    distributed.barrier()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU with {os.cpu_count()} cores"


def _library(kind: str) -> str:
    if kind == "cpu":
        return "gloo"
    # Imported here because a torch without CUDA may not have it.
    from torch.cuda import nccl

    return "NCCL " + ".".join(map(str, nccl.version()))
