"""The configuration of the recipe `collab`."""

from typing import Annotated

from pydantic import Field

from ...config.schema import RESUMABLE, Beta, OptimizerConfig, RunConfig, TrainConfig
from .model import CollabModel
from .objective import CollabObjective

_OPTIMIZER, _TRAIN = OptimizerConfig.model_fields, TrainConfig.model_fields


class CollabOptimizer(OptimizerConfig):
    """`[optimizer]` with settings that adversarial training stands; the paper's are not known."""

    lr: float = Field(default=2e-4, gt=0, le=100, description=_OPTIMIZER["lr"].description)
    weight_decay: float = Field(default=0.0, ge=0, le=100, description=_OPTIMIZER["weight_decay"].description)
    betas: tuple[Beta, Beta] = Field(default=(0.5, 0.999), description=_OPTIMIZER["betas"].description)


class CollabTrain(TrainConfig):
    """`[train]` with the lesions' ranking as the figure that decides; name one of the grades in `[validations]`."""

    best: Annotated[str, RESUMABLE] = Field(default="aupr", description=_TRAIN["best"].description)


class CollabConfig(RunConfig):
    """The whole tree of collaborative learning."""

    model: CollabModel = CollabModel()
    objective: CollabObjective = CollabObjective()
    optimizer: CollabOptimizer = CollabOptimizer()
    train: CollabTrain = CollabTrain()
