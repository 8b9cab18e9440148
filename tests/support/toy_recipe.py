"""A recipe that uses every seam: two trained networks, an average, a frozen copy, two streams, two phases, a metric.

In the second phase it learns from pseudo labels, of which it counts the confident ones, the student tries to fool the
critic, and the critic skips every third step.

The student's convolution can start from a file, as encoders start from published weights.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from torch import Tensor, nn

from uml_dist.batch import Batch, Prediction
from uml_dist.config.schema import ModelConfig, Resumable, RunConfig, Section
from uml_dist.distributed.global_batch import GlobalBatch
from uml_dist.errors import UmlError
from uml_dist.metrics.columns import Columns
from uml_dist.metrics.families import STANDARD, Definition, MetricFamily
from uml_dist.metrics.weighted import Metric, mean
from uml_dist.nn.frozen import frozen
from uml_dist.nn.keyed_dropout import KeyedDropout, keyed_bits, keyed_normal, use_rng_key
from uml_dist.recipes import (
    RECIPES,
    Averaged,
    Frozen,
    MicroBatchResult,
    Phase,
    Progress,
    Recipe,
    StreamContract,
    Trained,
)
from uml_dist.run.checkpoint import load_tensors
from uml_dist.telemetry import span
from uml_shards.format.manifest import Manifest


class Confidence(MetricFamily):
    """How certain the most probable class is, whether it is right or not."""

    definitions: ClassVar = {"confidence": Definition("probability of the most probable class, mean over all cases")}

    def columns(self, batch: Batch, prediction: Prediction, manifest: Manifest) -> Mapping[str, Tensor]:
        assert prediction.image_probability is not None
        return {"confidence": prediction.image_probability.amax(1)}

    def metrics(self, columns: Columns) -> Iterator[tuple[str, Metric]]:
        yield "confidence", mean(columns.column("confidence"), np.ones(len(columns.cases), dtype=bool))

    def requirements(self, manifest: Manifest) -> Mapping[str, str]:
        return {"confidence": ""}

    def table(self, columns: Columns) -> Mapping[str, Iterable[Any]]:
        return {"confidence": columns.column("confidence")}


RECIPES["toy"] = "toy_recipe:ToyRecipe"

CONFIDENT = 0.112
"""Distance of a probability from 1/2 above which a pseudo label counts: about half of them in these trainings."""

STEPS = 8
"""Steps of `toy_tree`, 4 in each phase."""


class Model(ModelConfig):
    weights: Annotated[str | None, Resumable(path_only=True)] = None


class Objective(Section):
    consistency: float = 0.1


class Config(RunConfig):
    model: Model = Model()
    objective: Objective = Objective()


class Student(nn.Sequential):
    def __init__(self, classes: int) -> None:
        super().__init__(
            nn.Conv2d(3, 6, 3, stride=4), nn.ReLU(), KeyedDropout(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(6, classes),
        )  # fmt: skip


class Critic(nn.Sequential):
    """Guesses the student's probability of class 1 from the image's mean colour."""

    def __init__(self) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


class ToyRecipe(Recipe[Config]):
    name = "toy"
    streams: ClassVar = {"labelled": StreamContract(labels=True), "unlabelled": StreamContract()}
    families = (*STANDARD, Confidence())
    Config = Config

    @property
    def weights(self) -> str | None:
        return self.config.model.weights

    def check_start(self) -> None:
        if self.weights and not Path(self.weights).is_file():
            raise UmlError(f"weights {self.weights}: there is no such file")

    def _start(self, student: nn.Module) -> list[str]:
        assert isinstance(student, Student)
        assert self.weights
        student[0].load_state_dict(load_tensors(Path(self.weights)))
        return [f"student: {self.weights}"]

    @property
    def networks(self):
        classes = len(self.manifests["labelled"].classes)
        return {
            "student": Trained(lambda: Student(classes), self._start if self.weights else None),
            "critic": Trained(Critic),
            "teacher": Averaged("student", decay=0.9, stochastic=True),
            "before": Frozen("student"),
        }

    @property
    def phases(self):
        return (
            Phase("supervised", ("student",), ("labelled",), share=0.5),
            Phase("both", ("student", "critic"), ("labelled", "unlabelled"), share=0.5, refreshes=("before",)),
        )

    def counts(self, batches: Mapping[str, Batch], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        counts = {"labelled": batches["labelled"].labelled.sum()}
        if "unlabelled" in batches:
            counts["unlabelled"] = (batches["unlabelled"].weight > 0).sum()
            counts["confident"] = targets["confident"].sum()
        return counts

    def targets(self, batches: Mapping[str, Batch], networks: Mapping[str, nn.Module], progress: Progress):
        """The mean opinion of teacher and frozen copy, and the samples of which it is less undecided than of others."""
        if progress.phase == "supervised":
            return {}
        free = batches["unlabelled"]
        image = free.image + 0.1 * keyed_normal(free.rng_key, free.image.shape[1:], "noise")
        with span("teacher"), use_rng_key(keyed_bits(free.rng_key, "teacher")):
            teacher = networks["teacher"](image).float().softmax(1)
        probability = 0.5 * (teacher + networks["before"](image).float().softmax(1))
        confident = ((probability[:, 1] - 0.5).abs() > CONFIDENT) & (free.weight > 0)
        return {"probability": probability, "confident": confident}

    def step(
        self,
        batches: Mapping[str, Batch],
        targets: Mapping[str, Tensor],
        networks: Mapping[str, nn.Module],
        progress: Progress,
        whole: GlobalBatch,
    ) -> MicroBatchResult:
        batch = batches["labelled"]
        with use_rng_key(batch.rng_key):
            logits = networks["student"](batch.image)
        each = nn.functional.cross_entropy(logits.float(), batch.label.clamp(min=0), reduction="none")
        loss = whole.mean((each * batch.labelled).sum(), "labelled")
        if progress.phase == "supervised":
            return MicroBatchResult({"student": loss}, {"loss": loss})
        free = batches["unlabelled"]
        with use_rng_key(free.rng_key):
            student = networks["student"](free.image).float().softmax(1)
        errors = (student - targets["probability"]).square().sum(1)
        consistency = whole.mean((errors * targets["confident"]).sum(), "confident")
        judged = frozen(networks["critic"])(free.image * student[:, 1, None, None, None]).float()[:, 0]
        fooled = whole.mean((judged.square() * free.weight).sum(), "unlabelled")
        total = loss + self.config.objective.consistency * (consistency + fooled)
        confident = whole.mean(targets["confident"].float().sum(), "unlabelled")
        terms = {"loss": total, "consistency": consistency, "fooled": fooled, "confident": confident}
        if progress.phase_step % 3 == 1:
            return MicroBatchResult({"student": total}, terms)
        guess = networks["critic"](free.image).float()[:, 0]
        critic = whole.mean(((guess - student[:, 1].detach()).square() * free.weight).sum(), "unlabelled")
        return MicroBatchResult({"student": total, "critic": critic}, {**terms, "critic": critic})

    def predict(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Prediction:
        return Prediction(image_probability=networks["teacher"](batch.image).float().softmax(1))


def toy_tree(shards: Path, stage: int = 1, **train_words: Any) -> dict[str, Any]:
    """A run of both phases, with an average of the critic too."""
    return {
        "recipe": "toy",
        "streams": {
            "labelled": {"shards": str(shards), "count": 4},
            "unlabelled": {"shards": str(shards), "count": 8},
        },
        "data": {"workers": 0},
        "optimizer": {"lr": 1e-2, "schedule": "cosine"},
        "networks": {"critic": {"optimizer": {"name": "sgd", "lr": 0.1, "clip": 0.5}}},
        "train": {
            **{"steps": STEPS, "ema": 0.8, "log_every": 1, "validate_every": 100, "best": "accuracy"},
            **train_words,
        },
        "checkpoint": {"every": 1, "keep": 100},
        "zero": {"stage": stage},
    }
