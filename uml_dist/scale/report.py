"""The text that `--dry-run --gpus N` prints about a training on N GPUs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from torch import nn

from ..backbones.normalisation import GlobalBatchNorm
from .limits import batch_limit, efficiency_limit, memory_limit, shard_limit
from .links import Links
from .model import PERSISTENT, STAGES, Measured, Network, Prediction, measured_alike, predict


@dataclass(frozen=True)
class Question:
    """What is asked of a training.

    Attributes:
        ranks: number of GPUs.
        links: links between them.
        memory: bytes of memory of each of them.
        measured: measured runs of the same model.
        here: links between the ranks of those runs.
    """

    ranks: int
    links: Links
    memory: int
    measured: Sequence[Measured]
    here: Links


def network_of(module: nn.Module) -> Network:
    """Return what a step communicates for a network."""
    large, modules, normalisations = 0, 0, 0
    for one in module.modules():
        own = [parameter.numel() for parameter in one.parameters(recurse=False) if parameter.numel() > PERSISTENT]
        large, modules = large + sum(own), modules + bool(own)
        normalisations += isinstance(one, GlobalBatchNorm)
    sizes = [parameter.numel() for parameter in module.parameters()]
    kept = sum(size <= PERSISTENT for size in sizes)
    return Network(sum(sizes), large, modules, kept, normalisations)


def report(
    question: Question,
    stage: int,
    counts: Mapping[str, int],
    shards: Mapping[str, int],
    networks: Sequence[Network],
    state: Callable[[int, int], int],
) -> list[str]:
    """Return a table of memory, time and efficiency for every ZeRO stage, and the first limit.

    Args:
        question: what is asked.
        stage: the configured ZeRO stage.
        counts: samples of each stream in a global batch.
        shards: number of shards of each stream.
        networks: networks that are trained.
        state: bytes of the state of all networks on a rank, by stage and number of ranks.
    """
    ranks, measured = question.ranks, question.measured
    shared = {name: ceil(count / ranks) * ranks for name, count in counts.items()}
    samples = sum(shared.values())
    lines = [f"on {ranks} GPUs, {question.links.per_machine} on each machine, {_links(question.links)}"]
    if shared != dict(counts):
        words = " ".join(f"streams.{name}.count={count}" for name, count in shared.items())
        lines.append(f"the configured global batch cannot be shared by {ranks} ranks: predicted for {words}")
    activations: int | None = None
    if not measured:
        lines.append("no measured step: add --measured RUN, a short run of this configuration")
    for one in measured:
        lines.append(
            f"measured on {one.ranks} ranks at ZeRO {one.stage}: a step of {one.samples} samples in {one.step:.3g} s, "
            f"of which the update is {one.update:.3g} s"
        )
        if one.peak_bytes is not None:
            found = max(one.peak_bytes - state(one.stage, one.ranks), 0) * (samples / ranks) / (one.samples / one.ranks)
            activations = max(activations or 0, round(found))
    if activations is not None:
        lines.append(f"activations of {samples / ranks:g} samples: {activations / 1e9:.2f} GB")
    lines += _missing(measured, stage)

    def predicted(of_stage: int, count: int) -> Prediction:
        known = measured or [Measured(1, 1, 0.0, 0.0, 0)]
        return predict(known, networks, of_stage, count, samples, question.links, question.here)

    lines.append(f"{'ZeRO':<6}{'state':>12}{'communication':>16}{'step':>12}{'efficiency':>12}")
    for one in STAGES:
        row = predicted(one, ranks)
        step = f"{1000 * row.step:.3g} ms" if measured else "?"
        efficiency = f"{100 * row.efficiency:.1f} %" if measured else "?"
        size = f"{state(one, ranks) / 1e6:.3g} MB"
        lines.append(f"{one:<6}{size:>12}{1000 * row.communication:>13.3g} ms{step:>12}{efficiency:>12}")
    limits = [batch_limit(dict(counts)), shard_limit(dict(shards))]
    needed = [state(stage, ranks) + (activations or 0)]
    optional = [memory_limit(needed[0], question.memory)]
    if measured:
        optional.append(efficiency_limit(lambda count: predicted(stage, count), ranks))
    limits += [limit for limit in optional if limit]
    met = sorted(limit for limit in limits if limit.ranks <= ranks)
    if not met:
        return [*lines, f"nothing stops scaling up to {ranks} ranks; then {min(limits).text}"]
    lines.append(f"what stops scaling at ZeRO {stage}, the first first:")
    return [*lines, *(f"  from {limit.ranks} ranks on: {limit.text}" for limit in met)]


def _missing(measured: Sequence[Measured], stage: int) -> list[str]:
    """Return what other measured runs would tell."""
    lines = []
    alike = measured_alike(measured, stage)
    if alike and len({one.samples / one.ranks for one in alike}) == 1:
        lines.append(
            "all seconds but the update are taken to depend on the samples: a second run with another global batch in "
            "--measured tells which do not"
        )
    partitioned = {one.stage == 3 for one in measured}
    if partitioned == {False}:
        lines.append(
            "ZeRO 3 takes longer than shown, as DeepSpeed then spends time on every module: add a run with zero.stage=3"
        )
    elif partitioned == {True}:
        lines.append("ZeRO 0 to 2 take less than shown, which is of runs at ZeRO 3: add a run with zero.stage=1")
    return lines


def _links(links: Links) -> str:
    parts = ((links.within, "within a machine"), (links.between, "between machines"))
    return ", ".join(f"{link.rate / 1e9:g} GB/s and {1e6 * link.latency:g} us {where}" for link, where in parts)
