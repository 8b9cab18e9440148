"""Hooks for tests, and trainings with them: functions that `run_world` can call."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from deepspeed.utils import safe_get_full_grad, safe_get_full_optimizer_state

from runs import Trace, train
from uml_dist.errors import UmlError
from uml_dist.recipes import Progress
from uml_dist.train import engine as engines
from uml_dist.train.hooks import Hook


class CallList(Hook):
    """Lists its calls, as (place, step, details)."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, Any]] = []

    def before_step(self, progress: Progress, batches: Sequence[Mapping[str, Any]]) -> None:
        sizes = [{name: len(batch) for name, batch in streams.items()} for streams in batches]
        self.calls.append(("before_step", progress.step, sizes))

    def before_update(self, network: str, engine: Any, progress: Progress) -> None:
        self.calls.append(("before_update", progress.step, network))

    def after_step(self, progress: Progress, norms: Mapping[str, Any]) -> None:
        self.calls.append(("after_step", progress.step, {name: float(norm) for name, norm in norms.items()}))


class GradientNorms(Hook):
    """Computes the norm of each network's full gradient before its update, by step."""

    def __init__(self) -> None:
        self.norms: list[dict[str, float]] = []

    def before_step(self, progress: Progress, batches: Sequence[Mapping[str, Any]]) -> None:
        self.norms.append({})

    def before_update(self, network: str, engine: Any, progress: Progress) -> None:
        gradients = [safe_get_full_grad(parameter) for parameter in engine.module.parameters()]
        self.norms[-1][network] = float(torch.stack([gradient.float().norm() for gradient in gradients]).norm())


class Fail(Hook):
    """Ends the run at one place of a step.

    Args:
        place: name of the method that raises.
        step: steps done when it raises.
    """

    def __init__(self, place: str, step: int) -> None:
        self.place, self.step = place, step

    def _call(self, place: str, progress: Progress) -> None:
        if place == self.place and progress.step == self.step:
            raise UmlError(f"{place} found a bad value at step {progress.step}: lower the learning rate")

    def before_step(self, progress: Progress, batches: Sequence[Mapping[str, Any]]) -> None:
        self._call("before_step", progress)

    def before_update(self, network: str, engine: Any, progress: Progress) -> None:
        self._call("before_update", progress)

    def after_step(self, progress: Progress, norms: Mapping[str, Any]) -> None:
        self._call("after_step", progress)


class Moments(Hook):
    """Compares the moments that are read of an engine before its update with those that DeepSpeed returns one by one.

    Args:
        elements: how many are gathered at once.
    """

    def __init__(self, elements: int) -> None:
        self.elements = elements
        self.equal: list[bool] = []

    def before_update(self, network: str, engine: Any, progress: Progress) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engines, "BUCKET", self.elements)
            state = engines.read_engine(engine)
        names = dict(engine.module.named_parameters())
        for key, tensors in state.moments.items():
            assert tensors.keys() == names.keys()
            for name, moment in tensors.items():
                expected = safe_get_full_optimizer_state(names[name], key)
                self.equal.append(expected is not None and torch.equal(expected, moment))


def train_with(tree: dict[str, Any], hooks: Sequence[Hook]) -> tuple[Trace, Sequence[Hook]]:
    """Train with hooks, and return them with what they have recorded."""
    return train(tree, hooks=hooks), hooks
