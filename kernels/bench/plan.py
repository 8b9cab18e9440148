"""The parts of gpu_check.py: what each needs, its share of the time, and its command, for a GPU and for a rehearsal."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

BENCH = Path(__file__).parent
OK, FAILED, LEFT_OUT = "ok", "failed", "left out"

DISTRIBUTIONS = {
    "PIL": "pillow", "prometheus_client": "prometheus-client", "pynvml": "nvidia-ml-py", "tomli_w": "tomli-w",
}  # fmt: skip
"""What to install for a module of another name."""

FOR_TESTS = ("pytest", "mpmath")
FOR_TRAINING = (
    "deepspeed", "webdataset", "pydantic", "tomli_w", "prometheus_client", "safetensors", "PIL", "pynvml", "filelock",
    "matplotlib",
)  # fmt: skip

MARGIN = 0.06
"""Share of a part's time in which it ends by itself, before it is stopped."""


class Outcome(NamedTuple):
    """What came of a part: `OK`, `FAILED` or `LEFT_OUT`, and in words."""

    word: str
    text: str


class Part(NamedTuple):
    """One part of the check.

    Attributes:
        name: of its log.
        title: printed before it.
        weight: its share of the time, relative to the others'.
        command: arguments for Python, of the folder of results, a scratch folder and the part's seconds.
        needs: modules without which it is left out.
        interpreted: whether a rehearsal runs the kernels in Triton's interpreter.
        resumes: whether it knows --resume, by which it goes on after a crash.
        least: seconds below which it is not begun.
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
    """Distributions to install before the part can run."""
    return [DISTRIBUTIONS.get(name, name) for name in part.needs if importlib.util.find_spec(name) is None]


def seconds_of(part: Part, waiting: Sequence[Part], left: float) -> float:
    """Its share of what is left; `waiting` are the parts that are to run, this one among them."""
    return max(left, 0.0) * part.weight / sum(one.weight for one in waiting)


def own(seconds: float) -> str:
    """After how many seconds a part is to end by itself."""
    return f"{(1 - MARGIN) * seconds:.1f}"


def parts(rehearse: bool, training: bool) -> list[Part]:
    """All of them, in the order of their weight to the project."""
    small = ["--profile", "compact", "--width", "0.0625", "--size", "32", "--batch", "2"] if rehearse else []

    def tests(out: Path, scratch: Path, seconds: float) -> list[str]:
        words = ["--per-file", "1", "--processes", "2"] if rehearse else []
        return [str(BENCH / "kernel_tests.py"), "--out", str(out / "tests"), "--seconds", own(seconds), *words]

    def micro(out: Path, scratch: Path, seconds: float) -> list[str]:
        words = ["--quick", "--cpu", "--processes", "2"] if rehearse else ["--rounds", "30"]
        # A setting that is begun takes up to some seconds.
        return [str(BENCH / "micro.py"), "--out", str(out), "--seconds", own(seconds - 5), "--no-pictures", *words]

    def tune(out: Path, scratch: Path, seconds: float) -> list[str]:
        words = ["--rehearse", "--processes", "2"] if rehearse else ["--brief"]
        return [str(BENCH / "tune.py"), "--out", str(out), "--seconds", own(seconds - 5), *words]

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
    ]
    if training:
        every += [
            Part("loss_share", "the loss within a step", 0.1, share, FOR_TRAINING),
            Part("trainer", "training", 0.2, train, FOR_TRAINING),
        ]
    return every


def pictures() -> Part:
    """Drawn at the end of what was measured, in the time that is kept for it."""
    return Part("pictures", "pictures", 0.0, _pictures, ("matplotlib",), least=3.0)


def _pictures(out: Path, scratch: Path, seconds: float) -> list[str]:
    return [str(BENCH / "plots.py"), str(out / "micro.csv"), "--out", str(out)]
