"""The configuration of what a training does about faults, and of faults that are injected to try that."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ..errors import UmlError
from .section import Section

ALLOW = "UML_DIST_INJECT_FAULTS"
"""Environment variable without which nothing is injected, so that no copied configuration harms a training."""

Kind = Literal["none", "kill", "stop", "hang", "nan", "bit-flip", "kill-writer"]


class InjectConfig(Section):
    """`[faults.inject]`: faults that are injected to try what a training does then; needs UML_DIST_INJECT_FAULTS=1."""

    kind: Kind = Field(
        default="none",
        description="kill: the worker is killed; stop: it is stopped (SIGSTOP); hang: it hangs; nan: its images are "
        "not finite; bit-flip: a bit of its weights changes; kill-writer: what writes the next checkpoint in the "
        "background is killed",
    )
    rank: int | None = Field(default=None, ge=0, description="rank of the fault; default: drawn for each fault")
    steps: tuple[Annotated[int, Field(gt=0)], ...] = Field(default=(), description="steps in which there is a fault")
    every: float | None = Field(
        default=None, ge=1, description="mean number of steps between faults, which are drawn, instead of steps"
    )
    seed: int = Field(default=0, ge=0, lt=1 << 63, description="seed of what is drawn")

    @model_validator(mode="after")
    def _complete(self) -> "InjectConfig":
        given = bool(self.steps) + (self.every is not None)
        if self.kind == "none" and given:
            raise ValueError("name the kind of the faults")
        if self.kind != "none" and given != 1:
            raise ValueError("give the steps of the faults, or every, and not both")
        return self

    def __str__(self) -> str:
        """What is injected, in words."""
        who = "" if self.kind == "kill-writer" else f" on {'a rank' if self.rank is None else f'rank {self.rank}'}"
        when = f"in step {', '.join(map(str, self.steps))}" if self.steps else f"every {self.every:g} steps on average"
        return f"{self.kind}{who} {when}"


class FaultsConfig(Section):
    """`[faults]`: when a rank counts as hung, how many steps may be skipped, and the search for faulty machines."""

    watchdog: bool = Field(
        default=True, description="end the training, with the reason and the stacks of all ranks, if a rank hangs"
    )
    step_seconds: float = Field(
        default=300.0,
        gt=0,
        description="a rank hangs if a step takes longer than this and than 10 times the usual time, which it learns",
    )
    pause_seconds: float = Field(
        default=1800.0,
        gt=0,
        description="the same of the start, a validation and a checkpoint, and than 10 times the longest of them",
    )
    skipped_steps: int = Field(
        default=20,
        gt=0,
        description="a step whose gradient is not finite changes nothing; the training ends after this many in a row",
    )
    canary_every: int = Field(
        default=100,
        ge=0,
        description="steps between two searches for a faulty processor or memory: a forward pass is repeated, and the "
        "weights of all ranks are compared; 0 turns it off. Weights are not compared at ZeRO 3, which keeps no copies "
        "of them",
    )
    inject: InjectConfig = InjectConfig()


def check_injection(inject: InjectConfig, ranks: int, environment: Mapping[str, str]) -> None:
    """Check that faults are only injected where that is wanted.

    Args:
        inject: the faults.
        ranks: number of ranks.
        environment: environment variables.

    Raises:
        UmlError: they are not allowed, or the rank does not exist.
    """
    if inject.kind == "none":
        return
    if environment.get(ALLOW) != "1":
        raise UmlError(
            f"faults.inject would harm this training ({inject}): set {ALLOW}=1 if you want that, or remove it"
        )
    if inject.rank is not None and inject.rank >= ranks:
        raise UmlError(
            f"faults.inject.rank = {inject.rank}, but there are {ranks} ranks: name one from 0 to {ranks - 1}"
        )
