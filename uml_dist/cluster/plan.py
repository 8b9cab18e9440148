"""Defines the training runs of a cluster check, and which of them must have the same losses."""

import math
from collections.abc import Mapping

from ..errors import UmlError
from .compare import Check, compare_losses
from .training import Outcome, Training

FIRST = "stage-1"
"""The training run that all others are compared with: ZeRO 1, which is the default, on all ranks."""

STEPS_COMPARED = 5
"""Number of losses to compare if rounding may differ, counted from the last weights that both training runs share.

Differences caused by rounding alone stay small for about this many steps. In one process, changing the last bits of the
initial weights changes the losses of 5 steps by at most 6e-7, and in 2 of 7 cases those of 12 steps by 4e-5 (measured):
an activation has then crossed a kink.
"""

TOLERANCES = {"cpu": 1e-6, "cuda": 1e-4}
"""Largest difference of a loss. The order in which the ranks' gradients are summed depends on the ZeRO stage and on the
number of ranks: 5e-7 on 4 CPU processes (measured). On GPUs the summation order of the kernels varies too, so only a
difference far above rounding is a fault: a wrong average changes losses by several percent.
"""


def shares(ranks: int) -> list[int]:
    """Return the divisors of the number of ranks, itself included; any of them can share the same global batch."""
    return [count for count in range(1, ranks + 1) if ranks % count == 0]


def stage_tolerance(ranks: int, kind: str) -> float:
    """Return the largest difference between ZeRO stages: 0 on 2 CPU processes, because a sum of two has no order."""
    return 0.0 if kind == "cpu" and ranks == 2 else TOLERANCES[kind]


def plan(ranks: int) -> list[Training]:
    """Return the training runs of a check, as few as possible, because starting processes takes nearly all the time.

    ZeRO 0 to 3 on all ranks, a resume of the first run on half as many ranks, and runs on the other divisors.

    Raises:
        UmlError: there are too few ranks.
    """
    if ranks < 2:
        raise UmlError(f"{ranks} rank has none to compare with: pass --ranks 2 or more, and --cpu for CPU processes")
    *fewer, half, _ = [0, *shares(ranks)]
    stages = [Training(f"stage-{stage}", ranks, stage, saves=stage == 1) for stage in (1, 0, 2, 3)]
    return [
        *stages,
        Training(f"resumed-{half}", half, resumes=FIRST),
        *(Training(f"ranks-{count}", count) for count in reversed(fewer) if count),
    ]


def judge(trainings: list[Training], outcomes: Mapping[str, Outcome], kind: str, half: int) -> list[Check]:
    """Compare the first steps of every training run with those of the first run.

    Args:
        trainings: the planned training runs.
        outcomes: results by name; runs without a result were not started.
        kind: "cpu" or "cuda".
        half: the step after which the resumed run began.
    """
    missing = Outcome(problem="not started, because an earlier training did not end")
    first = outcomes.get(FIRST, missing)
    checks = []
    for training in trainings:
        found = outcomes.get(training.name, missing)
        name, tolerance, begins = _question(training, trainings[0].ranks, kind, half)
        problem = found.problem or (first.problem and f"the first training failed: {first.problem}")
        if problem:
            checks.append(Check(name, False, problem, "FAILED"))
        elif training.name != FIRST:
            last = begins + STEPS_COMPARED if tolerance else math.inf  # identical bits stay identical
            wanted, actual = (
                {step: loss for step, loss in losses.items() if begins < step <= last}
                for losses in (first.losses, found.losses)
            )
            checks.append(compare_losses(name, wanted, actual, tolerance))
    return checks


def speeds(trainings: list[Training], outcomes: Mapping[str, Outcome]) -> dict[int, Outcome]:
    """Return the training run that measures the speed on each number of ranks (all ZeRO 1), in ascending order."""
    timed = {
        training.ranks: outcomes[training.name]
        for training in trainings
        if training.stage == 1 and training.name in outcomes and outcomes[training.name].problem is None
    }
    return dict(sorted(timed.items()))


def _question(training: Training, ranks: int, kind: str, half: int) -> tuple[str, float, int]:
    """Return the name of a training run's check, its tolerance, and the last step that is left out."""
    if training.resumes:
        return f"resume at step {half}, {ranks} -> {training.ranks} ranks", TOLERANCES[kind], half
    if training.ranks != ranks:
        return f"{training.ranks} rank{'s' if training.ranks > 1 else ''} as {ranks}", TOLERANCES[kind], 0
    if training.name == FIRST:
        return f"ZeRO {training.stage} on {ranks} ranks", 0.0, 0
    return f"ZeRO {training.stage} as ZeRO 1, {ranks} ranks", stage_tolerance(ranks, kind), 0
