"""Chooses the thresholds of lesions on another split than the one that is evaluated."""

from uml_shards.read.samples import Samples
from uml_shards.read.split import Split
from uml_shards.read.stream import Stream

from ..distributed.ranks import broadcast, rank
from ..errors import UmlError
from ..metrics.thresholds import Thresholds, best_thresholds
from .evaluation import evaluate_split
from .predictor import Predictor


def check_threshold_split(split: Split | Samples, evaluated: Split | Samples) -> None:
    """Check that thresholds can be chosen on a split for the evaluation of another one.

    Raises:
        UmlError: its masks are not of lesions, or it is the split that is evaluated.
    """
    name = split.manifest.split
    if split.digest == evaluated.digest:
        raise UmlError(f"--threshold-split {name} is the split that is evaluated: choose the thresholds on another one")
    if not split.manifest.mask_names:
        raise UmlError(
            f"--threshold-split {name}: the masks of {split.manifest.dataset} are not of lesions that may overlap, so "
            "there is no threshold to choose: leave it out"
        )


def choose_thresholds(predictor: Predictor, stream: Stream, batch_size: int, workers: int = 0) -> Thresholds:
    """Choose the thresholds on a split, on all ranks, which must all call it.

    Args:
        predictor: the recipe with its networks.
        stream: the split, in its own order.
        batch_size: samples per rank and batch.
        workers: number of processes that read ahead.

    Raises:
        UmlError: a lesion has no pixel in any mask of the split.
    """
    manifest = stream.split.manifest
    cases = evaluate_split(predictor, stream, batch_size, workers)
    values = broadcast(best_thresholds(cases, manifest) if rank() == 0 else {})
    for name in manifest.mask_names:
        if name not in values:
            raise UmlError(
                f"--threshold-split {manifest.split}: no mask has a pixel of {name}, so it has no best threshold: "
                "choose another split"
            )
    return Thresholds(values, manifest.split)
