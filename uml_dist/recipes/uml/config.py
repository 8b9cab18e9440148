"""The configuration of the recipe `uml`."""

from typing import Annotated

from pydantic import Field

from ...config.schema import RESUMABLE, OptimizerConfig, RunConfig, Schedule, TrainConfig
from .model import UmlModel
from .objective import UmlObjective


class UmlOptimizer(OptimizerConfig):
    """`[optimizer]` with the authors' schedule."""

    schedule: Schedule = Field(default="poly", description=OptimizerConfig.model_fields["schedule"].description)


class UmlTrain(TrainConfig):
    """`[train]` with the lesion's overlap as the figure that decides."""

    best: Annotated[str, RESUMABLE] = Field(default="dice", description=TrainConfig.model_fields["best"].description)


class UmlConfig(RunConfig):
    """The whole tree of UML."""

    model: UmlModel = UmlModel()
    objective: UmlObjective = UmlObjective()
    optimizer: UmlOptimizer = UmlOptimizer()
    train: UmlTrain = UmlTrain()
