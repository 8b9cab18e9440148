"""Compares the losses of two training runs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: name of the check.
        passed: whether the check passed.
        detail: the size of the difference, or what is wrong.
        result: the result in one word.
    """

    name: str
    passed: bool
    detail: str
    result: str


def compare_losses(name: str, wanted: Mapping[int, float], found: Mapping[int, float], tolerance: float) -> Check:
    """Compare the losses of a training run with the expected ones.

    Args:
        name: name of the check.
        wanted: expected loss by step.
        found: loss of the training run by step.
        tolerance: largest difference allowed; 0 requires identical bits.
    """

    def failed(detail: str) -> Check:
        return Check(name, False, detail, "DIFFERENT")

    if not wanted:
        return failed("there is no loss to compare with")
    if wanted.keys() != found.keys():
        return failed(f"expected losses of {len(wanted)} steps, found {len(found)}: {_first_odd(wanted, found)}")
    broken = next((step for step in sorted(wanted) if not math.isfinite(wanted[step] + found[step])), None)
    if broken is not None:
        return failed(f"no finite loss at step {broken}: {wanted[broken]} and {found[broken]}")
    errors = {step: abs(wanted[step] - found[step]) for step in sorted(wanted)}
    largest = max(errors.values())
    if largest > tolerance:
        step = next(step for step, error in errors.items() if error > tolerance)
        values = f"{wanted[step]:.9g} and {found[step]:.9g}"
        return failed(f"from step {step} on: {values}; largest difference {largest:.1e}, allowed {tolerance:g}")
    bits = "identical bits" if largest == 0 else f"largest difference {largest:.1e}, allowed {tolerance:g}"
    return Check(name, True, f"{len(wanted)} losses, {bits}", "equal")


def _first_odd(wanted: Mapping[int, float], found: Mapping[int, float]) -> str:
    step = min(wanted.keys() ^ found.keys())
    return f"step {step} is {'missing' if step in wanted else 'not expected'}"
