"""A recipe that uses every seam: two trained networks, an average, a frozen copy, two streams, two phases.

The student's convolution can start from a file, as encoders start from published weights.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn

from uml_dist.batch import Batch, Prediction
from uml_dist.config.schema import ModelConfig, Resumable, RunConfig, Section
from uml_dist.distributed.global_batch import GlobalBatch
from uml_dist.errors import UmlError
from uml_dist.nn.keyed_dropout import KeyedDropout, use_rng_key
from uml_dist.recipes import RECIPES, Averaged, Frozen, MicroBatchResult, Phase, Progress, Recipe, Trained
from uml_dist.run.checkpoint import load_tensors

RECIPES["toy"] = "toy_recipe:ToyRecipe"


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
    stream_names = ("labelled", "unlabelled")
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
            "teacher": Averaged("student", decay=0.9),
            "before": Frozen("student"),
        }

    @property
    def phases(self):
        return (
            Phase("supervised", ("student",), ("labelled",), share=0.5),
            Phase("both", ("student", "critic"), ("labelled", "unlabelled"), share=0.5, refreshes=("before",)),
        )

    def counts(self, batches: Mapping[str, Batch]) -> dict[str, Tensor]:
        counts = {"labelled": batches["labelled"].labelled.sum()}
        if "unlabelled" in batches:
            counts["unlabelled"] = (batches["unlabelled"].weight > 0).sum()
        return counts

    def step(
        self, batches: Mapping[str, Batch], networks: Mapping[str, nn.Module], progress: Progress, whole: GlobalBatch
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
            with torch.no_grad():
                teacher = networks["teacher"](free.image).softmax(1)
                before = networks["before"](free.image).softmax(1)
        target = 0.5 * (teacher + before)
        consistency = whole.mean(((student - target).square().sum(1) * free.weight).sum(), "unlabelled")
        guess = networks["critic"](free.image).float()[:, 0]
        critic = whole.mean(((guess - student[:, 1].detach()).square() * free.weight).sum(), "unlabelled")
        total = loss + self.config.objective.consistency * consistency
        return MicroBatchResult(
            {"student": total, "critic": critic}, {"loss": total, "consistency": consistency, "critic": critic}
        )

    def predict(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Prediction:
        return Prediction(image_probability=networks["teacher"](batch.image).float().softmax(1))
