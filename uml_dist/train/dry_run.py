"""What a run needs, without training it: parameters, bytes per rank by ZeRO stage, steps per epoch."""

from ..recipes import Averaged, Frozen, Trained, networks_of, trained_source
from .setup import Setup

BYTES = 4
"""Bytes of a float32, the type of weights, gradients and moments."""


def state_bytes(parameters: int, moments: int, stage: int, ranks: int) -> int:
    """Return the bytes of weights, gradients and optimiser state on one rank.

    ZeRO partitions the optimiser's state from stage 1 on, gradients from stage 2 on, and weights at stage 3.

    Args:
        parameters: number of trained parameters.
        moments: number of moments that the optimiser keeps per parameter.
        stage: ZeRO stage.
        ranks: number of ranks.
    """
    weights = parameters / (ranks if stage >= 3 else 1)
    gradients = parameters / (ranks if stage >= 2 else 1)
    # From stage 1 on, the optimiser updates a float32 copy of its part of the weights.
    copies = (moments + (1 if stage >= 1 else 0)) * parameters / (ranks if stage >= 1 else 1)
    return round(BYTES * (weights + gradients + copies))


def copy_bytes(parameters: int, network: Averaged | Frozen, stage: int, ranks: int) -> int:
    """Return the bytes of an average, which stage 3 partitions, or of a frozen copy on one rank."""
    return round(BYTES * parameters / (ranks if stage >= 3 and isinstance(network, Averaged) else 1))


def dry_run(setup: Setup, ranks: int) -> str:
    """Return the text that `--dry-run` prints."""
    lines = list(setup.notes)
    for phase, steps in setup.phases:
        rank_batch = setup.rank_batch(phase, 0, ranks)
        streams = ", ".join(f"{count} of {name}" for name, count in rank_batch.counts.items())
        lines.append(
            f"phase {phase.name}: {steps} steps; a global batch holds {streams}; "
            f"{rank_batch.micro_batch} at once on each of {ranks} ranks, accumulation {rank_batch.accumulation}"
        )
    for name, split in setup.splits.items():
        per_epoch = len(split) / setup.config.streams[name].count
        size = " x ".join(map(str, setup.sizes[name]))
        lines.append(f"stream {name}: {len(split)} samples of {size}, {per_epoch:.2f} steps per epoch")
    head = "bytes per rank of weights, gradients and optimiser at ZeRO 0 | 1 | 2 | 3"
    lines.append(f"{'network':<16}{'parameters':>12}  {head}")
    networks = networks_of(setup.recipe)
    for name, network in networks.items():
        parameters = sum(parameter.numel() for parameter in trained_source(networks, name).build().parameters())
        if isinstance(network, Trained):
            optimizer = setup.config.optimizer_of(name)
            moments = 2 if optimizer.name != "sgd" else int(optimizer.momentum > 0)
            sizes, remark = [state_bytes(parameters, moments, stage, ranks) for stage in range(4)], ""
        else:
            sizes = [copy_bytes(parameters, network, stage, ranks) for stage in range(4)]
            remark = f"  {network}"
        shown = " | ".join(f"{size / 1e6:.1f} MB" for size in sizes)
        lines.append(f"{name:<16}{parameters:>12,}  {shown}{remark}")
    return "\n".join(lines)
