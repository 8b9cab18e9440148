"""Trainings with their floating-point operations counted, as functions that `run_world` can call."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from prometheus_client import CollectorRegistry
from torch.utils.flop_counter import FlopCounterMode

from runs import Trace, train
from uml_dist.recipes import Progress
from uml_dist.telemetry.devices import register_device_collectors
from uml_dist.train.device_metrics import FlopHook
from uml_dist.train.hooks import Hook


@dataclass
class Counted:
    """Trainings alike: without counting, with steps of each kind counted, and maybe with each step counted.

    Attributes:
        traces: what the trainings did.
        exported: operations by the metric, after the second one.
        counters: number of steps that the second training counted.
        each: operations of each step of the third training, by torch's counter as it is.
    """

    traces: list[Trace]
    exported: float | None
    counters: int
    each: list[int]


class EachStep(Hook):
    """Counts each step by a counter of its own."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.counter: Any = None

    def before_step(self, progress: Progress, batches: Sequence[Mapping[str, Any]]) -> None:
        self.counter = FlopCounterMode(display=False)
        self.counter.__enter__()

    def after_step(self, progress: Progress, norms: Mapping[str, Any]) -> None:
        self.counter.__exit__(None, None, None)
        self.counts.append(self.counter.get_total_flops())


class Noting(FlopHook):
    """Notes how many steps were counted."""

    counted = 0

    def before_step(self, progress: Progress, batches: Sequence[Mapping[str, Any]]) -> None:
        super().before_step(progress, batches)
        self.counted += torch._C._len_torch_dispatch_stack()


def train_counted(trees: Sequence[dict[str, Any]], each_too: bool = False) -> list[Counted]:
    """Train each configuration two or three times."""
    return [_train_counted(tree, each_too) for tree in trees]


def _train_counted(tree: dict[str, Any], each_too: bool) -> Counted:
    registry = CollectorRegistry()
    hook, each = Noting(register_device_collectors(registry, torch.device("cpu")).flops), EachStep()
    traces = [train(tree), train(tree, hooks=[hook])]
    if each_too:
        traces.append(train(tree, hooks=[each]))
    return Counted(traces, registry.get_sample_value("uml_flops_total"), hook.counted, each.counts)
