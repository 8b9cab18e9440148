"""The canary: finds ranks whose copy of the weights differs, because a processor or memory is faulty."""

from collections import Counter
from collections.abc import Sequence

import torch
import torch.distributed as distributed
from deepspeed import DeepSpeedEngine
from torch import Tensor, nn

from ..distributed.ranks import world_size
from ..errors import CorruptionError
from ..recipes import Progress
from .engine import module_of
from .hooks import Hook


class Canary(Hook):
    """Compares the replicated weights of all ranks every few steps, bit by bit.

    Every rank adds up the bits of its parameters, and the sums are gathered. With two ranks, nobody knows which of them
    is right.

    Args:
        every: steps between two comparisons; 0: never.
    """

    def __init__(self, every: int) -> None:
        self._every = every

    def before_update(self, network: str, engine: DeepSpeedEngine, progress: Progress) -> None:
        """Compare the weights of a network before its update.

        Raises:
            CorruptionError: they differ between ranks; raised on all ranks.
        """
        if not self._every or progress.step % self._every or world_size() == 1 or engine.zero_optimization_stage() == 3:
            return
        own = checksum(module_of(engine))
        sums = [torch.empty_like(own) for _ in range(world_size())]
        distributed.all_gather(sums, own)
        odd = odd_ranks([int(one) for one in sums])
        if odd:
            ranks = f"rank {odd[0]} differ" if len(odd) == 1 else f"ranks {', '.join(map(str, odd))} differ"
            raise CorruptionError(
                f"the weights of {network} on {ranks} from those of the others before step {progress.step + 1}: "
                "a memory or processor may be faulty: resume on other machines"
            )


def checksum(module: nn.Module) -> Tensor:
    """Return a sum (int64 scalar) over the bits of all parameters; a single changed bit changes it."""
    total = torch.zeros((), dtype=torch.int64, device=next(module.parameters()).device)
    for parameter in module.parameters():
        total = total * 31 + parameter.detach().view(torch.int32).sum(dtype=torch.int64)
    return total


def odd_ranks(sums: Sequence[int]) -> list[int]:
    """Return the ranks whose sum is not that of the majority; all of them without a majority."""
    (common, count), *_ = Counter(sums).most_common(1)
    if count == len(sums):
        return []
    return [rank for rank, one in enumerate(sums) if one != common or 2 * count <= len(sums)]
