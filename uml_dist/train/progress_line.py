"""The line that shows the progress of training."""

import sys
from collections.abc import Mapping
from typing import TextIO

from ..recipes import Progress

SHORT = {"classification": "cls", "image": "cls", "pixel": "px"}


def progress_line(
    progress: Progress,
    epoch: float,
    terms: Mapping[str, float],
    vacuity: Mapping[str, float],
    images_per_second: float,
    data_wait: float,
    seconds_per_step: float,
) -> str:
    """Return the line of one logging step.

    Args:
        progress: progress after the step.
        epoch: passes over the first stream.
        terms: "loss" and the terms of its sum; parts of a term, named `<term>_<part>`, are not shown.
        vacuity: mean vacuity by level.
        images_per_second: images per second of all ranks together.
        data_wait: share of the time spent waiting for data.
        seconds_per_step: mean duration of a step since the last line.
    """
    shown = {name: value for name, value in terms.items() if name != "loss" and "_" not in name}
    parts = " ".join(f"{SHORT.get(name, name[:3])} {value:.2f}" for name, value in shown.items())
    words = [f"step {progress.step}/{progress.steps}"]
    if progress.phase != "train":
        words.append(progress.phase)
    words += [f"epoch {epoch:.1f}", f"loss {terms.get('loss', float('nan')):.3f}" + (f" ({parts})" if parts else "")]
    words += [f"{images_per_second:.1f} img/s", f"data {100 * data_wait:.1f} %"]
    if vacuity:
        words.append("vacuity " + " ".join(f"{SHORT.get(name, name)} {value:.2f}" for name, value in vacuity.items()))
    words.append("eta " + duration(seconds_per_step * (progress.steps - progress.step)))
    return "  ".join(words)


def duration(seconds: float) -> str:
    """Format a duration in seconds with a suitable unit: 41 s, 12 min, 3.2 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class ProgressPrinter:
    """Prints progress lines: each replaces the last one on a terminal, and is a new line elsewhere."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._terminal = self._stream.isatty()
        self._open = False

    def update(self, line: str) -> None:
        """Print a progress line, which replaces the last one on a terminal."""
        self._stream.write(f"\r\x1b[2K{line}" if self._terminal else line + "\n")
        self._stream.flush()
        self._open = self._terminal

    def say(self, text: str) -> None:
        """Print a permanent line."""
        self._stream.write(("\n" if self._open else "") + text + "\n")
        self._stream.flush()
        self._open = False
