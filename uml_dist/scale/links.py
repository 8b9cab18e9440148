"""Times of collectives between ranks, by the latency and the rate of their links.

A rank sends a message of b bytes to its neighbour in alpha + b / rate seconds. In a ring of N ranks, an all-gather or a
reduce-scatter of a tensor of S bytes takes N - 1 messages of S / N bytes each:

    (N - 1) alpha + (N - 1) / N  S / rate

and an all-reduce twice that. Small tensors are reduced along a tree instead, with 2 ceil(log2 N) messages of S bytes. A
ring over several machines is as fast as its slowest link.
"""

from dataclasses import dataclass
from math import ceil, log2


@dataclass(frozen=True)
class Link:
    """A link between neighbours in a ring: latency of a message in seconds, and bytes per second in each direction."""

    latency: float
    rate: float


@dataclass(frozen=True)
class Links:
    """The links of a cluster.

    Attributes:
        per_machine: ranks of each machine.
        within: link between two ranks of a machine.
        between: link of a machine to the others, which its ranks share.
    """

    per_machine: int
    within: Link
    between: Link

    def exchange(self, ranks: int, size: float) -> float:
        """Return the seconds of an all-gather or a reduce-scatter.

        Args:
            ranks: number of ranks.
            size: bytes of the whole tensor.
        """
        if ranks == 1:
            return 0.0
        link = self._slowest(ranks)
        return (ranks - 1) * link.latency + (ranks - 1) / ranks * size / link.rate

    def all_reduce(self, ranks: int, size: float) -> float:
        """Return the seconds of an all-reduce, by a ring or a tree, whichever is faster."""
        return min(2 * self.exchange(ranks, size), self._tree(ranks, size))

    def _slowest(self, ranks: int) -> Link:
        if ranks <= self.per_machine:
            return self.within
        return Link(max(self.within.latency, self.between.latency), min(self.within.rate, self.between.rate))

    def _tree(self, ranks: int, size: float) -> float:
        inside, machines = min(ranks, self.per_machine), ceil(ranks / self.per_machine)
        messages = ((inside, self.within), (machines, self.between))
        return sum(2 * ceil(log2(count)) * (link.latency + size / link.rate) for count, link in messages)
