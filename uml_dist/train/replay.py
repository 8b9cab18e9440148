"""Repeats a step whose gradient was not finite, and tells where it comes from: `train.py --replay FOLDER`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import deepspeed
import torch
from deepspeed.utils import safe_get_full_grad
from torch import nn

from ..batch import Batch
from ..distributed.ranks import all_gather, device_of, rank, world_size
from ..launch import Devices, enter_world
from ..recipes import MicroBatchResult, Progress
from ..run.checkpoint import read_state
from ..run.folder import RunFolder
from ..telemetry import Metrics
from .engine import module_of, zero_stage
from .hooks import Hook
from .report import Reporter
from .setup import Setup
from .trainer import Trainer

MOST_NAMES = 5
"""Names that a line lists."""


@dataclass
class Findings:
    """What is not finite in a step, on one rank.

    Attributes:
        keys: keys of samples whose image is not finite.
        terms: losses and terms that are not finite.
        parameters: network -> its parameters whose gradient is not finite, alike on all ranks.
        counts: network -> number of its parameters.
    """

    keys: list[str] = field(default_factory=list)
    terms: list[str] = field(default_factory=list)
    parameters: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


class _Taken(Exception):
    """The step has been taken."""


class _Look(Hook):
    def __init__(self, found: Findings) -> None:
        self._found = found

    def before_step(self, progress: Progress, batches: Sequence[Mapping[str, Batch]]) -> None:
        for batch in (batch for streams in batches for batch in streams.values()):
            finite = batch.image.flatten(1).isfinite().all(1).tolist()
            self._found.keys += [key for key, whole in zip(batch.keys, finite, strict=True) if not whole]

    def before_update(self, network: str, engine: deepspeed.DeepSpeedEngine, progress: Progress) -> None:
        named = [(name, one) for name, one in module_of(engine).named_parameters() if one.requires_grad]
        self._found.counts[network] = len(named)
        self._found.parameters[network] = [name for name, one in named if not _has_finite_gradient(one, engine)]

    def after_step(self, progress: Progress, norms: Mapping[str, torch.Tensor | float | None]) -> None:
        raise _Taken


class _Reporter(Reporter):
    def __init__(self, metrics: Metrics, found: Findings) -> None:
        super().__init__(RunFolder(Path(), writes=False), metrics, None)
        self._found = found

    def add(self, result: MicroBatchResult, logged: bool = False) -> None:
        for name, value in {**result.losses, **result.terms}.items():
            if not bool(value.isfinite().all()):
                self._found.terms.append(name)


def replay_rank(setup: Setup, checkpoint: Path, devices: Devices) -> int:
    """Repeat the step after a checkpoint on this rank, and print what is not finite; return the exit code.

    Returns:
        0 if everything was finite, otherwise 2.
    """
    world = enter_world()
    device = device_of(devices.kind, world.local_rank)
    deepspeed.init_distributed("nccl" if device.type == "cuda" else "gloo", auto_mpi_discovery=False, verbose=False)
    lines, finite = replay(setup, checkpoint, device)
    if world.rank == 0:
        print("\n".join(lines), flush=True)
    torch.distributed.destroy_process_group()
    return 0 if finite else 2


def replay(setup: Setup, checkpoint: Path, device: torch.device, hooks: Sequence[Hook] = ()) -> tuple[list[str], bool]:
    """Repeat the step after a checkpoint; return lines for the user and whether everything was finite, on all ranks.

    Args:
        setup: the run's checked settings.
        checkpoint: folder of the checkpoint.
        device: this rank's device.
        hooks: called around the step.
    """
    found = Findings()
    config = setup.config
    metrics = Metrics(
        run="replay", recipe=config.recipe, stage=zero_stage(config), world_size=world_size(), rank=rank(),
        device=device.type,
    )  # fmt: skip
    state = read_state(checkpoint)
    folder = RunFolder(checkpoint, writes=False)
    setup, reporter = replace(setup, validations=()), _Reporter(metrics, found)
    trainer = Trainer(setup, device, folder, reporter, hooks=[*hooks, _Look(found)])
    trainer.resume(checkpoint, state)
    try:
        trainer.run()
    except _Taken:
        pass
    every = all_gather(found)
    keys = [key for one in every for key in one.keys]
    terms = list(dict.fromkeys(term for one in every for term in one.terms))
    lines = [f"step {state.step + 1} of {config.recipe}, repeated on {world_size()} ranks:"]
    lines.append(f"images that are not finite: {_listed(keys)}")
    lines.append(f"losses and terms that are not finite: {_listed(terms)}")
    for network, names in found.parameters.items():
        lines.append(f"gradient of {network}: {len(names)} of {found.counts[network]} parameters not finite")
        lines[-1] += f": {_listed(names)}" if names else ""
    return lines, not (keys or terms or any(found.parameters.values()))


def _has_finite_gradient(parameter: nn.Parameter, engine: deepspeed.DeepSpeedEngine) -> bool:
    gradient = safe_get_full_grad(parameter) if engine.zero_optimization() else parameter.grad
    return gradient is None or bool(gradient.isfinite().all())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return (", ".join(names[:MOST_NAMES]) + more) or "none"
