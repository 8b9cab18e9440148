"""The model of a training step on many ranks; launchers/howto/scale.md explains it and shows how well it predicts.

    step = samples per rank * seconds per sample + seconds of the update + communication

Nothing overlaps, as DeepSpeed is configured here (`overlap_comm = false`), and no rank waits for a slower one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .links import Links

BYTES = 4
"""Bytes of a float32, the type of weights, gradients and moments."""

SMALL_REDUCES = 4
"""All-reduces of a few numbers in each step: sums of the global batch and of the losses, gradient norm, overflow."""

SMALL_BYTES = 128

PERSISTENT = 100_000
"""Elements of a parameter up to which every rank keeps it at ZeRO 3: DeepSpeed's `param_persistence_threshold`."""

STAGES = (0, 1, 2, 3)


@dataclass(frozen=True)
class Network:
    """What a step communicates for a network that is trained.

    Attributes:
        parameters: number of its parameters.
        gathered: number of those that ZeRO 3 gathers for every pass; the others are kept on every rank.
        modules: number of modules with such parameters, each of which is gathered separately.
    """

    parameters: int
    gathered: int
    modules: int


@dataclass(frozen=True)
class Measured:
    """A measured training.

    Attributes:
        ranks: number of its ranks.
        samples: samples of all streams in a global batch.
        step: seconds of a step.
        update: seconds of a step in which the optimiser and the averages were updated.
        stage: ZeRO stage.
        peak_bytes: largest memory of a rank's GPU in tensors; None on a CPU.
    """

    ranks: int
    samples: int
    step: float
    update: float
    stage: int
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Prediction:
    """A predicted step: its seconds of computation, of updates and of communication, and how efficient it is.

    Attributes:
        ranks: number of ranks.
        compute: seconds that depend on the number of samples.
        update: seconds of the update.
        communication: seconds of the collectives.
        efficiency: samples per second and rank, divided by those of one rank alone with the same global batch.
    """

    ranks: int
    compute: float
    update: float
    communication: float
    efficiency: float

    @property
    def step(self) -> float:
        """Seconds of the step."""
        return self.compute + self.update + self.communication


def communication(networks: Sequence[Network], stage: int, ranks: int, links: Links) -> float:
    """Return the seconds of the collectives of a step.

    Gradients are all-reduced at ZeRO 0, 1 and 2; 1 and 2 gather the updated weights. ZeRO 3 gathers the weights of each
    large module in the forward and in the backward pass, reduce-scatters gradients and gathers updated small weights.

    Args:
        networks: the networks that learn in the step.
        stage: ZeRO stage.
        ranks: number of ranks.
        links: links between the ranks.
    """
    if ranks == 1:
        return 0.0
    total = SMALL_REDUCES * links.all_reduce(ranks, SMALL_BYTES)
    for network in networks:
        size = BYTES * network.parameters
        if stage == 3:
            each = BYTES * network.gathered / max(network.modules, 1)
            total += 2 * network.modules * links.exchange(ranks, each) + links.exchange(ranks, size)
            total += links.exchange(ranks, BYTES * (network.parameters - network.gathered))
        else:
            total += links.all_reduce(ranks, size) + (links.exchange(ranks, size) if stage else 0.0)
    return total


def predict(
    measured: Measured, networks: Sequence[Network], stage: int, ranks: int, samples: int, links: Links, here: Links
) -> Prediction:
    """Predict a step.

    Args:
        measured: a measured training of the same model.
        networks: the networks that learn in the step.
        stage: ZeRO stage.
        ranks: number of ranks.
        samples: samples of all streams in a global batch.
        links: links between the ranks.
        here: links between the ranks of the measured training, whose communication is subtracted.
    """
    own = communication(networks, measured.stage, measured.ranks, here)
    computing = max(measured.step - measured.update - own, 0.0)
    per_sample = computing * measured.ranks / measured.samples
    alone = per_sample * samples + measured.update
    part = Prediction(
        ranks, per_sample * samples / ranks, measured.update, communication(networks, stage, ranks, links), 1.0
    )
    efficiency = alone / (ranks * part.step) if part.step else 1.0
    return Prediction(ranks, part.compute, part.update, part.communication, efficiency)
