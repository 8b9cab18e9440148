"""The configuration: one tree of keys, each with type, range, default and description.

`RunConfig` holds what all recipes share. A recipe subclasses it with its own `[model]`, `[objective]` and defaults.
Everything is validated before any rank starts.
"""

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, Field, model_validator
from pydantic.fields import FieldInfo

from uml_shards.read.truth import EmptyRule

from .evaluating import EvaluationConfig, WindowsConfig
from .exporting import MetricsConfig
from .faults import FaultsConfig
from .reading import FOLD_SPLIT, MAX_BATCH, DataConfig, Size, StreamConfig
from .section import RESUMABLE, Resumable, Section

Schedule = Literal["constant", "poly", "cosine", "step"]
"""Course of the learning rate after the warmup, see `uml_dist.train.optimizer.learning_rate`."""


Weights = Literal["trained", "averaged"]
"""Weights with which a run predicts: those that training reached, or their moving average."""


MAX_STEPS = 10**9
"""Largest number of steps: more than any run takes, and far from the limits of integers."""


class ModelConfig(Section):
    """`[model]`: keys that the models of all recipes have."""

    classes: int | None = Field(
        default=None, gt=1, le=1 << 15, description="number of image classes that the shards must have; default: any"
    )
    mask_classes: int | None = Field(
        default=None,
        gt=1,
        le=255,
        description="number of pixel classes that the shards must have, background included; default: any",
    )
    init: Annotated[str | None, RESUMABLE] = Field(
        default=None, description="checkpoint or run folder whose weights training starts from"
    )
    checkpointing: Annotated[bool, RESUMABLE] = Field(
        default=False, description="recompute activations in backward: less memory, more time"
    )


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Section):
    """`[optimizer]`, and `[networks.NAME.optimizer]` on top of it: the optimiser and the learning rate schedule."""

    name: Literal["adam", "adamw", "sgd"] = Field(default="adam", description="torch's optimiser of this name")
    lr: float = Field(default=1e-3, gt=0, le=100, description="base learning rate")
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.999), description="betas of adam and adamw")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of sgd")
    weight_decay: float = Field(default=1e-5, ge=0, le=100, description="L2 for adam and sgd, decoupled for adamw")
    schedule: Schedule = Field(default="constant", description="schedule of the learning rate after the warmup")
    warmup: int = Field(
        default=0, ge=0, le=MAX_STEPS, description="steps over which the learning rate rises linearly from 0"
    )
    hold: float = Field(
        default=0.3, ge=0, lt=1, description="poly: share of the steps at the base rate before the decay"
    )
    power: float = Field(default=0.9, gt=0, le=100, description="poly: exponent of the decay")
    step_every: int = Field(
        default=2500, gt=0, le=MAX_STEPS, description="step: number of steps between two reductions"
    )
    step_factor: float = Field(default=0.1, gt=0, lt=1, description="step: factor of each reduction")
    floor: float = Field(default=1e-5, ge=0, le=100, description="lower bound of the learning rate")
    clip: float = Field(default=0.0, ge=0, description="largest norm of the gradient; 0: no clipping")


class NetworkConfig(Section):
    """`[networks.NAME]`: settings of one trained network."""

    optimizer: OptimizerConfig = OptimizerConfig()


class PhaseConfig(Section):
    """`[[phases]]`: one of the recipe's phases, where it differs from the recipe's defaults."""

    name: str = Field(description="name of the phase")
    steps: int | None = Field(
        default=None, gt=0, le=MAX_STEPS, description="its optimiser steps; default: its share of train.steps"
    )
    counts: dict[str, Annotated[int, Field(gt=0, le=MAX_BATCH)]] = Field(
        default={}, description="samples in a global batch by stream; default: streams.NAME.count"
    )
    until: str | None = Field(
        default=None,
        description="metric of a validation (NAME.METRIC of a named one): the phase ends when it stops improving",
    )
    patience: int | None = Field(
        default=None,
        gt=0,
        le=MAX_STEPS,
        description="validations without an improvement of until after which the phase ends",
    )


class TrainConfig(Section):
    """`[train]`: the run."""

    steps: int | None = Field(default=None, gt=0, le=MAX_STEPS, description="optimiser steps of the whole run")
    epochs: float | None = Field(
        default=None, gt=0, le=1e6, description="passes over the first stream, instead of steps"
    )
    micro_batch: Annotated[int | None, RESUMABLE] = Field(
        default=None,
        gt=0,
        le=MAX_BATCH,
        description="largest number of samples per rank and forward pass, from which the accumulation follows; "
        "default: no accumulation",
    )
    seed: int = Field(
        default=0, ge=0, lt=1 << 63, description="seed of initial weights, order, augmentation and dropout"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="fp32",
        description="precision of the networks; losses stay in float32. auto: bf16 if the GPU or processor supports "
        "it, else fp32",
    )
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay of the moving average of the weights of each trained network that the recipe does not "
        "average itself, such as 0.999; default: no such average",
    )
    evaluate_with: Annotated[Weights | None, RESUMABLE] = Field(
        default=None,
        description="weights of the trained networks in validations and in everything that uses the run later: "
        "trained, or averaged by train.ema or by the recipe; default: averaged with train.ema, else trained",
    )
    log_every: Annotated[int, RESUMABLE] = Field(
        default=10, gt=0, le=MAX_STEPS, description="steps between two log lines"
    )
    validate_every: Annotated[int, RESUMABLE] = Field(
        default=500, gt=0, le=MAX_STEPS, description="steps between two validations; the last one is at the end"
    )
    validate_split: str = Field(
        default="val",
        description="split of the first stream's data set for validation; with data.folds, `fold`, the held-out fold, "
        "unless another one is set",
    )
    best: Annotated[str, RESUMABLE] = Field(
        default="loss",
        description="metric by which the best checkpoint is chosen, or the mean of several: mean(accuracy, dice)",
    )
    empty_masks: Annotated[EmptyRule, RESUMABLE] = Field(
        default="one",
        description="Dice and IoU of a class that is neither in the mask nor predicted, in validations and, by "
        "default, in evaluations: 1, or the case is left out",
    )

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give steps or epochs, not both")
        return self

    @property
    def weights(self) -> Weights:
        """Weights with which the run predicts."""
        return self.evaluate_with or ("trained" if self.ema is None else "averaged")


class ValidationConfig(Section):
    """`[validations.NAME]`: a further validation while training, with a best checkpoint `best-NAME` of its own."""

    stream: str | None = Field(default=None, description="stream whose shards have the split; default: the first")
    split: str | None = Field(default=None, description="split to evaluate; default: train.validate_split")
    size: Size | None = Field(default=None, description="size of its images; default: that of the stream")
    best: Annotated[str, RESUMABLE] = Field(default="loss", description="metric by which its best checkpoint is chosen")


class ZeroConfig(Section):
    """`[zero]`: DeepSpeed's partitioning of optimiser states (1), gradients (2) and parameters (3)."""

    stage: Literal[0, 1, 2, 3] = Field(default=1, description="ZeRO stage; 0: nothing is partitioned")


class CheckpointConfig(Section):
    """`[checkpoint]`: how often the run is saved, and which checkpoints are kept."""

    every: int = Field(
        default=500, gt=0, le=MAX_STEPS, description="steps between two checkpoints; the last one is at the end"
    )
    keep: int = Field(
        default=2, gt=0, le=MAX_STEPS, description="number of newest checkpoints to keep, besides the best ones"
    )
    background: bool = Field(
        default=True,
        description="write checkpoints while training goes on, from a copy in memory; otherwise training waits",
    )


class RunConfig(Section):
    """The configuration of a run; recipes subclass it."""

    recipe: str = Field(
        description="`uml`, a recipe of an installed package, or `package.module:Class`; it brings its own keys of "
        "[model] and [objective]"
    )
    streams: dict[str, StreamConfig] = Field(min_length=1)
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    networks: dict[str, NetworkConfig] = Field(default={})
    objective: Section = Section()
    phases: tuple[PhaseConfig, ...] = ()
    train: TrainConfig = TrainConfig()
    validations: Annotated[dict[str, ValidationConfig], RESUMABLE] = Field(default={})
    windows: Annotated[WindowsConfig, RESUMABLE] = WindowsConfig()
    evaluation: Annotated[EvaluationConfig, RESUMABLE] = EvaluationConfig()
    zero: Annotated[ZeroConfig, RESUMABLE] = ZeroConfig()
    deepspeed: Annotated[dict[str, Any], RESUMABLE] = Field(
        default={}, description="passed through to DeepSpeed's own configuration"
    )
    checkpoint: Annotated[CheckpointConfig, RESUMABLE] = CheckpointConfig()
    metrics: Annotated[MetricsConfig, RESUMABLE] = MetricsConfig()
    faults: Annotated[FaultsConfig, RESUMABLE] = FaultsConfig()

    @model_validator(mode="before")
    @classmethod
    def _networks_start_from_the_common_optimizer(cls, tree: Any) -> Any:
        """Fill `[networks.NAME.optimizer]` with `[optimizer]`, and that with the recipe's defaults."""
        networks = tree.get("networks") if isinstance(tree, Mapping) else None
        if not isinstance(networks, Mapping) or not isinstance(tree.get("optimizer", {}), Mapping):
            return tree
        common = {**cls.model_fields["optimizer"].default.model_dump(), **tree.get("optimizer", {})}
        filled = {
            name: {**network, "optimizer": {**common, **network.get("optimizer", {})}}
            if isinstance(network, Mapping) and isinstance(network.get("optimizer", {}), Mapping)
            else network
            for name, network in networks.items()
        }
        return {**tree, "networks": filled}

    @model_validator(mode="before")
    @classmethod
    def _the_held_out_fold_validates(cls, tree: Any) -> Any:
        """Fill `train.validate_split` with the held-out fold if there are folds and no split is stated."""
        data, train = (tree.get(key, {}) if isinstance(tree, Mapping) else None for key in ("data", "train"))
        if not isinstance(data, Mapping) or not isinstance(train, Mapping) or not data.get("folds"):
            return tree
        return {**tree, "train": {"validate_split": FOLD_SPLIT, **train}}

    @model_validator(mode="after")
    def _validations_can_name_files(self) -> "RunConfig":
        for name in self.validations:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(
                    f"validations: the name {name!r} becomes a part of file names: use letters, digits, - and _"
                )
        return self

    @model_validator(mode="after")
    def _deepspeed_keys_are_free(self) -> "RunConfig":
        for key, ours in DERIVED_FROM.items():
            if key in self.deepspeed:
                raise ValueError(f"deepspeed.{key} is derived: set {ours} instead")
        if not _is_finite(self.deepspeed):
            raise ValueError("deepspeed contains a number that is infinite or NaN")
        return self

    def optimizer_of(self, network: str) -> OptimizerConfig:
        """Return the optimiser settings of a trained network."""
        return self.networks[network].optimizer if network in self.networks else self.optimizer


def _is_finite(tree: Any) -> bool:
    """Whether all numbers in nested tables and lists are finite."""
    if isinstance(tree, Mapping | list):
        return all(_is_finite(part) for part in (tree.values() if isinstance(tree, Mapping) else tree))
    return not isinstance(tree, float) or math.isfinite(tree)


DERIVED_FROM = {
    "train_batch_size": "streams.NAME.count",
    "train_micro_batch_size_per_gpu": "train.micro_batch",
    "gradient_accumulation_steps": "train.micro_batch",
    "gradient_clipping": "optimizer.clip",
    "optimizer": "optimizer.name",
    "scheduler": "optimizer.schedule",
    "bf16": "train.precision",
    "fp16": "train.precision",
    "torch_autocast": "train.precision",
}
"""Keys of DeepSpeed's configuration that are derived -> our key."""


def table_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the class of a key that is a table, a table of tables or a list of tables; None for any other key."""
    annotation = field.annotation
    if get_origin(annotation) is dict:
        annotation = get_args(annotation)[1]
    elif get_origin(annotation) is tuple:
        annotation = get_args(annotation)[0]
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def resumable_mark(schema: type[BaseModel], key: str) -> Resumable | None:
    """Return the mark of a dotted key, or of the innermost marked table around it; None where there is none."""
    parts = key.split(".")
    while parts:
        field = schema.model_fields.get(parts.pop(0))
        if field is None:
            return None
        for mark in field.metadata:
            if isinstance(mark, Resumable):
                return mark
        table = table_of(field)
        if table is None:
            return None
        if get_origin(field.annotation) is dict and parts:
            parts.pop(0)  # a name chosen by the user
        schema = table
    return None
