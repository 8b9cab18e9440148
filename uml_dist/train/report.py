"""Reports a run on the progress line, in metrics.jsonl and to Prometheus; no step waits for the device."""

import resource
import sys
import time
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as distributed
from torch import Tensor

from uml_shards.format.manifest import Manifest

from ..distributed.ranks import all_gather, world_size
from ..evaluate.examples import Example
from ..recipes import MicroBatchResult, Progress
from ..run.folder import RunFolder
from ..telemetry import Metrics, Spans
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
    """

    def __init__(self, folder: RunFolder, metrics: Metrics, printer: ProgressPrinter | None) -> None:
        self._folder = folder
        self._metrics = metrics
        self._printer = printer
        self._sums: dict[str, Tensor] = {}
        self._parts: dict[str, int] = {}
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

    def add(self, result: MicroBatchResult) -> None:
        """Add the terms of one micro batch, without reading them from the device."""
        values = {**result.terms, **{f"vacuity_{level}": value for level, value in result.vacuity.items()}}
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._parts[name] = self._parts.get(name, 0) + 1

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
        self._metrics.record_step(
            step=progress.step,
            epoch=epoch,
            images=local_images,
            seconds=now - self._step_start,
            data_wait_seconds=data_wait,
        )
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
        names = list(self._sums)
        means = torch.stack([self._sums[name] / self._parts[name] for name in names])
        if world_size() > 1:
            distributed.all_reduce(means)
            means /= world_size()
        values = dict(zip(names, means.tolist(), strict=True))
        spent = self.record_spans(spans)  # now that the device has done the step's work
        seconds = max(self._step_start - self._start, 1e-9)
        vacuity = {name.removeprefix("vacuity_"): v for name, v in values.items() if name.startswith("vacuity_")}
        terms = {name: value for name, value in values.items() if not name.startswith("vacuity_")}
        speed, wait = self._images / seconds, self._data_wait / seconds
        self._metrics.record_log(loss=terms, vacuity=vacuity, learning_rate=rates, grad_norm=norms)
        self._folder.append_metrics(
            {"step": progress.step, "phase": progress.phase, "epoch": round(epoch, 4), **values}
            | {f"learning_rate_{name}": rate for name, rate in rates.items()}
            | {f"gradient_norm_{name}": norm for name, norm in norms.items()}
            | {"images_per_second": round(speed, 2), "data_wait": round(wait, 4)}
            | {f"seconds_{name}": round(value, 6) for name, value in spent.items()}
        )
        if self._printer:
            each = seconds / max(self._steps, 1)
            self._printer.update(progress_line(progress, epoch, terms, vacuity, speed, wait, each))
        self._sums, self._parts, self._steps, self._images, self._data_wait = {}, {}, 0, 0, 0.0
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
        self._folder.append_metrics({"step": step, **rules, **named})
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
        self.say(f"picture: {path}")

    def skipped(self, reasons: Sequence[tuple[str, str]]) -> None:
        """Count samples that became placeholders by kind of reason, and print the reasons."""
        for kind, reason in reasons:
            self._metrics.record_skipped(kind)
            print(f"skipped: {reason}", file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """Print a permanent line, on rank 0."""
        if self._printer:
            self._printer.say(text)


def peak_memory() -> tuple[float, float]:
    """Return the peak resident memory in GB of the largest rank and of all ranks together. All ranks must call it."""
    peaks = all_gather(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
    return max(peaks), sum(peaks)
