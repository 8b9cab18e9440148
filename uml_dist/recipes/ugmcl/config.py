"""The configuration of the recipe `ugmcl`."""

from typing import Annotated, Literal

from pydantic import Field

from ...config.schema import RESUMABLE, OptimizerConfig, RunConfig, Schedule, TrainConfig
from .model import UgmclModel
from .objective import UgmclObjective

_OPTIMIZER, _TRAIN = OptimizerConfig.model_fields, TrainConfig.model_fields


class UgmclOptimizer(OptimizerConfig):
    """`[optimizer]` with the paper's settings; it does not state the weight decay, which is that of its relatives."""

    name: Literal["adam", "adamw", "sgd"] = Field(default="sgd", description=_OPTIMIZER["name"].description)
    lr: float = Field(default=0.01, gt=0, le=100, description=_OPTIMIZER["lr"].description)
    weight_decay: float = Field(default=1e-4, ge=0, le=100, description=_OPTIMIZER["weight_decay"].description)
    schedule: Schedule = Field(default="step", description=_OPTIMIZER["schedule"].description)


class UgmclTrain(TrainConfig):
    """`[train]` with the overlap as the figure that decides."""

    best: Annotated[str, RESUMABLE] = Field(default="dice", description=_TRAIN["best"].description)


class UgmclConfig(RunConfig):
    """The whole tree of UG-MCL."""

    model: UgmclModel = UgmclModel()
    objective: UgmclObjective = UgmclObjective()
    optimizer: UgmclOptimizer = UgmclOptimizer()
    train: UgmclTrain = UgmclTrain()
