"""Which trainings a check needs, and which of them must have the same losses."""

import math
from collections.abc import Mapping

from ..errors import UmlError
from .compare import Check, compare_losses
from .training import Outcome, Training

FIRST = "stage-1"
"""The training that all others are held against: ZeRO 1, which is the default, on all ranks."""

STEPS_COMPARED = 5
"""Losses that are held against each other where rounding may differ, from the weights on that both trainings share.

What differs by rounding alone stays small for about as long: in one process, a change of the last bits of the initial
weights changes the losses of 5 steps by 6e-7 at most, and in 2 of 7 cases those of 12 steps by 4e-5 (measured): an
activation has then changed sides at a kink.
"""

TOLERANCES = {"cpu": 1e-6, "cuda": 1e-4}
"""Largest difference of a loss. The ranks' gradients are summed in an order that depends on the ZeRO stage and on their
number: 5e-7 on 4 CPU processes (measured). On GPUs the kernels sum in an order of their own too, so only what is far
above rounding is a fault there: a wrong average changes losses by percents.
"""


def shares(ranks: int) -> list[int]:
    """The numbers of ranks that divide this one, itself included: all of them can share the same global batch."""
    return [count for count in range(1, ranks + 1) if ranks % count == 0]


def stage_tolerance(ranks: int, kind: str) -> float:
    """Largest difference between ZeRO stages: none on 2 CPU processes, where a sum has no order."""
    return 0.0 if kind == "cpu" and ranks == 2 else TOLERANCES[kind]


def plan(ranks: int) -> list[Training]:
    """The trainings of a check, as few as can be: starting processes takes nearly all of its time.

    ZeRO 0 to 3 on all ranks, one that goes on with the first of them on half as many, and the other shares of ranks.

    Raises:
        UmlError: there are too few ranks.
    """
    if ranks < 2:
        raise UmlError(f"{ranks} rank has no other to agree with: pass --ranks 2 or more, and --cpu for CPU processes")
    *fewer, half, _ = [0, *shares(ranks)]
    stages = [Training(f"stage-{stage}", ranks, stage, saves=stage == 1) for stage in (1, 0, 2, 3)]
    return [
        *stages,
        Training(f"resumed-{half}", half, resumes=FIRST),
        *(Training(f"ranks-{count}", count) for count in reversed(fewer) if count),
    ]


def judge(trainings: list[Training], outcomes: Mapping[str, Outcome], kind: str, half: int) -> list[Check]:
    """Hold the first steps of every training against those of the first one.

    Args:
        trainings: of the plan.
        outcomes: by name; a training that is not there was not run.
        kind: "cpu" or "cuda".
        half: the step after which the resumed training began.
    """
    missing = Outcome(problem="not run, because an earlier one did not end")
    first = outcomes.get(FIRST, missing)
    checks = []
    for training in trainings:
        found = outcomes.get(training.name, missing)
        name, tolerance, begins = _question(training, trainings[0].ranks, kind, half)
        problem = found.problem or (first.problem and f"the first training failed: {first.problem}")
        if problem:
            checks.append(Check(name, False, problem, "FAILED"))
        elif training.name != FIRST:
            last = begins + STEPS_COMPARED if tolerance else math.inf  # the same bits stay the same for ever
            wanted, those_found = (
                {step: loss for step, loss in losses.items() if begins < step <= last}
                for losses in (first.losses, found.losses)
            )
            checks.append(compare_losses(name, wanted, those_found, tolerance))
    return checks


def speeds(trainings: list[Training], outcomes: Mapping[str, Outcome]) -> dict[int, Outcome]:
    """The training that tells the speed on each number of ranks, all of ZeRO 1, in ascending order."""
    timed = {
        training.ranks: outcomes[training.name]
        for training in trainings
        if training.stage == 1 and training.name in outcomes and outcomes[training.name].problem is None
    }
    return dict(sorted(timed.items()))


def _question(training: Training, ranks: int, kind: str, half: int) -> tuple[str, float, int]:
    """What is asked of a training, the tolerance, and the last step that is left out."""
    if training.resumes:
        return f"resume at step {half}, {ranks} -> {training.ranks} ranks", TOLERANCES[kind], half
    if training.ranks != ranks:
        return f"{training.ranks} rank{'s' if training.ranks > 1 else ''} as {ranks}", TOLERANCES[kind], 0
    if training.name == FIRST:
        return f"ZeRO {training.stage} on {ranks} ranks", 0.0, 0
    return f"ZeRO {training.stage} as ZeRO 1, {ranks} ranks", stage_tolerance(ranks, kind), 0
