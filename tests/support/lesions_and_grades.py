"""A recipe that learns lesions from one data set and grades from another, by a network each, and shards for it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from uml_dist.batch import Batch, Prediction
from uml_dist.distributed.global_batch import GlobalBatch
from uml_dist.metrics.families import STANDARD, Grades
from uml_dist.recipes import RECIPES, MicroBatchResult, Progress, Recipe, StreamContract, Trained
from uml_shards.importers import Options
from uml_shards.importers.base import Source
from uml_shards.importers.phantom import PhantomImporter
from uml_shards.importers.phantom_pictures import draw
from uml_shards.sample import IGNORE
from uml_shards.sources.encode import encode_grey, encode_json
from uml_shards.write.writer import write_split

RECIPES["lesions_and_grades"] = "lesions_and_grades:LesionsAndGrades"

LESIONS = ("lesion", "left_half")
GRADES = ("none", "mild", "moderate", "severe", "worst")
TASKS = {"referable": 2, "abnormal": 1}
"""Binary tasks, and the least grade that is positive."""

STEPS = 4


class LesionsAndGrades(Recipe):
    """Both networks see colours only."""

    name = "lesions_and_grades"
    streams: ClassVar = {
        "lesions": StreamContract(labels=False, masks="named"),
        "grades": StreamContract(labels=True, masks="none"),
    }
    families = (*STANDARD, Grades())

    @property
    def networks(self) -> Mapping[str, Trained]:
        lesions, grades = len(self.manifests["lesions"].mask_names), len(self.manifests["grades"].classes)
        return {
            "generator": Trained(lambda: nn.Conv2d(3, lesions, 1)),
            "grader": Trained(lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, grades))),
        }

    def counts(self, batches: Mapping[str, Batch], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"masked": batches["lesions"].masked.sum(), "labelled": batches["grades"].labelled.sum()}

    def step(
        self,
        batches: Mapping[str, Batch],
        targets: Mapping[str, Tensor],
        networks: Mapping[str, nn.Module],
        progress: Progress,
        whole: GlobalBatch,
    ) -> MicroBatchResult:
        lesions, grades = batches["lesions"], batches["grades"]
        logits, valid = networks["generator"](lesions.image).float(), lesions.mask != IGNORE
        of_pixels = nn.functional.binary_cross_entropy_with_logits(
            logits, (lesions.mask == 1).float(), reduction="none"
        )
        generator = whole.mean((of_pixels * valid).mean((1, 2, 3)).sum(), "masked")
        of_grades = nn.functional.cross_entropy(
            networks["grader"](grades.image).float(), grades.label.clamp(min=0), reduction="none"
        )
        grader = whole.mean((of_grades * grades.labelled).sum(), "labelled")
        return MicroBatchResult({"generator": generator, "grader": grader}, {"loss": generator + grader})

    def predict(self, batch: Batch, networks: Mapping[str, nn.Module]) -> Prediction:
        return Prediction(
            image_probability=networks["grader"](batch.image).float().softmax(1),
            lesion_probability=networks["generator"](batch.image).float().sigmoid(),
        )


class LesionPhantom(PhantomImporter):
    """The phantom with its lesion, and the left part of it, as masks that overlap; without labels."""

    left = 0.5

    def splits(self) -> dict[str, Source]:
        stated = {"classes": (), "tasks": {}, "mask_classes": (), "mask_names": LESIONS}
        return {name: replace(one, **stated) for name, one in super().splits().items()}

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        key, components = super().encode(item)
        left = draw(self.options.seed, *item, self.size).mask.copy()
        left[:, round(self.left * self.size) :] = 0
        masks = {"mask.lesion.png": components["mask.png"], "mask.left_half.png": encode_grey(left)}
        return key, {**image_of(components), **masks, "json": encode_json(None)}


class PhantomWithoutLeftHalf(LesionPhantom):
    """The mask of the left half has no pixel."""

    left = 0.0


class GradedPhantom(PhantomImporter):
    """The phantom without masks, with grades that take turns."""

    grades: tuple[str, ...] = GRADES

    def splits(self) -> dict[str, Source]:
        tasks = {name: tuple(range(least, len(self.grades))) for name, least in TASKS.items()}
        stated = {"classes": self.grades, "tasks": tasks, "mask_classes": ()}
        return {name: replace(one, **stated) for name, one in super().splits().items()}

    def encode(self, item: Any) -> tuple[str, dict[str, bytes]]:
        key, components = super().encode(item)
        return key, {**image_of(components), "json": encode_json(item[1] % len(self.grades))}


class PhantomOfFourGrades(GradedPhantom):
    """The two highest grades as one, as in Messidor."""

    grades = GRADES[:4]


def image_of(components: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: value for name, value in components.items() if name in ("jpg", "png")}


def write_phantom(importer: type[PhantomImporter], folder: Path, seed: int = 0, **counts: int) -> Path:
    """Write images of 16 x 16; by default 16 to train and 10 to validate."""
    made = importer(options=Options(size=16, seed=seed, counts={"train": 16, "val": 10, "test": 0, **counts}))
    for split, source in made.splits().items():
        write_split(made, split, source, folder / split, quiet=True)
    return folder


def lesions_and_grades_tree(lesions: Path, grades: Path, validate_every: int = STEPS) -> dict[str, Any]:
    """A run that validates lesions and grades, each on its own data set."""
    return {
        "recipe": "lesions_and_grades",
        "streams": {"lesions": {"shards": str(lesions), "count": 4}, "grades": {"shards": str(grades), "count": 4}},
        "data": {"workers": 0, "augment": "none"},
        "optimizer": {"lr": 0.5},
        "train": {"steps": STEPS, "log_every": 1, "validate_every": validate_every, "best": "aupr"},
        "validations": {"grades": {"stream": "grades", "best": "quadratic_kappa"}},
        "checkpoint": {"every": 1, "keep": 100},
    }
