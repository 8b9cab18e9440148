"""Connects a training with the metrics of what it uses: devices, disks and floating-point operations."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from prometheus_client import CollectorRegistry
from torch import Tensor

from uml_shards.storage.cache import default_folder

from ..batch import Batch
from ..config.schema import RunConfig
from ..launch import Devices
from ..launch.precision import computes_in_bf16
from ..recipes import Progress
from ..telemetry.devices import DeviceCollectors, register_device_collectors
from ..telemetry.flops import FlopCollector
from .hooks import Hook


class FlopHook(Hook):
    """Counts the operations between `before_step` and `after_step`.

    Args:
        flops: the counter.
    """

    def __init__(self, flops: FlopCollector) -> None:
        self._flops = flops

    def before_step(self, progress: Progress, batches: Sequence[Mapping[str, Batch]]) -> None:
        """Begin a step, whose operations depend on the phase and on the shapes of its micro batches."""
        shapes = tuple(tuple((name, batch.image.shape) for name, batch in streams.items()) for streams in batches)
        self._flops.begin_step((progress.phase, shapes))

    def after_step(self, progress: Progress, norms: Mapping[str, Tensor | float | None]) -> None:
        """End the step, whose operations depend on the networks that have learnt too."""
        self._flops.end_step(norms.keys())


def collect_devices(
    registry: CollectorRegistry, config: RunConfig, device: torch.device, devices: Devices, local_rank: int, run: Path
) -> tuple[DeviceCollectors | None, tuple[Hook, ...]]:
    """Register the collectors of what a rank uses. Never raises.

    Args:
        registry: registry of the rank.
        config: the run's configuration.
        device: device of the rank.
        devices: devices of the machine's ranks.
        local_rank: index of the rank on its machine.
        run: the run's folder.

    Returns:
        The collectors, and the hooks that feed them; None and no hooks if no metrics are exported.
    """
    if not config.metrics.enabled:
        return None, ()
    collectors = register_device_collectors(
        registry,
        device,
        bf16=computes_in_bf16(config.train.precision, device),
        gpu=devices.ids[local_rank] if local_rank < devices.count else None,
        folders={"run": run, "cache": Path(config.data.cache) if config.data.cache else default_folder()},
    )
    return collectors, (FlopHook(collectors.flops),)
