"""The objective of UG-MCL: its configuration, what profile and method make of it, and its ramps."""

from dataclasses import dataclass
from math import exp
from typing import Literal, Self

from pydantic import Field, model_validator

from ...config.schema import MAX_STEPS, Section
from ..recipe import Progress
from .methods import METHODS, MethodName, Rows

Uncertainty = Literal["entropy", "evidential"]
DiceScope = Literal["global", "sample"]
DistanceLoss = Literal["squared", "absolute"]


class UgmclWeights(Section):
    """`[objective.weights]`: weights of the terms; those that the method does not have are 0."""

    cross_entropy: float | None = Field(
        default=None, ge=0, description="cross-entropy of labelled voxels; default: the profile's (1, or 0.5)"
    )
    dice: float | None = Field(
        default=None, ge=0, description="Dice loss of labelled voxels; default: the profile's (1, or 0.5)"
    )
    distance: float | None = Field(
        default=None,
        ge=0,
        description="regression of the distances of labelled voxels; default: the profile's (1, or 0)",
    )
    distance_dice: float | None = Field(
        default=None,
        ge=0,
        description="Dice loss of the masks that are formed from the distances; default: the profile's (0, or 0.5)",
    )
    intra: float | None = Field(
        default=None,
        ge=0,
        description="largest weight of the agreement of student and teacher; default: the profile's (0.1, or 0.05)",
    )
    cross: float | None = Field(
        default=None, ge=0, description="largest weight of the agreement of segmentation and distance; default: 0.1"
    )
    pasted: float = Field(
        default=0.5, ge=0, description="copy-paste: weight of a voxel with the teacher's label; one with a mask has 1"
    )


@dataclass(frozen=True)
class TermWeights:
    """The weights of all terms, as profile and method leave them; see `UgmclWeights`."""

    cross_entropy: float
    dice: float
    distance: float
    distance_dice: float
    intra: float
    cross: float


PROFILE_WEIGHTS = {
    "paper": TermWeights(1.0, 1.0, 1.0, 0.0, 0.1, 0.1),
    # The code multiplies the agreement with the teacher by 0.1 and by 0.5.
    "release": TermWeights(0.5, 0.5, 0.0, 0.5, 0.05, 0.1),
}


class UgmclObjective(Section):
    """`[objective]` of the recipe `ugmcl`."""

    method: MethodName = Field(
        default="ugmcl",
        description="; ".join(f"{name}: {method.summary}" for name, method in METHODS.items()),
    )
    weights: UgmclWeights = UgmclWeights()
    balance: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="share b of the segmentation in the agreement of student and teacher, the rest is that of the "
        "distance; default: 0.75, or 1 for the profile release and for methods without distances",
    )
    gate_intra: bool | None = Field(
        default=None,
        description="whether only voxels of which the teacher is certain count in the agreement with it; default: the "
        "method's",
    )
    gate_cross: bool = Field(
        default=False, description="whether only such voxels count in the agreement of segmentation and distance"
    )
    rows: Rows | None = Field(
        default=None, description="samples on which student and teacher should agree; default: the method's"
    )
    uncertainty: Uncertainty = Field(
        default="entropy",
        description="the teacher's uncertainty: entropy of the mean of stochastic passes; or evidential: vacuity in "
        "one pass, and a network that learns evidence",
    )
    passes: int = Field(default=8, gt=0, le=1024, description="stochastic passes of the teacher, for the entropy")
    passes_at_once: int = Field(default=2, gt=0, le=1024, description="passes in one call of the teacher: more memory")
    teacher_decay: float = Field(
        default=0.99, ge=0, lt=1, description="largest share of its own value that the teacher keeps in a step"
    )
    noise: float = Field(default=0.1, ge=0, description="standard deviation of the noise on the teacher's input")
    noise_clip: float = Field(default=0.2, ge=0, description="largest absolute value of that noise")
    threshold: tuple[float, float] = Field(
        default=(0.75, 1.0),
        description="uncertainty below which the teacher is certain, as a share of the largest one: at the start and "
        "at the end of the run",
    )
    ramp: Literal["squared", "printed", "constant"] = Field(
        default="squared",
        description="course of weights and threshold over the fraction x of the run: exp(-5 (1 - x)^2); exp(-5 (1 - "
        "x)) for the weights, as the paper prints it; or the full weight from the start",
    )
    ramp_every: int | None = Field(
        default=None, gt=0, le=MAX_STEPS, description="steps between two rises of the weights; default: 1, or 150"
    )
    warmup: float = Field(
        default=0.0, ge=0, lt=1, description="share of the run at its start with labelled samples only"
    )
    slope: float = Field(
        default=1500.0, gt=0, le=1e6, description="k: a distance d becomes the share sigmoid(-k d) of a mask"
    )
    distance_loss: DistanceLoss = Field(default="squared", description="error of a distance in the regression")
    dice_scope: DiceScope = Field(
        default="global",
        description="global: one overlap over the labelled samples of the global batch; sample: mean of the samples' "
        "overlaps, which can be accumulated",
    )
    copy_paste: bool | None = Field(
        default=None,
        description="whether patches are pasted into one another, with the teacher's labels; default: the method's",
    )
    pasted_box: float = Field(
        default=2 / 3, gt=0, lt=1, description="copy-paste: side of the pasted box, as a share of the patch's"
    )
    kl: float = Field(
        default=0.1,
        ge=0,
        description="evidential: final weight of the divergence from ignorance, which rises over half of the run",
    )

    @model_validator(mode="after")
    def _terms_exist(self) -> Self:
        method = METHODS[self.method]
        of_terms = {
            "weights.distance": ("distance", self.weights.distance),
            "weights.distance_dice": ("distance", self.weights.distance_dice),
            "weights.intra": ("intra", self.weights.intra),
            "weights.cross": ("cross", self.weights.cross),
            "balance": ("distance", self.balance),
            "gate_intra": ("intra", self.gate_intra),
            "gate_cross": ("cross", self.gate_cross or None),
        }
        for key, (term, value) in of_terms.items():
            if value is not None and not getattr(method, term):
                raise ValueError(
                    f"{key} does nothing with method = {self.method}, which has no such term: leave it out"
                )
        if self.rows is not None and not method.intra and not method.cross:
            raise ValueError(
                f"rows does nothing with method = {self.method}, in which nothing should agree: leave it out"
            )
        return self


@dataclass(frozen=True)
class Plan:
    """An objective as profile and method leave it.

    Attributes:
        weights: of all terms; 0 for those that the method lacks.
        balance: share of the segmentation in the agreement of student and teacher.
        gate_intra: whether that agreement is gated.
        gate_cross: whether the agreement of segmentation and distance is gated.
        rows: samples of the agreement with the teacher.
        copy_paste: whether patches are pasted into one another.
        ramp_every: steps between two rises of the weights.
        distance: whether the network has distances.
        regresses: whether the distances of labelled masks are learnt.
    """

    weights: TermWeights
    balance: float
    gate_intra: bool
    gate_cross: bool
    rows: Rows
    copy_paste: bool
    ramp_every: int
    distance: bool
    regresses: bool

    @property
    def gated(self) -> bool:
        """Whether any term needs the teacher's uncertainty."""
        return (self.gate_intra and self.weights.intra > 0) or (self.gate_cross and self.weights.cross > 0)

    @property
    def agrees(self) -> bool:
        """Whether there is a term of agreement."""
        return self.weights.intra > 0 or self.weights.cross > 0

    @property
    def asks_teacher(self) -> bool:
        """Whether such a term needs the teacher."""
        return self.weights.intra > 0 or self.gated

    @property
    def needs_teacher(self) -> bool:
        """Whether any term needs the teacher."""
        return self.asks_teacher or self.copy_paste

    @property
    def needs_unlabelled(self) -> bool:
        """Whether any term needs unlabelled samples."""
        return self.agrees or self.copy_paste


def plan_of(objective: UgmclObjective, profile: str, own_head: bool) -> Plan:
    """Resolve an objective by its method and by the defaults of a profile of the model.

    Args:
        objective: the configuration.
        profile: name of the profile.
        own_head: whether distances have a head of their own, which has to take part in every step.
    """
    method, default = METHODS[objective.method], PROFILE_WEIGHTS[profile]
    given = {name: value for name, value in objective.weights if value is not None and name != "pasted"}
    weights = {**vars(default), **given}
    if not method.distance:
        weights |= {"distance": 0.0, "distance_dice": 0.0}
    if not method.intra:
        weights["intra"] = 0.0
    if not method.cross:
        weights["cross"] = 0.0
    balance = objective.balance
    if balance is None:
        balance = 0.75 if method.distance and profile == "paper" else 1.0
    return Plan(
        TermWeights(**weights),
        balance,
        gate_intra=method.gate if objective.gate_intra is None else objective.gate_intra,
        gate_cross=objective.gate_cross,
        rows=objective.rows or method.rows,
        copy_paste=method.copy_paste if objective.copy_paste is None else objective.copy_paste,
        ramp_every=objective.ramp_every or (150 if profile == "release" else 1),
        distance=method.distance,
        regresses=method.distance and (own_head or weights["distance"] > 0),
    )


def rise(fraction: float) -> float:
    """Return exp(-5 (1 - x)^2) for a fraction x of the run, the ramp of mean teachers (Laine and Aila, ICLR 2017)."""
    return exp(-5.0 * (1.0 - min(max(fraction, 0.0), 1.0)) ** 2)


def ramp(objective: UgmclObjective, every: int, progress: Progress) -> float:
    """Return the share of their largest weight that the terms of agreement have.

    Args:
        objective: the configuration.
        every: steps between two rises.
        progress: progress of the run.
    """
    if progress.fraction < objective.warmup:
        return 0.0
    fraction = progress.step // every * every / progress.steps
    match objective.ramp:
        case "constant":
            return 1.0
        case "printed":
            return exp(-5.0 * (1.0 - fraction))
        case "squared":
            return rise(fraction)


def threshold(objective: UgmclObjective, fraction: float) -> float:
    """Return the uncertainty, as a share of the largest one, below which the teacher is certain."""
    start, end = objective.threshold
    return start + (end - start) * rise(fraction)


def kl_weight(objective: UgmclObjective, fraction: float) -> float:
    """Return the weight of the divergence from ignorance at a fraction of the run."""
    return objective.kl * min(1.0, 2.0 * fraction)
