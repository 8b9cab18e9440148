"""The phases of collaborative learning, and the networks that learn in each of their steps."""

from collections.abc import Collection

from ..recipe import Phase, Progress
from .model import CollabModel
from .objective import CollabObjective

LESIONS, GRADES, ADVERSARY, ATTENTION, TOGETHER = "lesions", "grades", "adversary", "attention", "together"


def phases_of(model: CollabModel, objective: CollabObjective) -> tuple[Phase, ...]:
    """Return the phases in order.

    A phase that is not needed gives its steps to an earlier one of the same network, so that the networks of all
    variants have equal numbers of steps.
    """
    shares = {LESIONS: 0.3, GRADES: 0.15, ADVERSARY: 0.05, ATTENTION: 0.2, TOGETHER: 0.3}
    if not objective.adversary:
        shares[LESIONS] += shares.pop(ADVERSARY)
    if not model.attends:
        shares[GRADES] += shares.pop(ATTENTION)
    judge = ("discriminator",) if objective.adversary else ()
    learns = {
        LESIONS: ("generator",),
        GRADES: ("grader",),
        ADVERSARY: ("generator", *judge),
        ATTENTION: ("grader",),
        TOGETHER: ("generator", "grader", *judge),
    }
    streams = {LESIONS: ("pixel",), GRADES: ("image",), ATTENTION: ("image",)}
    refreshes = {ATTENTION: ("features",)} if model.needs_features else {}
    return tuple(
        Phase(name, learns[name], streams.get(name, ("pixel", "image")), share, refreshes.get(name, ()))
        for name, share in shares.items()
    )


def learning(objective: CollabObjective, progress: Progress) -> Collection[str]:
    """Return the networks whose turn it is in a step, among them a discriminator that may be skipped."""
    match progress.phase:
        case "lesions":
            return {"generator"}
        case "grades" | "attention":
            return {"grader"}
        case "adversary":
            return {"generator", "discriminator"}
    turns = ({"grader"}, {"generator"}) if objective.alternate else ({"grader", "generator"},)
    turn = turns[progress.phase_step % len(turns)]
    return turn | {"discriminator"} if objective.adversary and "generator" in turn else turn
