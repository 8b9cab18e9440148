"""Reports a run on the progress line, in metrics.jsonl and to Prometheus; no step waits for the device."""

import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from uml_shards import tally
from uml_shards.format.manifest import Manifest

from ..distributed.ranks import all_gather
from ..evaluate.examples import Example
from ..recipes import MicroBatchResult, Progress
from ..run.background import Saved
from ..run.checkpoint_folder import size_of
from ..run.folder import RunFolder
from ..run.history import PRODUCTIVE, History
from ..telemetry import Metrics, Spans
from ..telemetry.devices import DeviceCollectors
from ..telemetry.health import Health
from ..telemetry.tensorboard import TensorBoardWriter
from .goodput import Goodput
from .means import Means
from .progress_line import ProgressPrinter, progress_line

HEADLINES = (
    *("loss", "dice", "iou", "aupr"),
    *("accuracy", "auroc", "auroc_tasks", "quadratic_kappa", "image_ece", "pixel_ece"),
)
"""Metrics of a validation that are printed; metrics.jsonl and the exporter get all of them."""


class Reporter:
    """Collects the figures of steps, and reports their means at logging steps.

    Args:
        folder: the run's folder.
        metrics: this rank's metrics for Prometheus.
        printer: prints on rank 0; None on the others.
        history: what happened in the run before this start; by default, nothing.
        used: what the rank uses of its devices; by default, that is not measured.

    Attributes:
        health: is told of every step, if set.
        events: gets the records and pictures for TensorBoard, if set.
    """

    def __init__(
        self,
        folder: RunFolder,
        metrics: Metrics,
        printer: ProgressPrinter | None,
        history: History | None = None,
        used: DeviceCollectors | None = None,
    ) -> None:
        self.health: Health | None = None
        self.events: TensorBoardWriter | None = None
        history = history or History(1, folder.started)
        self._used = used
        self._folder = folder
        self._metrics = metrics
        self._printer = printer
        self._means = Means()
        self._goodput = Goodput(history, folder.started)
        metrics.record_goodput(history.productive, self._goodput.ratio())
        self._steps = 0
        self._images = 0
        self._data_wait = 0.0
        self._start = time.perf_counter()
        self._step_start = self._start

    def restart_clock(self) -> None:
        """Ignore the time since the last step, which was spent on validating, saving or starting a phase."""
        now = time.perf_counter()
        self._start += now - self._step_start
        self._step_start = now

    def begin_phase(self, progress: Progress, phases: Sequence[str]) -> None:
        """Record which of the recipe's phases begins or continues, and restart the clock."""
        self.restart_clock()
        self._metrics.record_progress(progress.step, progress.steps)
        self._metrics.record_recipe_phase(progress.phase, phases)

    def add(self, result: MicroBatchResult, logged: bool = False) -> None:
        """Add the figures of one micro batch, without reading them from the device.

        Args:
            result: what the recipe has computed.
            logged: whether its step is a logging step.
        """
        self._means.add(result, logged)

    def updated(self, networks: Mapping[str, bool]) -> None:
        """Count for each network that should learn in a step whether it was updated."""
        self._metrics.record_updates(networks)

    def end_step(self, progress: Progress, epoch: float, images: int, local_images: int, data_wait: float) -> None:
        """Count a step.

        Args:
            progress: progress after the step.
            epoch: passes over the first stream.
            images: number of images in the global batch.
            local_images: number of images of this rank.
            data_wait: seconds that this rank waited for data.
        """
        now = time.perf_counter()
        seconds = now - self._step_start
        self._metrics.record_step(
            step=progress.step, epoch=epoch, images=local_images, seconds=seconds, data_wait_seconds=data_wait
        )
        self._metrics.record_progress(progress.step, progress.steps)
        self._goodput.add(seconds)
        self._metrics.record_goodput(seconds, self._goodput.ratio())
        if self.health:
            self.health.step(progress.step)
        self._step_start = now
        self._steps += 1
        self._images += images
        self._data_wait += data_wait

    def record_spans(self, spans: Spans) -> dict[str, float]:
        """Pass the seconds of spans since the last call on to the exporter, and return them."""
        spent = spans.take()
        self._metrics.record_phases(spent)
        return spent

    def log(
        self,
        progress: Progress,
        epoch: float,
        rates: Mapping[str, float],
        norms: Mapping[str, float],
        spans: Spans,
    ) -> dict[str, float]:
        """Report the means since the last call, and return them. All ranks must call it.

        Args:
            progress: progress after the step.
            epoch: passes over the first stream.
            rates: learning rate by network.
            norms: gradient norm by network.
            spans: this rank's spans; metrics.jsonl gets rank 0's seconds since the last record.
        """
        values = self._means.read()
        for level, bins in self._means.read_bins().items():
            self._metrics.record_opinions(level, bins)
        spent = self.record_spans(spans)  # now that the device has done the step's work
        seconds = max(self._step_start - self._start, 1e-9)
        each = seconds / max(self._steps, 1)
        vacuity = {name.removeprefix("vacuity_"): v for name, v in values.items() if name.startswith("vacuity_")}
        terms = {name: value for name, value in values.items() if not name.startswith("vacuity_")}
        speed, wait = self._images / seconds, self._data_wait / seconds
        self._metrics.record_log(loss=terms, vacuity=vacuity, learning_rate=rates, grad_norm=norms)
        if not all(map(math.isfinite, (*values.values(), *norms.values()))):
            self._metrics.record_nonfinite_step()
        self._metrics.record_eta(each * (progress.steps - progress.step))
        self._metrics.record_reading(tally.take())
        if self._used:
            self._used.flops.end_window(seconds)
        self._append(
            {"step": progress.step, "phase": progress.phase, "epoch": round(epoch, 4), **values}
            | {f"learning_rate_{name}": rate for name, rate in rates.items()}
            | {f"gradient_norm_{name}": norm for name, norm in norms.items()}
            | {"images_per_second": round(speed, 2), "data_wait": round(wait, 4)}
            | {PRODUCTIVE: round(self._goodput.productive, 6)}
            | {f"seconds_{name}": round(value, 6) for name, value in spent.items()}
        )
        if self._printer:
            self._printer.update(progress_line(progress, epoch, terms, vacuity, speed, wait, each))
        self._steps, self._images, self._data_wait = 0, 0, 0.0
        self._start = self._step_start
        return values

    def validated(
        self, step: int, figures: Mapping[str, float], best: str, rules: Mapping[str, str], validation: str = ""
    ) -> None:
        """Write the figures of a validation.

        Args:
            step: the run's step.
            figures: by name.
            best: name of the figure by which the best checkpoint is chosen; it may be missing.
            rules: what they depend on: the rule for empty masks, and the weights of the networks.
            validation: name of the validation; "" for the main one.
        """
        prefix = f"{validation}." if validation else ""
        self._metrics.record_validation({f"{prefix}{name}": value for name, value in figures.items()})
        named = {f"validation_{prefix}{name}": value for name, value in figures.items()}
        self._append({"step": step, **rules, **named})
        shown = [f"{name} {figures[name]:.4f}" for name in dict.fromkeys([*HEADLINES, best]) if name in figures]
        if figures and best not in figures:
            shown.append(f"{best} not formed")
        title = f"validation {validation}".rstrip()
        self.say(f"{title} at step {step}: " + "  ".join(shown or ["no figures"]))

    def picture(self, step: int, manifest: Manifest, examples: Sequence[Example], validation: str = "") -> None:
        """Draw examples of a validation, on rank 0."""
        if not self._folder.writes or not examples:
            return
        # Not before: matplotlib takes a second, and on the other ranks nobody draws.
        from ..evaluate.sheet import legend_of, write_sheet

        name = f"{validation}-{manifest.split}" if validation else manifest.split
        path = self._folder.path / "evaluation" / name / "sheet.png"
        heading = f"{self._folder.path.name}: {manifest.dataset} {manifest.split}, step {step}"
        write_sheet(path, examples, legend_of(manifest), heading)
        if self.events:
            self.events.picture(name, path, step)
        self.say(f"picture: {path}")

    def skipped(self, reasons: Sequence[tuple[str, str]]) -> None:
        """Count samples that became placeholders by kind of reason, and print the reasons."""
        for kind, reason in reasons:
            self._metrics.record_skipped(kind)
            print(f"skipped: {reason}", file=sys.stderr, flush=True)

    @contextmanager
    def blocked(self) -> Iterator[None]:
        """Measure the block, in which training waits for a checkpoint."""
        start = time.perf_counter()
        yield
        self._metrics.record_blocked(time.perf_counter() - start)

    def saved(self, saved: Saved) -> None:
        """Count a checkpoint that was saved, on the rank that has written it."""
        if saved.problem is None:
            written = saved.checkpoint
            self._metrics.record_checkpoint("save", saved.seconds, _saved(written), _size(written))
        else:
            self._metrics.record_failed_save()

    @contextmanager
    def loading(self, checkpoint: Path) -> Iterator[None]:
        """Measure the block that loads a checkpoint."""
        start = time.perf_counter()
        with self.blocked():
            yield
        seconds = time.perf_counter() - start
        self._metrics.record_checkpoint("load", seconds, _saved(checkpoint), _size(checkpoint))

    def _append(self, record: Mapping[str, Any]) -> None:
        self._folder.append_metrics(record)
        if self.events:
            self.events.record(record)

    def say(self, text: str) -> None:
        """Print a permanent line, on rank 0."""
        if self._printer:
            self._printer.say(text)


def _size(checkpoint: Path) -> int | None:
    try:
        return size_of(checkpoint)
    except OSError:
        return None


def _saved(checkpoint: Path) -> float | None:
    """Return when a checkpoint was complete, in seconds since 1970 (UTC)."""
    try:
        return (checkpoint / "MANIFEST.json").stat().st_mtime
    except OSError:
        return None


def peak_memory() -> tuple[float, float]:
    """Return the peak resident memory in GB of the largest rank and of all ranks together. All ranks must call it."""
    peaks = all_gather(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
    return max(peaks), sum(peaks)
