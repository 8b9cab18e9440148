"""How long the demo trains: chosen from the machine's speed, so that it ends within 8 minutes."""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

WHOLE = 450.0
"""Seconds that the demo may take, a little less than the 8 minutes that it promises."""

PICTURE = 160.0
"""Seconds after which its first picture should be there: likewise less than 3 minutes."""

LENGTHS = (900, 600, 300, 150, 75)
"""Numbers of steps to choose from; `QUALITY` has the figures that each reaches."""

PARTS = (3, 5, 15)
"""Numbers of validations to choose from."""

QUALITY = Path(__file__).parent / "bench" / "results" / "demo.csv"
"""Rows of `launchers/bench/quality.py`, of trainings of each length with several seeds."""

SHOWN = {"dice": "Dice", "auroc": "AUROC", "image_ece": "ECE of the class"}


@dataclass(frozen=True)
class Speed:
    """The speed of a machine, measured by a short training.

    Attributes:
        launch: seconds that a launch takes besides its steps, the validation at its end included.
        step: seconds of a training step.
        validation: seconds of a validation with its picture.
    """

    launch: float
    step: float
    validation: float

    def until_end(self, steps: int, every: int) -> float:
        """Seconds of a training with a validation every so many steps, and of the evaluation that follows."""
        return 2 * self.launch + steps * self.step + (steps // every - 1) * self.validation


@dataclass(frozen=True)
class Length:
    """Steps of the training, steps between validations, and seconds until the first picture and the end."""

    steps: int
    every: int
    picture: float
    whole: float


def speed_of(metrics: Path, seconds: float, steps: int, batch: int, images: int) -> Speed:
    """The speed measured by a short training.

    Args:
        metrics: its metrics.jsonl, whose last line on training has the images per second of the later steps.
        seconds: that the whole launch took.
        steps: of the training.
        batch: images of a step.
        images: of the split that is validated.
    """
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    rate = [record["images_per_second"] for record in records if "images_per_second" in record][-1]
    # A forward pass alone is about a third of a step; drawing takes some seconds whatever the size.
    return Speed(max(seconds - steps * batch / rate, 0.0), batch / rate, images / (3 * rate) + 3.0)


def choose(speed: Speed, spent: float = 0.0) -> Length:
    """The longest training that ends in time, or the shortest where none does.

    Args:
        speed: of the machine.
        spent: seconds that the demo has taken already.
    """
    lengths = [_planned(speed, spent, steps) for steps in LENGTHS]
    return next((length for length in lengths if length.whole <= WHOLE), lengths[-1])


def _planned(speed: Speed, spent: float, steps: int) -> Length:
    """A training of so many steps, with three validations, or more where the first picture would be late."""

    def with_parts(parts: int) -> Length:
        every = steps // parts
        picture = spent + speed.launch + every * speed.step
        return Length(steps, every, picture, spent + speed.until_end(steps, every))

    lengths = [with_parts(parts) for parts in PARTS]
    return next((length for length in lengths if length.picture <= PICTURE), lengths[-1])


def measured_quality() -> Mapping[int, Mapping[str, Sequence[float]]]:
    """Of each length that was measured, the values of each metric, one for each seed."""
    found: dict[int, dict[str, list[float]]] = {}
    with QUALITY.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            found.setdefault(int(row["steps"]), {}).setdefault(row["metric"], []).append(float(row["value"]))
    return found


def announced(length: Length, speed: Speed, batch: int) -> Iterator[str]:
    """Lines on what was chosen, how long it takes and what it reached where it was measured."""
    yield (
        f"{batch / speed.step:.0f} images/s: training for {length.steps} steps; the demo should take about "
        f"{minutes(length.whole)}, with the first picture after about {minutes(length.picture)} (step {length.every})"
    )
    reached = measured_quality()[length.steps]
    words = [f"{title} {fmean(reached[name]):.3f}" for name, title in SHOWN.items()]
    ranges = [f"{min(reached[name]):.3f} to {max(reached[name]):.3f}" for name in SHOWN]
    shown = ", ".join(f"{word} ({between})" for word, between in zip(words, ranges, strict=True))
    yield f"expected after {length.steps} steps (mean and range of {len(reached['dice'])} seeds): {shown}"
    if length.whole > WHOLE:
        yield "this machine is too slow for the demo to end within 8 minutes"


def minutes(seconds: float) -> str:
    """A time for people, such as "40 s" or "2.5 minutes"."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} minutes"
