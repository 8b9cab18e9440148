"""Whether two trainings had the same losses."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    Attributes:
        name: what is checked.
        passed: whether it is as it should be.
        detail: by how much, or what is wrong.
        result: the answer in a word.
    """

    name: str
    passed: bool
    detail: str
    result: str


def compare_losses(name: str, wanted: Mapping[int, float], found: Mapping[int, float], tolerance: float) -> Check:
    """Hold the losses of a training against those it should have.

    Args:
        name: of the check.
        wanted: loss by step.
        found: loss by step, of the training in question.
        tolerance: largest difference allowed; 0 asks for the same bits.
    """

    def failed(detail: str) -> Check:
        return Check(name, False, detail, "DIFFERENT")

    if not wanted:
        return failed("there is no loss to compare with")
    if wanted.keys() != found.keys():
        return failed(f"losses of {len(wanted)} steps are wanted and {len(found)} found: {_first_odd(wanted, found)}")
    broken = next((step for step in sorted(wanted) if not math.isfinite(wanted[step] + found[step])), None)
    if broken is not None:
        return failed(f"no finite loss at step {broken}: {wanted[broken]} and {found[broken]}")
    errors = {step: abs(wanted[step] - found[step]) for step in sorted(wanted)}
    largest = max(errors.values())
    if largest > tolerance:
        step = next(step for step, error in errors.items() if error > tolerance)
        values = f"{wanted[step]:.9g} and {found[step]:.9g}"
        return failed(f"from step {step} on: {values}; largest difference {largest:.1e}, allowed {tolerance:g}")
    bits = "the same bits" if largest == 0 else f"largest difference {largest:.1e}, allowed {tolerance:g}"
    return Check(name, True, f"{len(wanted)} losses, {bits}", "equal")


def _first_odd(wanted: Mapping[int, float], found: Mapping[int, float]) -> str:
    step = min(wanted.keys() ^ found.keys())
    return f"step {step} is {'missing' if step in wanted else 'too many'}"
