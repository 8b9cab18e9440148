"""The evaluation of a split: metrics, cases and examples. Validations while training are the same."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from uml_shards.format.manifest import Manifest
from uml_shards.read.stream import Stream
from uml_shards.read.truth import EmptyRule

from ..distributed.ranks import broadcast, rank, world_size
from ..metrics.cases import CaseCollector, Cases
from ..metrics.columns import Columns
from ..metrics.families.outliers import Outliers, joined
from ..metrics.summary import Families, formable, summarise
from .examples import Example, choose, predict_examples
from .predictor import PredictionSource

OTHER_PREDICTIONS = "other cases or predictions"
"""What a metric needs if labels and masks suffice: a class that occurs, errors to detect, a vacuity, numbers."""


@dataclass(frozen=True)
class SecondSplit:
    """The images of another split beside those of the evaluated one, to see whether an uncertainty tells them apart.

    Attributes:
        manifest: manifest of the second split.
        digest: its digest.
        cases: the cases of both, see `metrics.families.outliers.joined`; none but on rank 0.
    """

    manifest: Manifest
    digest: str
    cases: Cases


@dataclass(frozen=True)
class Evaluation:
    """The results of a split.

    Attributes:
        manifest: manifest of the split.
        empty: rule for classes that are neither in a mask nor predicted.
        families: families of metrics.
        metrics: the metrics that can be formed, on every rank.
        cases: the cases, on rank 0; none on the others.
        examples: cases to look at, on rank 0.
        notes: what a reader of the metrics must know beside their definitions: title -> one line; on rank 0.
        second: the second split, if there is one.
    """

    manifest: Manifest
    empty: EmptyRule
    families: Families
    metrics: dict[str, float]
    cases: Cases
    examples: tuple[Example, ...]
    notes: Mapping[str, str] = field(default_factory=dict)
    second: SecondSplit | None = None

    @property
    def left_out(self) -> dict[str, str]:
        """Every metric of the split's classes and tasks that cannot be formed -> what it needs; on rank 0."""
        lacks, columns = formable(self.manifest, self.families), Columns(self.cases, self.manifest, self.empty)
        for family in self.families:
            lacks |= {name: lacks.get(name) or lacking for name, lacking in family.lacking(columns).items()}
        return {name: lacking or OTHER_PREDICTIONS for name, lacking in lacks.items() if name not in self.metrics}


def evaluate(
    predictor: PredictionSource,
    stream: Stream,
    batch_size: int,
    workers: int = 0,
    empty: EmptyRule = "one",
    draws: int = 0,
    examples: bool = True,
    families: Families | None = None,
    second: Stream | None = None,
) -> Evaluation:
    """Evaluate a split on all ranks, which must all call it.

    Args:
        predictor: the recipe with its networks, or the perfect model.
        stream: the split, in its own order.
        batch_size: samples per rank and batch.
        workers: number of processes that read ahead.
        empty: rule for classes that are neither in a mask nor predicted.
        draws: bootstrap draws for intervals.
        examples: whether to predict a dozen cases again for a picture.
        families: the families of metrics; by default the recipe's.
        second: a split whose images should be more uncertain, in its own order; only the uncertainties of its images
            are used.

    Raises:
        UmlError: a family of metrics does not fit the split.
    """
    manifest, families = stream.split.manifest, families or predictor.recipe.families
    formed = families if second is None else (*families, Outliers())
    cases = evaluate_split(predictor, stream, batch_size, workers, draws, formed)
    metrics = broadcast(summarise(cases, manifest, empty, families) if rank() == 0 else {})
    shown: list[Example] = []
    if examples and rank() == 0 and (metrics or not Columns(cases, manifest, empty).known.any()):
        shown = predict_examples(predictor, stream, choose(cases, manifest), batch_size, empty)
    notes = dict(predictor.notes(stream))
    for family in families:
        notes |= family.notes(Columns(cases, manifest, empty))
    beside = None
    if second is not None:
        # Another seed, so that the draws of the two splits are independent.
        others = evaluate_split(predictor, second, batch_size, workers, draws, (Outliers(),), seed=1)
        both = joined(cases, others) if rank() == 0 else Cases()
        beside = SecondSplit(second.split.manifest, second.split.manifest.digest, both)
    return Evaluation(manifest, empty, families, metrics, cases, tuple(shown), notes, beside)


def evaluate_split(
    predictor: PredictionSource,
    stream: Stream,
    batch_size: int,
    workers: int = 0,
    draws: int = 0,
    families: Families | None = None,
    seed: int = 0,
) -> Cases:
    """Return the cases of a split, sorted by key, on rank 0; none on the others. All ranks must call it.

    Each rank takes a contiguous part. Some may have a batch more than others, so the networks must be plain modules.

    Args:
        predictor: the recipe with its networks, or the perfect model.
        stream: the split, in its own order.
        batch_size: samples per rank and batch.
        workers: number of processes that read ahead.
        draws: bootstrap draws of the cases, or of their patients where these are known.
        families: the families of metrics; by default the recipe's.
        seed: seed of the draws.

    Raises:
        UmlError: a family of metrics does not fit the split.
    """
    manifest = stream.split.manifest
    per_rank = -(-len(stream.split) // world_size())
    own = range(len(stream.split))[rank() * per_rank : (rank() + 1) * per_rank]
    patients = stream.split.patients() if draws else ()
    collector = CaseCollector(stream.split.keys(), draws, seed, patients)
    for batch, prediction in predictor.predictions(stream, own, batch_size, workers):
        columns: dict[str, Tensor] = {"label": batch.label, "position": batch.position}
        for family in families or predictor.recipe.families:
            columns |= family.columns(batch, prediction, manifest)
        collector.add(batch, columns)
    return collector.gather()
