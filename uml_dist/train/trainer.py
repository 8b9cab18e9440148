"""The training loop: phases, steps, and what is logged, validated and saved after which."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from uml_shards.errors import ShardError
from uml_shards.read.loader import load

from ..batch import Batch, collate
from ..distributed.global_batch import GlobalBatch
from ..distributed.ranks import barrier, rank, world_size
from ..evaluate import Evaluation, Predictor, evaluate
from ..launch.precision import computes_in_bf16
from ..metrics.selection import parse_selection
from ..recipes import Phase
from ..run.checkpoint import RunState, read_networks, read_weights_file, save_checkpoint
from ..run.checkpoint_folder import point, prune
from ..run.data import evaluation_stream
from ..run.folder import RunFolder, versions
from ..run.network_state import NetworkState
from .engine import get_learning_rate, set_learning_rate, step_engine
from .networks import Networks
from .optimizer import learning_rate
from .rank_batch import RankBatch, loader_workers
from .report import Reporter
from .setup import Setup, Validation

SKIPPED_IN_A_ROW = 100
"""Placeholders in a row after which a rank takes its data for broken, whatever `on_bad_sample` allows."""


class Trainer:
    """Trains a recipe on one rank of a world; every rank runs the same code.

    Args:
        setup: of the run.
        device: of this rank.
        folder: of the run.
        reporter: where the figures go.
        local_ranks: ranks that share this machine.
    """

    def __init__(
        self, setup: Setup, device: torch.device, folder: RunFolder, reporter: Reporter, local_ranks: int = 1
    ) -> None:
        self.setup = setup
        self.config = setup.config
        self.device = device
        self.folder = folder
        self.reporter = reporter
        self.rank = rank()
        self.workers = loader_workers(self.config, device.type == "cuda", local_ranks)
        self.networks = Networks(setup.recipe, self.config, device)
        self.state = RunState(
            recipe=self.config.recipe,
            positions=dict.fromkeys(setup.recipe.streams, 0),
            data=setup.digests,
            config=self.config.model_dump(mode="json", exclude_none=True),
            versions=versions(),
        )
        self._norms: dict[str, torch.Tensor | float | None] = {}
        self._bad_in_a_row = 0
        self._missing: Mapping[str, list[str]] = {}

    def resume(self, checkpoint: Path, state: RunState) -> None:
        """Go on from a checkpoint."""
        states, lines = self.networks.complete(read_networks(checkpoint), str(checkpoint))
        self.networks.load(states)
        for line in lines:
            self.reporter.say(line)
        for validation in self.setup.validations:
            if self._compares_otherwise(validation, state.config):
                self._forget_best(validation, state)
        self.state = replace(state, config=self.state.config, versions=self.state.versions)

    def _compares_otherwise(self, validation: Validation, before: Mapping[str, Any]) -> bool:
        """Whether a run's earlier configuration compared validations by another figure."""
        selection, families = validation.selection, self.setup.recipe.families
        stated = before["validations"].get(validation.name, {}) if validation.name else before["train"]
        other_rule = before["train"].get("empty_masks", "one") != self.config.train.empty_masks
        other = parse_selection(stated.get("best", ""), families, selection.key) != selection
        return other or (other_rule and selection.by_empty_masks)

    def start_from(self, path: Path) -> None:
        """Begin with the weights of a checkpoint, a run folder's best one, or a safetensors file of the first network.

        Raises:
            UmlError: it cannot be read, or its networks are of another architecture.
        """
        given = {name: NetworkState(w) for name, w in read_weights_file(path, tuple(self.networks)).items()}
        states, lines = self.networks.complete(given, str(path))
        afresh = self.networks.start_from({name: state.weights for name, state in states.items()}, str(path))
        others = f"; of other shapes, so they start afresh: {', '.join(afresh)}" if afresh else ""
        for line in (f"weights from {path}{others}", *lines):
            self.reporter.say(line)

    def run(self) -> None:
        """Train to the end."""
        while self.state.phase < len(self.setup.phases):
            phase, steps = self.setup.phases[self.state.phase]
            if self.state.phase_step < steps and not self._has_ended(phase):
                self._run_phase(phase, steps)
            self.state.phase += 1
            self.state.phase_step = 0
            self.state.until_best, self.state.until_misses = None, 0
        for validation in self.setup.validations:
            if self._best(validation) is None and self._missing.get(validation.name):
                selection = validation.selection
                self.reporter.say(
                    f"no validation could form {selection.key} = {selection.name} (the last one lacked "
                    f"{', '.join(self._missing[validation.name])}), so no checkpoint is the best: name one by "
                    "--checkpoint, such as latest"
                )

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision in which networks compute."""
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
        self.reporter.restart_clock()
        while self.state.phase_step < steps and not self._has_ended(phase):
            self._step(phase, steps, rank_batch, batches)
            self._after_step(phase, steps, rank_batch)

    def _has_ended(self, phase: Phase) -> bool:
        """Whether a phase has ended before its last step, as its metric no longer improves; alike on all ranks."""
        until = self.setup.until(phase)
        return until is not None and self.state.until_misses >= until.patience

    def _micro_batches(self, phase: Phase, rank_batch: RankBatch, steps: int) -> Iterator[Mapping[str, Batch]]:
        first = dict(self.state.positions)
        requests = (request for step in range(steps) for request in rank_batch.micro_batches(step, first))
        streams = self.setup.streams(phase)
        return load(streams, requests, collate, self.workers, pin_memory=self.device.type == "cuda")

    def _step(self, phase: Phase, steps: int, rank_batch: RankBatch, source: Iterator[Mapping[str, Batch]]) -> None:
        """One optimiser step: all micro batches of this rank, then the update."""
        start = time.perf_counter()
        loaded = [next(source) for _ in range(rank_batch.accumulation)]
        data_wait = time.perf_counter() - start
        self._watch_placeholders(loaded)
        recipe, engines = self.setup.recipe, self.networks.engines
        micro_batches = [{name: batch.to(self.device) for name, batch in batches.items()} for batches in loaded]
        progress = self.setup.progress(self.state)
        with torch.no_grad(), self.autocast():
            targets = [recipe.targets(batches, self.networks, progress) for batches in micro_batches]
        pairs = list(zip(micro_batches, targets, strict=True))
        whole = GlobalBatch([recipe.counts(*pair) for pair in pairs])
        for name, engine in engines.items():
            set_learning_rate(engine, learning_rate(self.config.optimizer_of(name), self.state.phase_step, steps))
        stepped: set[str] | None = None
        for batches, target in pairs:
            with self.autocast():
                result = recipe.step(batches, target, self.networks, progress, whole)
            learning = {name: engine for name, engine in engines.items() if name in result.losses}
            assert stepped in (None, set(learning)), "micro batches of a step have losses of different networks"
            stepped = set(learning)
            for name, engine in learning.items():
                engine.backward(result.losses[name])
            self._norms |= {name: step_engine(engine) for name, engine in learning.items()}
            self.reporter.add(result)
        self.networks.average(stepped or ())
        self.state.step += 1
        self.state.phase_step += 1
        for name, count in rank_batch.counts.items():
            self.state.positions[name] += count
        self.reporter.end_step(
            self.setup.progress(self.state),
            self._epoch(),
            sum(rank_batch.counts.values()),
            rank_batch.micro_batch * rank_batch.accumulation,
            data_wait,
        )

    def _after_step(self, phase: Phase, steps: int, rank_batch: RankBatch) -> None:
        """Log, validate and save where it is time."""
        step = self.state.step
        last = self.state.phase == len(self.setup.phases) - 1 and self.state.phase_step == steps
        validate = step % self.config.train.validate_every == 0 or last
        save = step % self.config.checkpoint.every == 0 or last
        if step % self.config.train.log_every == 0 or validate or save:
            self._log()
        best = self._validate(phase, rank_batch) if validate else []
        if save or best or self._has_ended(phase):
            self._save(best)
        if save or validate:
            self.reporter.restart_clock()

    def _log(self) -> None:
        engines = self.networks.engines
        rates = {name: get_learning_rate(engine) for name, engine in engines.items()}
        norms = {name: float(norm) for name, norm in self._norms.items() if name in engines and norm is not None}
        self.reporter.log(self.setup.progress(self.state), self._epoch(), rates, norms)

    def _epoch(self) -> float:
        """Passes over the first stream."""
        first = self.setup.first_stream
        return self.state.positions[first] / len(self.setup.splits[first])

    def _validate(self, phase: Phase, rank_batch: RankBatch) -> list[Validation]:
        """Evaluate the validations; return those whose metric is the best so far."""
        best = []
        with self.networks.gathered() as networks:
            predictor = Predictor(self.setup.recipe, networks, self.device, self.autocast())
            for validation in self.setup.validations:
                result = self._evaluate(predictor, validation, rank_batch.micro_batch)
                selection = validation.selection
                value = selection.value(result.metrics)
                self._missing = {**self._missing, validation.name: selection.missing(result.metrics)}
                figures = result.metrics if value is None else {**result.metrics, selection.name: value}
                self.reporter.validated(self.state.step, figures, selection.name, result.empty, validation.name)
                self.reporter.picture(self.state.step, result.manifest, result.examples, validation.name)
                self._watch_until(phase, validation, result.metrics)
                if value is not None and selection.is_better(value, self._best(validation)):
                    self._set_best(validation, value)
                    best.append(validation)
        return best

    def _evaluate(self, predictor: Predictor, validation: Validation, batch_size: int) -> Evaluation:
        stream = evaluation_stream(self.config, validation.split, validation.size, self.setup.statistics)
        empty = self.config.train.empty_masks
        return evaluate(predictor, stream, batch_size, self.workers, empty, examples=self.folder.writes)

    def _watch_until(self, phase: Phase, validation: Validation, metrics: Mapping[str, float]) -> None:
        """Count the validations in which the metric that ends the phase has not improved."""
        until = self.setup.until(phase)
        if until is None or until.validation != validation.name:
            return
        value = until.selection.value(metrics)
        if value is not None and until.selection.is_better(value, self.state.until_best):
            self.state.until_best, self.state.until_misses = value, 0
        else:
            self.state.until_misses += 1
        if self._has_ended(phase):
            self.reporter.say(
                f"phase {phase.name} ends at step {self.state.step}: {phase.until} has not improved in "
                f"{until.patience} validations"
            )

    def _best(self, validation: Validation) -> float | None:
        return self.state.more_best.get(validation.name) if validation.name else self.state.best

    def _set_best(self, validation: Validation, value: float) -> None:
        if validation.name:
            self.state.more_best = {**self.state.more_best, validation.name: value}
        else:
            self.state.best, self.state.best_step = value, self.state.step

    @staticmethod
    def _forget_best(validation: Validation, state: RunState) -> None:
        if validation.name:
            state.more_best = {name: value for name, value in state.more_best.items() if name != validation.name}
        else:
            state.best = state.best_step = None

    def _save(self, best: Sequence[Validation]) -> None:
        states = self.networks.state(keep=self.folder.writes)
        self.state.steps_of = {name: state.steps for name, state in states.items()}
        if self.folder.writes:
            saved = save_checkpoint(self.folder.checkpoints, states, self.state)
            for validation in best:
                point(self.folder.checkpoints / validation.pointer, saved.name)
            prune(self.folder.checkpoints, self.config.checkpoint.keep)
            self.folder.write_status("running", self.state.step)
        barrier()

    def _watch_placeholders(self, loaded: list[Mapping[str, Batch]]) -> None:
        for batches in loaded:
            for batch in batches.values():
                self.reporter.skipped(batch.skipped)
                self._bad_in_a_row = self._bad_in_a_row + len(batch.skipped) if len(batch.skipped) == len(batch) else 0
                if self._bad_in_a_row >= SKIPPED_IN_A_ROW:
                    last = batch.skipped[-1][1]
                    raise ShardError(f"{self._bad_in_a_row} samples in a row cannot be read, last: {last}")
