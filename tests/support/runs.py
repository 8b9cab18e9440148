"""Short trainings for tests: real shards, the real Trainer, and what came of every step."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepspeed.utils import safe_get_full_grad
from numpy.typing import NDArray
from prometheus_client import generate_latest

import lesions_and_grades
import toy_recipe
import volume_recipe
from uml_dist.batch import Batch
from uml_dist.config.loading import apply_overrides, validate
from uml_dist.distributed.ranks import barrier, world_size
from uml_dist.recipes import Progress
from uml_dist.run.checkpoint import read_state
from uml_dist.run.checkpoint_folder import find_checkpoint
from uml_dist.run.folder import RunFolder
from uml_dist.run.history import History, read_history
from uml_dist.telemetry import Metrics
from uml_dist.train.hooks import Hook
from uml_dist.train.loading import loader_workers
from uml_dist.train.main import Start, load_start
from uml_dist.train.report import Reporter
from uml_dist.train.setup import check_start, prepare
from uml_dist.train.trainer import Trainer
from uml_shards.importers import Options
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.write.writer import write_split

assert toy_recipe
assert volume_recipe
assert lesions_and_grades


class PartlyKnown(PhantomImporter):
    """The phantom with some labels and some masks missing; some samples lack both."""

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        key, components = super().encode(item)
        number = item[1]
        if number % 3 == 0:
            del components["mask.png"]
        if number % 4 == 0:
            meta = json.loads(components["json"])
            components["json"] = json.dumps(meta | {"label": None}).encode()
        return key, components


def make_partly_known(folder: Path, samples: int = 96, size: int = 32, validation: int = 12) -> Path:
    """Small phantom images: with gaps in `train`, complete ones in `val`."""
    options = Options(size=size, counts={"train": samples, "val": validation, "test": 0})
    importer = PartlyKnown(options=options)
    sources = importer.splits()
    write_split(importer, "train", sources["train"], folder / "train", samples_per_shard=20, quiet=True)
    whole = PhantomImporter(options=options)
    write_split(whole, "val", sources["val"], folder / "val", quiet=True)
    return folder


def uml_tree(shards: Path, **words: Any) -> dict[str, Any]:
    """A small UML run: dropout, augmentation and weight decay on, Adam, float32."""
    tree = {
        "recipe": "uml",
        "streams": {"train": {"shards": str(shards), "count": 8}},
        "data": {"workers": 0},
        "model": {"width": 1 / 16, "dropout": 0.2},
        "optimizer": {"weight_decay": 1e-2, "lr": 1e-3, "warmup": 2},
        "train": {"steps": 5, "log_every": 1, "validate_every": 1000, "best": "dice"},
        "checkpoint": {"every": 1000},
        "metrics": {"enabled": False},
    }
    return apply_overrides(tree, [f"{key.replace('__', '.')}={json.dumps(value)}" for key, value in words.items()])


@dataclass
class Trace:
    """What a training did.

    Attributes:
        losses: loss of every step, as logged.
        gradient: all gradients of the last step, flat, by network.
        weights: all weights at the end, flat, by network.
        keys: keys of this rank's samples, step by step.
        terms: everything logged.
        skipped: kinds of the reasons of this rank's placeholders.
        exported: this rank's metrics at the end, as Prometheus would scrape them.
        stopped: why the training has stopped before its end.
    """

    losses: list[float] = field(default_factory=list)
    gradient: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    weights: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    keys: list[tuple[str, ...]] = field(default_factory=list)
    terms: list[dict[str, float]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    exported: str = ""
    stopped: str | None = None


def train(
    tree: dict[str, Any],
    run: str | None = None,
    validate_too: bool = False,
    stop_at: int | None = None,
    hooks: Sequence[Hook] = (),
    ask_at: tuple[int, int] | None = None,
) -> Trace:
    """Train on this rank of its world, from where the run folder's training stopped.

    Args:
        tree: the configuration.
        run: the run folder, if any.
        validate_too: whether to validate.
        stop_at: step before which the training stops, as if it was killed.
        hooks: called after the one that records the trace.
        ask_at: a rank, and the step in which it is asked to stop.
    """
    config = validate(tree, "test")
    setup = prepare(config, world_size())
    setup = setup if validate_too else replace(setup, validations=())
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    folder = RunFolder(Path(run) if run else Path("/nonexistent"), writes=run is not None and rank == 0)
    metrics = Metrics(
        run="test", recipe=config.recipe, stage=config.zero.stage, world_size=world_size(), rank=rank, device="cpu"
    )
    trace = Trace()
    barrier()  # the first rank of an earlier training may still write its checkpoint
    checkpoint = find_checkpoint(Path(run)) if run else None
    start = Start(folder.path, (checkpoint, read_state(checkpoint)) if checkpoint else None)
    history = read_history(folder.path, start.resume[1].step if start.resume else 0, folder.started)
    listener = _Listener(folder, metrics, trace, history)
    recorder = _Recorder(trace, stop_at, ask_at[1] if ask_at and ask_at[0] == rank else None)
    workers, _ = loader_workers(config, on_gpu=False, local_ranks=1)
    trainer = Trainer(setup, torch.device("cpu"), folder, listener, workers, [recorder, *hooks])
    recorder.ask = trainer.stop.ask
    if checkpoint is None:
        check_start(setup)
    load_start(trainer, start)
    folder.begin(config, trainer.state.step)
    with suppress(Stopped):
        trace.stopped = trainer.run()
    with trainer.networks.gathered() as networks:
        trace.weights = {name: flat(network.parameters()) for name, network in networks.items()}
    trace.exported = generate_latest(metrics.registry).decode()
    return trace


class Stopped(Exception):
    """A training was stopped in the middle, as a kill would."""


class _Listener(Reporter):
    def __init__(self, folder: RunFolder, metrics: Metrics, trace: Trace, history: History) -> None:
        super().__init__(folder, metrics, None, history)
        self.trace = trace

    def log(self, *arguments: Any) -> dict[str, float]:
        values = super().log(*arguments)
        self.trace.losses.append(values["loss"])
        self.trace.terms.append(values)
        return values

    def skipped(self, reasons: Sequence[tuple[str, str]]) -> None:
        super().skipped(reasons)
        self.trace.skipped.extend(kind for kind, _ in reasons)


class _Recorder(Hook):
    """Records the keys of every step and the gradients of the last one; stops where the test wants it."""

    def __init__(self, trace: Trace, stop_at: int | None, ask_at: int | None = None) -> None:
        self.trace, self.stop_at, self.ask_at = trace, stop_at, ask_at
        self.ask: Callable[[str], None] = lambda reason: None

    def before_step(self, progress: Progress, batches: Sequence[Mapping[str, Batch]]) -> None:
        if progress.step == self.ask_at:
            self.ask(f"asked in step {progress.step}")
        if progress.step == self.stop_at:
            raise Stopped
        self.trace.keys.extend(batch.keys for streams in batches for batch in streams.values())

    def before_update(self, network: str, engine: Any, progress: Progress) -> None:
        if progress.step == progress.steps - 1:
            gradients = (safe_get_full_grad(parameter) for parameter in engine.module.parameters())
            self.trace.gradient[network] = flat(gradients)


def flat(tensors: Iterable[torch.Tensor]) -> NDArray[np.float32]:
    """Tensors end to end; arrays, unlike tensors, outlive the process that sends them."""
    return torch.cat([tensor.detach().float().flatten() for tensor in tensors]).numpy()
