"""What a run needs, without training it: parameters, bytes per rank by ZeRO stage, steps per epoch."""

from functools import partial

from ..recipes import Averaged, Frozen, Trained, networks_of, trained_source
from ..scale.report import Question, network_of, report
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


def dry_run(setup: Setup, ranks: int, question: Question | None = None) -> str:
    """Return the text that `--dry-run` prints.

    Args:
        setup: the run.
        ranks: number of ranks.
        question: what is asked about more ranks, if anything.
    """
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
    learning, parts = [], []
    for name, network in networks.items():
        module = trained_source(networks, name).build()
        parameters = sum(parameter.numel() for parameter in module.parameters())
        if isinstance(network, Trained):
            optimizer = setup.config.optimizer_of(name)
            moments = 2 if optimizer.name != "sgd" else int(optimizer.momentum > 0)
            size_of, remark = partial(state_bytes, parameters, moments), ""
            learning.append(network_of(module))
        else:
            size_of, remark = partial(copy_bytes, parameters, network), f"  {network}"
        parts.append(size_of)
        sizes = [size_of(stage, ranks) for stage in range(4)]
        shown = " | ".join(f"{size / 1e6:.1f} MB" for size in sizes)
        lines.append(f"{name:<16}{parameters:>12,}  {shown}{remark}")
    if question:
        phase, _ = max(setup.phases, key=lambda one: one[1])
        counts = setup.counts(phase)
        shards = {name: len(setup.splits[name].manifest.shards) for name in counts}
        stage = setup.config.deepspeed.get("zero_optimization", {}).get("stage", setup.config.zero.stage)

        def state(stage: int, count: int) -> int:
            return sum(size_of(stage, count) for size_of in parts)

        lines += ["", *report(question, stage, counts, shards, learning, state)]
    return "\n".join(lines)
