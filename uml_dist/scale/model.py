"""The model of a training step on many ranks; launchers/howto/scale.md explains it and shows how well it predicts.

    step = seconds of any batch + samples per rank * seconds per sample + seconds of the update + communication

Nothing overlaps, as DeepSpeed is configured here (`overlap_comm = false`), and no rank waits for a slower one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, linear_regression

from .links import Links

BYTES = 4
"""Bytes of a float32, the type of weights, gradients and moments."""

SMALL_REDUCES = 4
"""All-reduces of a few numbers in each step: sums of the global batch and of the losses, gradient norm, overflow."""

STATISTICS_REDUCES = 4
"""All-reduces of a batch normalisation over all ranks: mean and variance, in the forward and in the backward pass."""

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
        kept: number of parameter tensors that every rank keeps, each of which is gathered separately after its update.
        normalisations: number of batch normalisations over all ranks.
    """

    parameters: int
    gathered: int
    modules: int
    kept: int = 0
    normalisations: int = 0


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
        compute: seconds of everything else.
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
    large module in the forward and in the backward pass, reduce-scatters gradients and gathers updated small weights
    one by one.

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
        total += STATISTICS_REDUCES * network.normalisations * links.all_reduce(ranks, SMALL_BYTES)
        if stage == 3:
            each = BYTES * network.gathered / max(network.modules, 1)
            total += 2 * network.modules * links.exchange(ranks, each) + links.exchange(ranks, size)
            small = BYTES * (network.parameters - network.gathered) / max(network.kept, 1)
            total += network.kept * links.exchange(ranks, small)
        else:
            total += links.all_reduce(ranks, size) + (links.exchange(ranks, size) if stage else 0.0)
    return total


def predict(
    measured: Sequence[Measured],
    networks: Sequence[Network],
    stage: int,
    ranks: int,
    samples: int,
    links: Links,
    here: Links,
) -> Prediction:
    """Predict a step.

    Args:
        measured: measured trainings of the same model. With different numbers of samples per rank, they tell which
            seconds do not depend on the samples; with the same ones, none are taken to be so.
        networks: the networks that learn in the step.
        stage: ZeRO stage.
        ranks: number of ranks.
        samples: samples of all streams in a global batch.
        links: links between the ranks.
        here: links between the ranks of the measured trainings, whose communication is subtracted.
    """
    alike = measured_alike(measured, stage)
    update = fmean(one.update for one in alike)
    per_rank = [one.samples / one.ranks for one in alike]
    seconds = [max(one.step - one.update - communication(networks, one.stage, one.ranks, here), 0.0) for one in alike]
    per_sample, constant = _line(per_rank, seconds)
    alone = constant + per_sample * samples + update
    compute = constant + per_sample * samples / ranks
    part = Prediction(ranks, compute, update, communication(networks, stage, ranks, links), 1.0)
    return replace(part, efficiency=alone / (ranks * part.step) if part.step else 1.0)


def measured_alike(measured: Sequence[Measured], stage: int) -> Sequence[Measured]:
    """Return the measured trainings from which a ZeRO stage is predicted, all if none is like it.

    At ZeRO 3, DeepSpeed spends seconds of its own on every module.
    """
    return [one for one in measured if (one.stage == 3) == (stage == 3)] or measured


def _line(samples: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Return seconds per sample, and those that do not depend on the samples; neither is negative."""
    if len(set(samples)) > 1:
        slope, constant = linear_regression(samples, seconds)
        if slope >= 0 and constant >= 0:
            return slope, constant
        if slope < 0:
            return 0.0, fmean(seconds)
    return sum(seconds) / sum(samples), 0.0
