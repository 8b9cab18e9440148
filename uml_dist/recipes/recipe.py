"""The interface of a recipe. The Trainer uses nothing else of a method."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Generic, Literal

from torch import Tensor, nn
from typing_extensions import TypeVar

from uml_shards.format.manifest import Manifest

from ..batch import Batch, Prediction
from ..config.schema import RunConfig
from ..distributed.global_batch import GlobalBatch
from ..metrics.families import STANDARD, MetricFamily, Surfaces
from ..metrics.families.surfaces import Unit
from ..registry import Registered

ConfigT = TypeVar("ConfigT", bound=RunConfig, default=RunConfig)


@dataclass(frozen=True)
class Trained:
    """A network that learns: it gets a DeepSpeed engine and an optimiser in the phases that name it.

    Attributes:
        build: builds the network. It is called whenever the network has to be rebuilt and must not depend on files.
        start: fills in the weights that a fresh run starts from, such as published ones, in place and drawing no random
            numbers; returns lines for the user. Not called where weights come from elsewhere: from a checkpoint, or by
            `model.init`.
        added: matches the parameters that checkpoints of earlier versions lack. They are read as zeros, with which the
            network must be the function that it was.
    """

    build: Callable[[], nn.Module]
    start: Callable[[nn.Module], Sequence[str]] | None = None
    added: re.Pattern[str] | None = None


@dataclass(frozen=True)
class Averaged:
    """A network whose parameters are the exponential moving average of a trained one's.

    After step t of that network, counted from 0, the average keeps min(1 - 1 / (t + 1), decay) of itself, so after the
    first step it equals the network. Its buffers, such as running statistics, are those of the network. It receives no
    gradient. At ZeRO 3 its parameters are partitioned, and gathered from the first forward pass in `targets`, or in
    `step`, until its end: all ranks must call it alike.

    Attributes:
        of: name of the network to average.
        decay: the largest share of its own value that the average keeps in a step.
        stochastic: whether it is in training mode while networks learn, so that its dropout acts.
    """

    of: str
    decay: float = 0.99
    stochastic: bool = False


@dataclass(frozen=True)
class Frozen:
    """A copy of another network's weights, taken when a phase that refreshes it begins."""

    of: str


Network = Trained | Averaged | Frozen


def trained_source(networks: Mapping[str, Network], name: str) -> Trained:
    """Return the trained network itself, or the one whose weights the network copies."""
    network = networks[name]
    source = network if isinstance(network, Trained) else networks[network.of]
    assert isinstance(source, Trained), f"network {name} copies {source}, which is not trained"
    return source


@dataclass(frozen=True)
class StreamContract:
    """Requirements on the shards of a stream. None: the same classes as those of the first stream, if any.

    Attributes:
        labels: True: image classes are required; False: they are not needed, and not compared if present.
        masks: "exclusive": one pixel class per pixel; "named": lesions, which may overlap; "none": not needed,
            and never read, so that masks of a training set can be kept from a stream of labels.
        either: whether labels or masks alone are enough. Then the manifest may state no names of the other.
    """

    labels: bool | None = None
    masks: Literal["exclusive", "named", "none"] | None = None
    either: bool = False


@dataclass(frozen=True)
class Phase:
    """A stretch of training with its own engines and streams. `[[phases]]` overrides all but name and networks.

    Attributes:
        name: name of the phase.
        learns: the trained networks that learn in it.
        streams: the streams whose samples it sees.
        share: share of the run's steps; the shares of all phases sum to 1.
        refreshes: frozen networks that take over weights when it begins.
        counts: samples of a stream in a global batch, if they differ from those of `[streams.NAME]`.
        until: metric of a validation, or NAME.METRIC of a named one: the phase ends before its last step when the
            metric stops improving.
        patience: validations without an improvement after which it ends.
    """

    name: str
    learns: tuple[str, ...]
    streams: tuple[str, ...]
    share: float = 1.0
    refreshes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    until: str | None = None
    patience: int = 3


@dataclass(frozen=True)
class Progress:
    """The progress of a run. Steps count from 0, so the first step has fraction 0.

    Attributes:
        step: optimiser steps done.
        steps: optimiser steps of the whole run.
        phase: name of the phase.
        phase_step: steps done in the phase.
        phase_steps: steps of the phase.
    """

    step: int
    steps: int
    phase: str
    phase_step: int
    phase_steps: int

    @property
    def fraction(self) -> float:
        """Share of the run that is done."""
        return self.step / self.steps


@dataclass(frozen=True)
class Opinions:
    """Opinions of one micro batch, for the metrics.

    Attributes:
        vacuity: (B,) of images, or (B, ...) of pixels, in (0, 1], without gradient.
        classes: number of classes of each opinion; its strength is this number divided by its vacuity.
    """

    vacuity: Tensor
    classes: int


@dataclass(frozen=True)
class MicroBatchResult:
    """Losses and logged values of one micro batch.

    Attributes:
        losses: network name -> the scalar that network descends. A network without a loss does not step. It then has
            none in all micro batches of the step and on all ranks: decide by `Progress` and the counts of the global
            batch alone.
        terms: name -> scalar to be logged, such that the mean over ranks and micro batches is the value of the step.
        opinions: "image" or "pixel" -> the opinions, of which the mean vacuity, likewise, and distributions are shown.
    """

    losses: Mapping[str, Tensor]
    terms: Mapping[str, Tensor]
    opinions: Mapping[str, Opinions] = field(default_factory=dict)

    @property
    def vacuity(self) -> dict[str, Tensor]:
        """Mean vacuity by level."""
        return {level: opinions.vacuity.mean() for level, opinions in self.opinions.items()}


class Recipe(Registered, ABC, Generic[ConfigT]):
    """A method: its configuration, networks, streams, phases and losses.

    To see the time that a part takes in the metrics, open `uml_dist.telemetry.span("teacher")` around it.

    Class attributes:
        name: the recipe's name in configurations and checkpoints.
        Config: its configuration, the subclass of `RunConfig` that it is generic over.
        streams: the streams its configuration must have, and what their shards must contain; the first one is that by
            which epochs are counted and images normalised.
        families: the families of metrics of its evaluation; `evaluation.surfaces` adds or removes `Surfaces`.
        dimensions: 2 for images, 3 for volumes.
    """

    Config: ClassVar[type[RunConfig]] = RunConfig
    streams: ClassVar[Mapping[str, StreamContract]] = {"train": StreamContract()}
    families: Sequence[MetricFamily] = STANDARD
    dimensions: ClassVar[Literal[2, 3]] = 2

    def __init__(self, config: ConfigT, manifests: Mapping[str, Manifest]) -> None:
        """Check the configuration against the data: cheap, no network is built, no other file is read.

        Args:
            config: the run's configuration.
            manifests: the manifest of each stream, by stream name.

        Raises:
            UmlError: they do not fit this recipe.
        """
        self.config = config
        self.manifests = manifests
        evaluation = config.evaluation
        others = tuple(family for family in self.families if not isinstance(family, Surfaces))
        own: list[Unit] = [one.unit for one in self.families if isinstance(one, Surfaces)]
        unit: Unit | Literal["none"] | None = evaluation.surfaces or next(iter(own), None)
        self.families = others
        if unit is not None and unit != "none":
            self.families = (*others, Surfaces(unit, evaluation.missing_surfaces, evaluation.hd95))

    @property
    @abstractmethod
    def networks(self) -> Mapping[str, Network]:
        """Every network, by name."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases in order; by default one, in which all trained networks learn on all streams."""
        trained = tuple(name for name, network in self.networks.items() if isinstance(network, Trained))
        return (Phase("train", trained, tuple(self.streams)),)

    @property
    def notes(self) -> Sequence[str]:
        """Lines for the user on what the recipe makes of these data; printed when a run starts or resumes."""
        return ()

    def check_start(self) -> None:
        """Check what `Trained.start` will read, without building a network; called for a fresh run, on every rank.

        Raises:
            UmlError: it is missing, damaged, or does not fit.
        """

    @property
    def why_no_accumulation(self) -> str | None:
        """Why a step cannot be split into micro batches, and what to set instead; None if it can."""
        return None

    @property
    def side_multiple(self) -> int:
        """Number of which every side of an image must be a multiple in an exported graph; 1 where it may be any."""
        return 1

    @property
    def side_smallest(self) -> int:
        """Smallest side of an image in an exported graph, in which no feature may have a side of one."""
        return 2 * self.side_multiple

    def targets(
        self, batches: Mapping[str, Batch], networks: Mapping[str, nn.Module], progress: Progress
    ) -> Mapping[str, Tensor]:
        """Return the targets of one micro batch that networks produce, such as pseudo masks.

        Called without gradient for all micro batches of a step before any loss is formed, so that what it selects can
        be counted over the global batch. All ranks must call the same networks. The default is an empty mapping.
        """
        return {}

    @abstractmethod
    def counts(self, batches: Mapping[str, Batch], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return one micro batch's counts, which `GlobalBatch.mean` divides by: the same names on every rank.

        Args:
            batches: by stream.
            targets: what `targets` returned for this micro batch.
        """

    @abstractmethod
    def step(
        self,
        batches: Mapping[str, Batch],
        targets: Mapping[str, Tensor],
        networks: Mapping[str, nn.Module],
        progress: Progress,
        whole: GlobalBatch,
    ) -> MicroBatchResult:
        """Compute the losses of one micro batch.

        Compute every term on every rank, also without labels or masks (as 0 times the prediction), so that all
        parameters take part in ZeRO's collectives on every rank.

        Args:
            batches: by stream.
            targets: what `targets` returned for this micro batch.
            networks: by name; trained ones are engines in the phases in which they learn.
            progress: progress of the run.
            whole: the global batch that this micro batch is part of.
        """

    @abstractmethod
    def predict(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Prediction:
        """Return the predictions for a batch; networks are in evaluation mode, gradients are off.

        Call trained networks by their own names: `train.evaluate_with` decides whether they are there with the weights
        that they reached or with their average's.
        """
