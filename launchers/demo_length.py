"""Chooses how long the demo trains from the machine's speed, so that it ends within 8 minutes."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from uml_dist.run.reader import json_objects

TOTAL = 450.0
"""Maximum duration of the demo in seconds, slightly less than the promised 8 minutes."""

PICTURE = 160.0
"""Seconds after which the first picture should be available, slightly less than the promised 3 minutes."""

LENGTHS = (900, 600, 300, 150, 75)
"""Numbers of steps to choose from; `QUALITY` has the measured results of each."""

PARTS = (3, 5, 15)
"""Numbers of validations to choose from."""

QUALITY = Path(__file__).parent / "bench" / "results" / "demo.csv"
"""Results of `launchers/bench/quality.py` for each number of steps, with several seeds."""

SHOWN = {"dice": "Dice", "auroc": "AUROC", "image_ece": "ECE of the class"}


@dataclass(frozen=True)
class Speed:
    """The speed of a machine, measured in a short training run.

    Attributes:
        launch: seconds of a launch without its steps, including the validation at its end.
        step: seconds per training step.
        validation: seconds per validation, including its picture.
    """

    launch: float
    step: float
    validation: float

    def until_end(self, steps: int, every: int) -> float:
        """Return the seconds of a training run with a validation every `every` steps, and of the evaluation after."""
        return 2 * self.launch + steps * self.step + (steps // every - 1) * self.validation


@dataclass(frozen=True)
class Length:
    """Number of steps, steps between validations, and seconds until the first picture and until the end."""

    steps: int
    every: int
    picture: float
    total: float


def speed_of(metrics: Path, seconds: float, steps: int, batch: int, images: int) -> Speed:
    """Compute the speed from a short training run.

    Args:
        metrics: its metrics.jsonl; the last training record has the images per second of the later steps.
        seconds: duration of the entire launch.
        steps: number of steps.
        batch: images per step.
        images: images of the validation split.
    """
    rate = [record["images_per_second"] for record in json_objects(metrics) if "images_per_second" in record][-1]
    # A forward pass takes about a third of a step; drawing takes a few seconds at any size.
    return Speed(max(seconds - steps * batch / rate, 0.0), batch / rate, images / (3 * rate) + 3.0)


def choose(speed: Speed, spent: float = 0.0) -> Length:
    """Return the longest training run that ends in time, or the shortest if none does.

    Args:
        speed: speed of the machine.
        spent: seconds that the demo has already taken.
    """
    lengths = [_planned(speed, spent, steps) for steps in LENGTHS]
    return next((length for length in lengths if length.total <= TOTAL), lengths[-1])


def _planned(speed: Speed, spent: float, steps: int) -> Length:
    """Plan a training run with three validations, or more if the first picture would come too late."""

    def with_parts(parts: int) -> Length:
        every = steps // parts
        picture = spent + speed.launch + every * speed.step
        return Length(steps, every, picture, spent + speed.until_end(steps, every))

    lengths = [with_parts(parts) for parts in PARTS]
    return next((length for length in lengths if length.picture <= PICTURE), lengths[-1])


def measured_quality() -> Mapping[int, Mapping[str, Sequence[float]]]:
    """Return the measured values by number of steps and metric, one for each seed."""
    found: dict[int, dict[str, list[float]]] = {}
    with QUALITY.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            found.setdefault(int(row["steps"]), {}).setdefault(row["metric"], []).append(float(row["value"]))
    return found


def describe(length: Length, speed: Speed, batch: int) -> Iterator[str]:
    """Yield lines with the chosen length, its expected duration and the measured results."""
    yield (
        f"{batch / speed.step:.0f} images/s: training for {length.steps} steps; the demo will take about "
        f"{minutes(length.total)}, with the first picture after about {minutes(length.picture)} (step {length.every})"
    )
    reached = measured_quality()[length.steps]
    words = [f"{title} {fmean(reached[name]):.3f}" for name, title in SHOWN.items()]
    ranges = [f"{min(reached[name]):.3f} to {max(reached[name]):.3f}" for name in SHOWN]
    shown = ", ".join(f"{word} ({between})" for word, between in zip(words, ranges, strict=True))
    yield f"expected results after {length.steps} steps (mean and range of {len(reached['dice'])} seeds): {shown}"
    if length.total > TOTAL:
        yield "this machine is too slow for the demo to end within 8 minutes"


def minutes(seconds: float) -> str:
    """Format a duration, such as "40 s" or "2.5 minutes"."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} minutes"
