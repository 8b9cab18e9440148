"""Trainings that run inside a world of several ranks: functions that `run_world` can call."""

import io
import os
import resource
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

import uml_dist.nn.keyed_dropout
import uml_dist.recipes.uml.recipe as uml_recipe
from runs import Trace, train
from uml_dist.batch import Batch
from uml_dist.config.faults import InjectConfig
from uml_dist.config.loading import validate
from uml_dist.distributed.global_batch import GlobalBatch
from uml_dist.distributed.ranks import world_size
from uml_dist.errors import CorruptionError, UmlError
from uml_dist.evaluate import evaluation
from uml_dist.launch import Devices
from uml_dist.recipes import MicroBatchResult, Progress
from uml_dist.run import background
from uml_dist.train.canary import Canary
from uml_dist.train.faults import Injector
from uml_dist.train.hooks import Hook
from uml_dist.train.main import Start, train_rank
from uml_dist.train.replay import replay
from uml_dist.train.setup import find_resume, prepare
from uml_dist.train.watchdog import waits_for_others
from uml_shards import ShardError


def train_each(trees: list[dict[str, Any]], runs: list[str] | None = None) -> list[Trace]:
    """Run several trainings one after another in one world."""
    return [train(tree, run) for tree, run in zip(trees, runs or [None] * len(trees), strict=True)]


def train_and_stop_each(trees: list[dict[str, Any]], runs: list[str], stop_at: int) -> list[Trace]:
    """Run each training uninterrupted without a run folder, then again in its run folder, stopped as if killed."""
    straight = train_each(trees)
    for tree, run in zip(trees, runs, strict=True):
        train(tree, run, stop_at=stop_at)
    return straight


def train_without_global_dice(tree: dict[str, Any]) -> Trace:
    """Train without summing the Dice terms over ranks."""
    GlobalBatch.total = lambda self, local: local
    return train(tree)


def train_with_torch_dropout(tree: dict[str, Any]) -> Trace:
    """Train with dropout from torch's global generator, which has the same seed on every rank."""

    def forward(self: nn.Module, feature: Tensor) -> Tensor:
        return nn.functional.dropout2d(feature, self.probability, self.training)

    torch.manual_seed(0)
    uml_dist.nn.keyed_dropout.KeyedDropout.forward = forward
    return train(tree)


def train_without_zero_terms(tree: dict[str, Any]) -> Trace:
    """Train with ranks that omit the classification if they have no label, instead of adding 0 times it."""
    terms = uml_recipe.uml_terms

    def without(output: Any, batch: Any, *others: Any) -> dict[str, Tensor]:
        if not batch.labelled.any():
            output = output._replace(class_logits=output.class_logits.detach())
        return terms(output, batch, *others)

    uml_recipe.uml_terms = without
    return train(tree)


def generators_around(tree: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Return the states of torch's and numpy's global generators before and after a training."""

    def states() -> list[int]:
        return [hash(torch.get_rng_state().numpy().tobytes()), hash(np.random.get_state()[1].tobytes())]  # noqa: NPY002

    before = states()
    train(tree)
    return before, states()


def refusal_of(tree: dict[str, Any]) -> str:
    """Return the error of a training that cannot continue."""
    try:
        train(tree)
    except ShardError as error:
        return str(error)
    raise AssertionError("the training did not fail")


def train_validating(tree: dict[str, Any], run: str) -> Trace:
    """Train with validations."""
    return train(tree, run, validate_too=True)


def train_with_figures(jobs: list[tuple[dict[str, Any], str, list[dict[str, float]], int | None]]) -> None:
    """Run several trainings, and replace the metrics of their validations.

    Args:
        jobs: for each training its configuration, run folder, figures of the validations, and step to stop at.
    """
    for tree, run, figures, stop_at in jobs:
        with patch.object(evaluation, "summarise", side_effect=figures):
            train(tree, run, validate_too=True, stop_at=stop_at)


def starts_of(trees: list[dict[str, Any]]) -> list[Trace]:
    """Return the state at the start of each training, stopped before its first step."""
    return [train(tree, stop_at=0) for tree in trees]


def fail_to_start(tree: dict[str, Any], run: str) -> tuple[Any, str]:
    """The exit code and the last words of a rank that cannot start, although all was well when it was checked."""
    output = io.StringIO()
    with redirect_stderr(output):
        try:
            return train_rank(prepare(validate(tree, "test"), 2), Start(Path(run)), Devices("cpu")), output.getvalue()
        except SystemExit as left:
            return left.code, output.getvalue()


def train_as_the_command(
    tree: dict[str, Any], run: str, largest_file: int | None = None, hooks: Sequence[Hook] = ()
) -> tuple[Any, str, str]:
    """A training as `launchers/train.py --run` does it, with what a user sees: exit code, stdout and stderr.

    Args:
        tree: the configuration.
        run: its folder.
        largest_file: bytes, beyond which writing fails as on a full disk.
        hooks: called around each step.
    """

    def leave(code: int) -> None:
        raise SystemExit(code)

    left: list[str] = []
    setup = prepare(validate(tree, "test"), world_size())
    resume = find_resume(setup, Path(run), "auto", left.append)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    output, errors = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(errors), patch.object(os, "_exit", leave):
        with patch.object(torch.distributed, "destroy_process_group"):  # the test's world ends itself
            try:
                code = train_rank(setup, Start(Path(run), resume, tuple(left)), Devices("cpu"), hooks)
            except SystemExit as left_with:
                code = left_with.code
    return code, output.getvalue(), errors.getvalue()


def train_as_the_command_with_a_small_disk(tree: dict[str, Any], run: str) -> tuple[Any, str, str]:
    """Train as the command does, with writers of checkpoints for which the disk is full."""
    start = background.subprocess.Popen

    def start_limited(*arguments: Any, **options: Any) -> Any:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        try:
            return start(*arguments, **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    with patch.object(background.subprocess, "Popen", start_limited):
        return train_as_the_command(tree, run)


def start_apart(tree: dict[str, Any], run: str) -> tuple[Any, str]:
    """Return exit code and stderr of a rank when only rank 0 finds a checkpoint."""
    setup = prepare(validate(tree, "test"), world_size())
    resume = find_resume(setup, Path(run), "auto") if torch.distributed.get_rank() == 0 else None
    output = io.StringIO()
    with redirect_stderr(output):
        try:
            return train_rank(setup, Start(Path(run), resume), Devices("cpu")), output.getvalue()
        except SystemExit as left:
            return left.code, output.getvalue()


def train_in_pieces(tree: dict[str, Any], run: str, stops: Sequence[int | None]) -> list[Trace]:
    """Train in a run folder, stopped as if killed before each of these steps, and resumed."""
    return [train(tree, run, stop_at=stop_at) for stop_at in stops]


def parameters_of_optimizers(tree: dict[str, Any]) -> dict[str, tuple[list[int], list[int]]]:
    """Return for each network the ids of its parameters, and of those that its optimiser changes, at ZeRO 0."""
    owned: dict[str, tuple[list[int], list[int]]] = {}

    class Watch(Hook):
        def before_update(self, network: str, engine: Any, progress: Any) -> None:
            changed = [parameter for group in engine.optimizer.param_groups for parameter in group["params"]]
            owned[network] = tuple(sorted(map(id, each)) for each in (engine.module.parameters(), changed))

    train(tree, hooks=[Watch()])
    return owned


def wait_seen_by_another_thread() -> bool:
    """Come late to a barrier as rank 1; whether another thread saw this rank's main thread wait before that."""
    found: list[bool] = []
    looker = threading.Timer(0.5, lambda: found.append(waits_for_others()))
    looker.start()
    if torch.distributed.get_rank() == 1:
        time.sleep(1.0)
    torch.distributed.barrier()
    looker.join()
    return found[0]


class Poison(Hook):
    """Makes images with some keys not finite."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = keys

    def before_step(self, progress: Progress, batches: Sequence[Mapping[str, Batch]]) -> None:
        for batch in (batch for streams in batches for batch in streams.values()):
            for number, key in enumerate(batch.keys):
                if key in self.keys:
                    batch.image[number] = float("nan")


def poisoned(
    trees: Sequence[dict[str, Any]], runs: Sequence[str | None], stop_at: int | None, steps: tuple[int, ...] = (3,)
) -> list[Trace | str]:
    """Run trainings in which the images of rank 1 are not finite in some steps; an error as its line."""
    found: list[Trace | str] = []
    for tree, run in zip(trees, runs, strict=True):
        try:
            fault = Injector(InjectConfig(kind="nan", rank=1, steps=steps))
            found.append(train(tree, run, stop_at=stop_at, hooks=(fault,)))
        except UmlError as error:
            found.append(str(error))
    return found


def replayed(tree: dict[str, Any], checkpoint: str, keys: Sequence[str]) -> tuple[list[str], bool]:
    """Repeat the step after a checkpoint, with some images that are not finite."""
    setup = prepare(validate(tree, "test"), world_size())
    return replay(setup, Path(checkpoint), torch.device("cpu"), [Poison(keys)])


def flip_a_bit(tree: dict[str, Any], rank: int | None = None) -> Trace | str:
    """Compare the weights before every step, after flipping a bit of them on a rank; the error as its line."""
    try:
        fault = InjectConfig() if rank is None else InjectConfig(kind="bit-flip", rank=rank, steps=(3,))
        return train(tree, hooks=(Injector(fault), Canary(1)))
    except CorruptionError as error:
        return str(error)


class WrongOnce(Hook):
    """Changes what a network is given in one forward pass of a step, on one rank, as a faulty processor might."""

    def __init__(self, rank: int, step: int) -> None:
        self.rank, self.step = rank, step

    def around_forward(
        self, forward: Callable[[], MicroBatchResult], networks: Mapping[str, nn.Module], progress: Progress
    ) -> MicroBatchResult:
        if torch.distributed.get_rank() != self.rank or progress.step != self.step:
            return forward()
        self.rank = -1

        def change(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (inputs[0] * (1 + 1e-6), *inputs[1:])

        handle = next(iter(networks.values())).register_forward_pre_hook(change)
        try:
            return forward()
        finally:
            handle.remove()


def compute_wrongly(tree: dict[str, Any], rank: int, step: int) -> tuple[Trace | str, list[str]]:
    """Repeat a forward pass in every step, one of which goes wrong on a rank; the error, and what the canary says."""
    lines: list[str] = []
    try:
        return train(tree, hooks=(WrongOnce(rank, step), Canary(1, lines.append))), lines
    except CorruptionError as error:
        return str(error), lines


def repeat_forward_each(trees: list[dict[str, Any]], runs: list[str]) -> list[tuple[Trace, list[str]]]:
    """Run trainings that repeat a forward pass in every step, with what the canary says."""
    found = []
    for tree, run in zip(trees, runs, strict=True):
        lines: list[str] = []
        found.append((train(tree, run, hooks=(Canary(1, lines.append),)), lines))
    return found
