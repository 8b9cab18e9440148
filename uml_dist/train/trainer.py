"""The training loop: phases and steps, and logging, validating and saving between them."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uml_shards.durable import replace_text
from uml_shards.errors import ShardError
from uml_shards.read.loader import load

from ..batch import Batch, collate
from ..distributed.global_batch import GlobalBatch
from ..distributed.ranks import all_gather, barrier, broadcast, rank, world_size
from ..errors import UmlError
from ..evaluate import Predictor
from ..launch.precision import computes_in_bf16
from ..recipes import Phase, Progress, predicting
from ..run.background import SaveError, Saver
from ..run.checkpoint import RunState, read_networks, read_weights_file, save_checkpoint
from ..run.checkpoint_folder import folder_name
from ..run.folder import RunFolder, versions
from ..run.inputs import stored_manifests
from ..run.network_state import NetworkState
from ..telemetry import Spans, recording, span
from .augmentation import augment
from .engine import get_learning_rate, gradients_complete, set_learning_rate, step_engine, was_updated
from .hooks import Hook, Hooks
from .networks import Networks
from .optimizer import learning_rate
from .rank_batch import RankBatch
from .report import Reporter
from .setup import Setup, Validation
from .stopping import StopRequest
from .validator import Validator

SKIPPED_IN_A_ROW = 100
"""Unreadable samples in a row after which a rank stops, even if `on_bad_sample` allows skipping."""


@dataclass(frozen=True)
class Due:
    """What is due after a step; logging is, before validating and saving."""

    log: bool
    validate: bool
    save: bool


class Trainer:
    """Trains a recipe on one rank of a world; every rank runs the same code.

    Args:
        setup: the run's checked settings.
        device: this rank's device.
        folder: the run's folder.
        reporter: receives the figures.
        workers: number of processes that load samples ahead.
        hooks: called around each step.

    Attributes:
        stop: asks all ranks to stop after the same step, with a checkpoint.
        running: whether the training can stop after a step.
    """

    def __init__(
        self,
        setup: Setup,
        device: torch.device,
        folder: RunFolder,
        reporter: Reporter,
        workers: int = 0,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self.setup = setup
        self.config = setup.config
        self.device = device
        self.folder = folder
        self.reporter = reporter
        self.hooks = Hooks(hooks)
        self.spans = Spans(device)
        self.rank = rank()
        self.workers = workers
        self.networks = Networks(setup.recipe, self.config, device)
        self.state = RunState(
            recipe=self.config.recipe,
            positions=dict.fromkeys(setup.recipe.streams, 0),
            data=setup.digests,
            manifests=stored_manifests(setup.recipe.manifests),
            config=self.config.model_dump(mode="json", exclude_none=True),
            versions=versions(),
        )
        self._norms: dict[str, Tensor | float | None] = {}
        self.validator = Validator(setup, reporter, self.workers, pictures=folder.writes)
        self.saver = Saver(folder, self.config.checkpoint, reporter.saved, reporter.say)
        self.stop = StopRequest()
        self.running = False
        self._bad_in_a_row = 0
        self._skipped_in_a_row = 0
        self._augmentations = setup.augmentations

    def resume(self, checkpoint: Path, state: RunState) -> None:
        """Resume from a checkpoint.

        Raises:
            UmlError: it lacks a network.
        """
        with self.reporter.loading(checkpoint):
            states, lines = self.networks.complete(read_networks(checkpoint), str(checkpoint))
            for name in self.networks:
                if name not in states:
                    raise UmlError(f"checkpoint {checkpoint} has no network {name}: choose another --run")
            self.networks.load(states)
        for line in lines:
            self.reporter.say(line)
        self.validator.forget_incomparable(state)
        own = self.state
        self.state = replace(state, config=own.config, manifests=own.manifests, versions=own.versions)

    def start_from(self, path: Path) -> None:
        """Load weights from a checkpoint, a run folder's best one, or a safetensors file of the first network.

        Raises:
            UmlError: the file cannot be read, or its networks have another architecture.
        """
        given = {name: NetworkState(w) for name, w in read_weights_file(path, tuple(self.networks)).items()}
        states, lines = self.networks.complete(given, str(path))
        skipped = self.networks.start_from({name: state.weights for name, state in states.items()}, str(path))
        others = f"; other shapes, so not loaded: {', '.join(skipped)}" if skipped else ""
        for line in (f"weights from {path}{others}", *lines):
            self.reporter.say(line)

    def run(self) -> str | None:
        """Train from the current step to the end of the run, or until a rank is asked to stop.

        Returns:
            None if the training is done; otherwise why it has stopped, the same on all ranks. There is a checkpoint of
            the last step.

        Raises:
            SaveError: a checkpoint could not be written; raised on all ranks.
        """
        for line in self.setup.notes:
            self.reporter.say(line)
        self.running = True
        try:
            stopped = self._run_phases()
            with recording(self.spans), span("checkpoint"), self.reporter.blocked():
                self.saver.wait()
                self._check_saved()
        finally:
            self.saver.wait()  # a failure loses no checkpoint that is being written
            self.running = False
        self.reporter.record_spans(self.spans)
        if stopped is None:
            self.validator.report_missing(self.state)
        return stopped

    def _run_phases(self) -> str | None:
        while self.state.phase < len(self.setup.phases):
            phase, steps = self.setup.phases[self.state.phase]
            if self.state.phase_step < steps and not self.validator.has_ended(phase, self.state):
                with recording(self.spans):
                    self._run_phase(phase, steps)
                if self.stop.agreed and not self._is_done:
                    return next(filter(None, all_gather(self.stop.reason)), "stopped")
            self.state.phase += 1
            self.state.phase_step = 0
            self.state.until_best, self.state.until_misses = None, 0
        return None

    @property
    def _is_done(self) -> bool:
        """Whether the last step of the last phase has been taken."""
        phase, steps = self.setup.phases[self.state.phase]
        is_last = self.state.phase == len(self.setup.phases) - 1
        return is_last and (self.state.phase_step >= steps or self.validator.has_ended(phase, self.state))

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which networks compute in the run's precision."""
        enabled = computes_in_bf16(self.config.train.precision, self.device)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _run_phase(self, phase: Phase, steps: int) -> None:
        rank_batch = self.setup.rank_batch(phase, self.rank, world_size())
        self.networks.release_engines()
        if self.state.phase_step == 0:
            self.networks.refresh(phase)
            for name, count in rank_batch.counts.items():
                # Slots walk the plan from multiples of their number, which another phase may not have left.
                self.state.positions[name] = -(-self.state.positions[name] // count) * count
        self.networks.build_engines(phase, rank_batch.micro_batch, rank_batch.accumulation)
        batches = self._micro_batches(phase, rank_batch, steps - self.state.phase_step)
        self.reporter.begin_phase(self.setup.progress(self.state), [phase.name for phase, _ in self.setup.phases])
        while self.state.phase_step < steps and not self.validator.has_ended(phase, self.state):
            due = self._due(steps)
            self._step(steps, rank_batch, batches, due)
            self._after_step(phase, rank_batch, due)
            if self.stop.agreed:
                return

    def _micro_batches(self, phase: Phase, rank_batch: RankBatch, steps: int) -> Iterator[Mapping[str, Batch]]:
        first = dict(self.state.positions)
        requests = (request for step in range(steps) for request in rank_batch.micro_batches(step, first))
        streams = self.setup.streams(phase)
        return load(streams, requests, collate, self.workers, pin_memory=self.device.type == "cuda")

    def _due(self, steps: int) -> Due:
        """Return what will be due after the next step, in a phase of so many."""
        step = self.state.step + 1
        last = self.state.phase == len(self.setup.phases) - 1 and self.state.phase_step + 1 == steps
        validate = step % self.config.train.validate_every == 0 or last
        save = step % self.config.checkpoint.every == 0 or last
        return Due(step % self.config.train.log_every == 0 or validate or save, validate, save)

    def _step(self, steps: int, rank_batch: RankBatch, source: Iterator[Mapping[str, Batch]], due: Due) -> None:
        """Take one optimiser step: all micro batches of this rank, then the update."""
        start = time.perf_counter()
        with span("data"):
            loaded = [next(source) for _ in range(rank_batch.accumulation)]
        data_wait = time.perf_counter() - start
        progress = self.setup.progress(self.state)
        self.hooks.before_step(progress, loaded)
        self._watch_placeholders(loaded)
        for name, engine in self.networks.engines.items():
            set_learning_rate(engine, learning_rate(self.config.optimizer_of(name), self.state.phase_step, steps))
        norms = self._learn(loaded, progress, due)
        self._norms |= norms
        updated = {name: was_updated(self.networks.engines[name], norm) for name, norm in norms.items()}
        self.reporter.updated(updated)
        self._watch_updates(updated, loaded)
        with span("average"):
            self.networks.average([name for name, was in updated.items() if was])
        self.state.step += 1
        self.state.phase_step += 1
        for name, count in rank_batch.counts.items():
            self.state.positions[name] += count
        progress = self.setup.progress(self.state)
        self.hooks.after_step(progress, norms)
        self.reporter.end_step(
            progress,
            self._epoch(),
            sum(rank_batch.counts.values()),
            rank_batch.micro_batch * rank_batch.accumulation,
            data_wait,
        )

    def _learn(
        self, loaded: Sequence[Mapping[str, Batch]], progress: Progress, due: Due
    ) -> dict[str, Tensor | float | None]:
        """Update the networks with the micro batches of a step; return the gradient norms of those that learnt."""
        recipe, networks = self.setup.recipe, self.networks
        with span("host_to_device"):
            micro_batches = [{name: batch.to(self.device) for name, batch in batches.items()} for batches in loaded]
        micro_batches = [
            {name: augment(batch, self._augmentations.get(name, "none")) for name, batch in batches.items()}
            for batches in micro_batches
        ]
        with span("targets"), torch.no_grad(), self.autocast(), networks.calling():
            targets = [recipe.targets(batches, networks, progress) for batches in micro_batches]
        pairs = list(zip(micro_batches, targets, strict=True))
        self.saver.poll()
        asks = self.stop.reason is not None or self.saver.problem is not None
        with span("counts"):
            whole = GlobalBatch([recipe.counts(*pair) for pair in pairs], stop=asks)
            self.stop.pass_on(whole.stops)
        norms: dict[str, Tensor | float | None] | None = None
        for batches, target in pairs:
            with networks.calling():
                with span("loss"), self.autocast():  # the networks' calls are a span of their own, "forward"
                    forward = partial(recipe.step, batches, target, networks, progress, whole)
                    result = self.hooks.around_forward(forward, networks, progress)
                learning = {name: engine for name, engine in networks.engines.items() if name in result.losses}
                assert norms is None or set(norms) == set(learning), "a step's micro batches have losses of others"
                with span("backward"):
                    for name, engine in learning.items():
                        engine.backward(result.losses[name])
            for name, engine in learning.items():
                if gradients_complete(engine):
                    self.hooks.before_update(name, engine, progress)
            with span("optimizer"):
                norms = {name: step_engine(engine) for name, engine in learning.items()}
            self.reporter.add(result, due.log)
        return norms or {}

    def _after_step(self, phase: Phase, rank_batch: RankBatch, due: Due) -> None:
        """Log, validate and save where it is time."""
        if due.log:
            self._log()
        best: list[Validation] = []
        if due.validate and self.setup.validations:
            with span("validation"):
                best = self._validate(phase, rank_batch)
        if due.save or best or self.stop.agreed or self.validator.has_ended(phase, self.state):
            with span("checkpoint"):
                self._save(best)
        if due.save or due.validate:
            self.reporter.restart_clock()

    def _log(self) -> None:
        engines = self.networks.engines
        rates = {name: get_learning_rate(engine) for name, engine in engines.items()}
        norms = {name: float(norm) for name, norm in self._norms.items() if name in engines and norm is not None}
        self.reporter.log(self.setup.progress(self.state), self._epoch(), rates, norms, self.spans)
        self.folder.write_status("running", self.state.step)

    def _epoch(self) -> float:
        """Return the number of passes over the first stream."""
        first = self.setup.first_stream
        return self.state.positions[first] / len(self.setup.splits[first])

    def _validate(self, phase: Phase, rank_batch: RankBatch) -> list[Validation]:
        """Evaluate the validations; return those whose metric is the best so far."""
        with self.networks.gathered(predicting(self.setup.recipe, self.config.train.weights)) as networks:
            predictor = Predictor.of(self.setup.recipe, networks, self.device, self.autocast())
            return self.validator.validate(predictor, rank_batch.micro_batch, phase, self.state)

    def _save(self, best: Sequence[Validation]) -> None:
        with self.reporter.blocked():
            if self.stop.agreed:
                self._check_saved()
            self.saver.wait()  # before this one takes memory
            start = time.monotonic()
            states = self.networks.state(keep=self.folder.writes, copy=False)
            self.state.steps_of = {name: state.steps for name, state in states.items()}
            self.saver.save(states, self.state, [validation.pointer for validation in best], start)
            self.folder.write_status("running", self.state.step)
            if not self.config.checkpoint.background:
                self._check_saved()

    def _check_saved(self) -> None:
        """Check that the checkpoints could be written so far. All ranks must call it.

        Raises:
            SaveError: one could not; raised on all ranks.
        """
        problem = broadcast(self.saver.problem)
        if problem is not None:
            raise SaveError(problem)

    def _watch_updates(self, updated: Mapping[str, bool], loaded: Sequence[Mapping[str, Batch]]) -> None:
        """Count the steps in a row whose gradient was not finite, which is so on all ranks alike.

        Raises:
            UmlError: they are too many; the state before the step is saved, from which `--replay` repeats it.
        """
        skipped = [name for name, was in updated.items() if not was]
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if skipped else 0
        if not skipped:
            return
        limit, step = self.config.faults.skipped_steps, self.state.step + 1
        count = f"{self._skipped_in_a_row} of {limit} in a row"
        self.reporter.say(f"step {step}: the gradient of {', '.join(skipped)} is not finite, skipped ({count})")
        if self._skipped_in_a_row < limit:
            return
        folder = self.folder.path / "faults" / "not-finite"
        keys = all_gather([{name: batch.keys for name, batch in batches.items()} for batches in loaded])
        states = self.networks.state(keep=self.folder.writes)
        steps_of = {name: state.steps for name, state in states.items()}
        if self.folder.writes:
            saved = save_checkpoint(folder, states, replace(self.state, steps_of=steps_of))
            replace_text(folder / f"{saved.name}.keys.json", json.dumps(keys) + "\n")
        barrier()
        raise UmlError(
            f"{limit} steps in a row had a gradient that is not finite, the last of {', '.join(skipped)} in step "
            f"{step}: repeat it with train.py --replay {folder / folder_name(self.state.step)}"
        )

    def _watch_placeholders(self, loaded: list[Mapping[str, Batch]]) -> None:
        for batches in loaded:
            for batch in batches.values():
                self.reporter.skipped(batch.skipped)
                self._bad_in_a_row = self._bad_in_a_row + len(batch.skipped) if len(batch.skipped) == len(batch) else 0
                if self._bad_in_a_row >= SKIPPED_IN_A_ROW:
                    last = batch.skipped[-1][1]
                    raise ShardError(f"{self._bad_in_a_row} samples in a row cannot be read, last: {last}")
