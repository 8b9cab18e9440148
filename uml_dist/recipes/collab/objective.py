"""The objective of collaborative learning: its configuration, its ramp, and the lesions that a grade allows."""

from collections.abc import Sequence
from math import exp
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ...config.schema import Section
from ...errors import UmlError
from ..recipe import Progress

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(gt=0)]


class CollabWeights(Section):
    """`[objective.weights]`: weights of the generator's terms; that of the labelled masks is 1."""

    dice: float = Field(default=0.0, ge=0, description="Dice loss of the labelled masks, beside their cross-entropy")
    adversarial: float = Field(
        default=0.1, ge=0, description="deception of the discriminator; 0: there is no discriminator"
    )
    semi_supervised: float = Field(
        default=1.0, ge=0, description="largest weight of the pseudo masks of graded images; 0: there are none"
    )


class CollabObjective(Section):
    """`[objective]` of the recipe `collab`."""

    weights: CollabWeights = CollabWeights()
    positive_weight: Weight | dict[str, Weight] = Field(
        default=1.0,
        description="weight of the pixels with a lesion in its cross-entropy: one for all lesions, or by name, 1 for "
        "others",
    )
    evidential: bool = Field(
        default=False,
        description="learn evidence: of each lesion in each pixel (Beta), and of the grade (Dirichlet)",
    )
    kl: float = Field(
        default=0.01,
        ge=0,
        description="evidential: final weight of the divergence from ignorance, which rises over half of the run",
    )
    grade_loss: Literal["cross_entropy", "ordinal"] = Field(
        default="cross_entropy",
        description="loss of the grade: cross-entropy; or ordinal, the sum over the decisions whether it is above each "
        "grade",
    )
    pseudo: Literal["soft", "hard"] = Field(
        default="soft", description="pseudo masks: the attention itself, or cut by pseudo_range"
    )
    pseudo_range: tuple[Share, Share] = Field(
        default=(0.3, 0.7),
        description="hard: attention up to which a pixel has no lesion, and from which it has one; between, it does "
        "not count",
    )
    evidence_weighting: bool = Field(
        default=False,
        description="evidential: weigh the pixels of pseudo masks by what is known, (1 - vacuity of the pixel) * (1 - "
        "vacuity of the grade)",
    )
    lesions_of_grade: dict[str, tuple[str, ...]] | None = Field(
        default=None,
        description="lesions that images of a grade may have, by names; in pseudo masks, others are absent. Default: "
        "the first grade has none, others may have all",
    )
    ramp: float = Field(
        default=0.5, gt=0, le=1, description="share of the last phase over which the weight of pseudo masks rises"
    )
    discriminator_input: Literal["maps", "maps_image"] = Field(
        default="maps_image", description="what the discriminator sees: the lesion maps, or also the image"
    )
    discriminator_real: Literal["predictions", "masks"] = Field(
        default="predictions",
        description="maps that the discriminator takes for real: predictions for images with masks, or those masks",
    )
    label_smoothing: float = Field(
        default=0.1, ge=0, lt=0.5, description="smoothing of the discriminator's targets: 0.1 gives 0.9 and 0.1"
    )
    skip_discriminator_above: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="accuracy of the discriminator in a global batch above which it does not learn from it; default: "
        "it always learns",
    )
    alternate: bool = Field(
        default=False,
        description="whether, in the last phase, the grader and the generator learn in turns; default: in every step",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.evidence_weighting and not self.evidential:
            raise ValueError("evidence_weighting needs the evidence of evidential = true: set it, or leave it out")
        if self.evidential and self.grade_loss == "ordinal":
            raise ValueError("evidential = true has a loss of its own for the grade: leave grade_loss out")
        if self.pseudo_range[0] > self.pseudo_range[1]:
            raise ValueError(f"pseudo_range = {list(self.pseudo_range)} falls: give the lower bound first")
        return self

    @property
    def adversary(self) -> bool:
        """Whether there is a discriminator."""
        return self.weights.adversarial > 0

    @property
    def semi_supervised(self) -> bool:
        """Whether the generator learns from pseudo masks."""
        return self.weights.semi_supervised > 0

    def allowed(self, grades: Sequence[str], lesions: Sequence[str]) -> tuple[tuple[bool, ...], ...]:
        """Return for each grade whether its images may have each lesion.

        Args:
            grades: names of the grades, the first one being that of healthy images.
            lesions: names of the lesions.

        Raises:
            UmlError: `lesions_of_grade` names a grade or a lesion that the shards do not have.
        """
        stated = {grades[0]: ()} if self.lesions_of_grade is None else self.lesions_of_grade
        check_names("lesions_of_grade", stated, grades, "grades")
        for grade, names in stated.items():
            check_names(f"lesions_of_grade.{grade}", names, lesions, "lesions")
        return tuple(tuple(lesion in stated.get(grade, lesions) for lesion in lesions) for grade in grades)

    def positive_weights(self, lesions: Sequence[str]) -> tuple[float, ...]:
        """Return the weight of each lesion's pixels.

        Raises:
            UmlError: `positive_weight` names a lesion that the shards do not have.
        """
        weight = self.positive_weight
        if not isinstance(weight, dict):
            return (weight,) * len(lesions)
        check_names("positive_weight", weight, lesions, "lesions")
        return tuple(weight.get(lesion, 1.0) for lesion in lesions)

    def kl_weight(self, fraction: float) -> float:
        """Return the weight of the divergence from ignorance at a fraction of the run."""
        return self.kl * min(1.0, 2.0 * fraction)

    def semi_supervised_weight(self, progress: Progress) -> float:
        """Return the weight of pseudo masks: the largest times exp(-5 (1 - x)^2), x from 0 to 1 over `ramp`."""
        done = min(1.0, progress.phase_step / (self.ramp * progress.phase_steps))
        return self.weights.semi_supervised * exp(-5.0 * (1.0 - done) ** 2)


def check_names(key: str, given: Sequence[str] | dict, known: Sequence[str], what: str) -> None:
    """Check that a key of `[objective]` names what the shards have.

    Raises:
        UmlError: it names something else.
    """
    for name in given:
        if name not in known:
            raise UmlError(f"objective.{key} names {name!r}: the {what} of the shards are {', '.join(known)}")
