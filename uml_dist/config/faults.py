"""The configuration of what a training does about faults."""

from pydantic import Field

from .section import Section


class FaultsConfig(Section):
    """`[faults]`: when a rank counts as hung, and how many steps may be skipped."""

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
