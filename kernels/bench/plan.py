"""The parts of gpu_check.py: requirements, share of the time, and command of each, for a GPU and for a rehearsal."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

BENCH = Path(__file__).parent
OK, FAILED, SKIPPED = "ok", "failed", "skipped"

DISTRIBUTIONS = {
    "PIL": "pillow", "prometheus_client": "prometheus-client", "pynvml": "nvidia-ml-py", "tomli_w": "tomli-w",
}  # fmt: skip
"""Distributions of modules with a different name."""

FOR_TESTS = ("pytest", "mpmath")
FOR_TRAINING = (
    "deepspeed", "webdataset", "pydantic", "tomli_w", "prometheus_client", "safetensors", "PIL", "pynvml", "filelock",
    "matplotlib",
)  # fmt: skip

MARGIN = 0.06
"""Share of a part's time that is reserved for ending by itself before it is stopped."""


class Outcome(NamedTuple):
    """Outcome of a part: `OK`, `FAILED` or `SKIPPED`, and a description."""

    word: str
    text: str


class Part(NamedTuple):
    """One part of the check.

    Attributes:
        name: name of its log file.
        title: title to print.
        weight: share of the time relative to the other parts.
        command: function that returns the arguments for Python, given the folder of results, a scratch folder and the
            part's seconds.
        needs: required modules; the part is skipped if one is missing.
        interpreted: whether a rehearsal runs the kernels in Triton's interpreter.
        resumes: whether it supports --resume, which continues after a crash.
        least: minimum seconds; with less time the part does not start.
    """

    name: str
    title: str
    weight: float
    command: Callable[[Path, Path, float], list[str]]
    needs: Sequence[str] = ()
    interpreted: bool = False
    resumes: bool = False
    least: float = 10.0


def missing(part: Part) -> list[str]:
    """Return the distributions that must be installed before the part can run."""
    return [DISTRIBUTIONS.get(name, name) for name in part.needs if importlib.util.find_spec(name) is None]


def seconds_of(part: Part, waiting: Sequence[Part], left: float) -> float:
    """Return a part's share of the remaining time; `waiting` are the parts still to run, including this one."""
    return max(left, 0.0) * part.weight / sum(one.weight for one in waiting)


def own(seconds: float) -> str:
    """Return the seconds after which a part ends by itself, as text."""
    return f"{(1 - MARGIN) * seconds:.1f}"


def parts(rehearse: bool, training: bool) -> list[Part]:
    """Return all parts in the order of their importance."""
    small = ["--profile", "compact", "--width", "0.0625", "--size", "32", "--batch", "2"] if rehearse else []

    def tests(out: Path, scratch: Path, seconds: float) -> list[str]:
        words = ["--per-file", "1", "--processes", "2"] if rehearse else []
        return [str(BENCH / "kernel_tests.py"), "--out", str(out / "tests"), "--seconds", own(seconds), *words]

    def micro(out: Path, scratch: Path, seconds: float) -> list[str]:
        words = ["--quick", "--cpu", "--processes", "2"] if rehearse else ["--rounds", "30"]
        # The setting that runs at the deadline takes up to a few seconds
        return [str(BENCH / "micro.py"), "--out", str(out), "--seconds", own(seconds - 5), "--no-pictures", *words]

    def tune(out: Path, scratch: Path, seconds: float) -> list[str]:
        words = ["--rehearse", "--processes", "2"] if rehearse else ["--brief"]
        return [str(BENCH / "tune.py"), "--out", str(out), "--seconds", own(seconds - 5), *words]

    def distances(out: Path, scratch: Path, seconds: float) -> list[str]:
        words = ["--quick", "--cpu"] if rehearse else ["--rounds", "5"]
        return [str(BENCH / "distances.py"), "--out", str(out), *words]

    def share(out: Path, scratch: Path, seconds: float) -> list[str]:
        words = [*small, "--rounds", "2"] if rehearse else []
        return [str(BENCH / "loss_share.py"), "--out", str(out / "loss_share.csv"), *words]

    def train(out: Path, scratch: Path, seconds: float) -> list[str]:
        words = [*small, "--steps", "2", "--stages", "1"] if rehearse else ["--seconds", own(0.75 * seconds)]
        folders = ["--out", str(out / "trainer.csv"), "--scratch", str(scratch / "training")]
        return [str(BENCH / "trainer_check.py"), *folders, *words]

    every = [
        Part("tests", "tests of the kernels", 0.28, tests, FOR_TESTS, interpreted=True),
        Part("micro", "microbenchmarks", 0.3, micro, resumes=True),
        Part("tune", "tiles", 0.15, tune, interpreted=True, resumes=True),
        Part("distances", "distance maps against SciPy", 0.05, distances, ("scipy",)),
    ]
    if training:
        every += [
            Part("loss_share", "the loss within a step", 0.1, share, FOR_TRAINING),
            Part("trainer", "training", 0.2, train, FOR_TRAINING),
        ]
    return every


def pictures() -> Part:
    """Return the part that draws the plots at the end, in the time reserved for it."""
    return Part("pictures", "pictures", 0.0, _pictures, ("matplotlib",), least=3.0)


def _pictures(out: Path, scratch: Path, seconds: float) -> list[str]:
    return [str(BENCH / "plots.py"), str(out / "micro.csv"), "--out", str(out)]
