"""The configuration of what a training does about faults."""

from pydantic import Field

from .section import Section


class FaultsConfig(Section):
    """`[faults]`: when a rank counts as hung, how many steps may be skipped, and the search for damaged weights."""

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
        description="steps between two comparisons of the weights of all ranks, which are equal unless a "
        "processor or memory is faulty; 0: never. At ZeRO 3 there are no copies to compare",
    )
