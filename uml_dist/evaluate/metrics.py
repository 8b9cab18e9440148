"""Metrics of a split, from its cases, with bootstrap intervals over the cases."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from uml_shards.format.manifest import Manifest
from uml_shards.read.truth import EmptyRule

from . import weighted
from .cases import Case
from .columns import Columns
from .pixels import CALIBRATION_BINS
from .weighted import Floats, Metric

LOWER_IS_BETTER = frozenset({"loss", "image_nll", "pixel_nll", "image_ece", "pixel_ece"})

DEFINITIONS = {
    "loss": "image_nll + pixel_nll",
    "image_nll": "negative log-likelihood of the label in nats, mean over labelled cases",
    "accuracy": "share of labelled cases whose most probable class is the label",
    "balanced_accuracy": "mean over the classes of the share of their cases that is recognised",
    "macro_f1": "mean over the classes of 2 hits / (cases of the class + predictions of it)",
    "auroc": "area under the ROC curve of the second of two classes, else the mean of each class against the rest",
    "auroc_tasks": "mean of the areas under the ROC curve of the data set's binary tasks",
    "auroc_": "area under the ROC curve of a binary task of the data set",
    "image_ece": "expected calibration error of the most probable class in 15 bins of equal width, over labelled cases",
    "image_error_auroc_vacuity": "area under the ROC curve of the image vacuity as a sign that the class is wrong",
    "image_error_auroc_entropy": "the same of the entropy of the image probability",
    "pixel_nll": "negative log-likelihood of the pixels in nats, mean over masked cases of the mean over pixels",
    "dice": "mean of the Dice coefficients of the classes but the background",
    "dice_": "2 |A and B| / (|A| + |B|) of a class, mean over masked cases",
    "iou": "mean of the IoU of the classes but the background",
    "iou_": "|A and B| / |A or B| of a class, mean over masked cases",
    "pixel_ece": "expected calibration error of the most probable pixel class in 15 bins, over all pixels",
    "pixel_error_auroc_vacuity": "area under the ROC curve of the pixel vacuity as a sign that the pixel is wrong, "
    "over all pixels, in 1024 bins of ln(u / (1 - u))",
    "pixel_error_auroc_entropy": "the same of the entropy of the pixel probability",
}
"""What each metric is; a name that ends with _ is followed by that of a class or task."""

EMPTY_RULES: Mapping[EmptyRule, str] = {
    "one": "Dice and IoU of a class are 1 in cases where it is neither in the mask nor predicted",
    "leave-out": "cases where a class is neither in the mask nor predicted are left out of its Dice and IoU",
}
"""What each rule for empty masks means, for tables that hold Dice. On one side only, both are 0 under either rule."""

FORMED = 0.95
"""Share of the bootstrap draws in which a metric must be formed to have an interval."""

BLOCK = 4_000_000
"""Weights held at once."""


def summarise(cases: Sequence[Case], manifest: Manifest, empty: EmptyRule = "one") -> dict[str, float]:
    """The metrics of a split, as `DEFINITIONS` has them; one that cannot be formed is left out.

    That is so without labels or masks; where a class does not occur, of all metrics that need it; where nothing is
    wrong or nothing right, of error detection; without a vacuity. Of predictions that are no numbers there is none.

    Args:
        cases: of the split.
        manifest: of the split.
        empty: "one": Dice and IoU of a class that is neither in a case's mask nor predicted are 1; "leave-out": that
            case has none. A class on one side only has 0 either way.
    """
    ones = np.ones((1, len(cases)))
    values = {name: float(metric(ones)[0]) for name, metric in metrics_of(cases, manifest, empty).items()}
    return {name: value for name, value in values.items() if np.isfinite(value)}


def intervals(
    cases: Sequence[Case],
    manifest: Manifest,
    empty: EmptyRule = "one",
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Bootstrap percentile intervals of the metrics, by drawing cases with replacement.

    A metric that cannot be formed in one draw of twenty (a class that hardly occurs) has none.

    Args:
        cases: of the split.
        manifest: of the split.
        empty: see `summarise`.
        draws: splits drawn.
        seed: of the draws.
        level: of the intervals.
    """
    if len(cases) < 2:
        return {}
    drawn = draw_metrics(metrics_of(cases, manifest, empty), len(cases), draws, seed)
    found = {name: interval_of(values, level) for name, values in drawn.items()}
    return {name: interval for name, interval in found.items() if interval is not None}


def draw_metrics(metrics: Mapping[str, Metric], cases: int, draws: int = 1000, seed: int = 0) -> dict[str, Floats]:
    """Each metric on splits of as many cases, drawn with replacement: (draws,), NaN where it cannot be formed.

    Of one number of cases and one seed, the same cases are drawn: the draws of two models are paired.
    """
    values: dict[str, list[Floats]] = {name: [] for name in metrics}
    generator = np.random.default_rng(seed)
    block = max(1, BLOCK // cases)
    for start in range(0, draws, block):
        size = min(block, draws - start)
        weights = generator.multinomial(cases, np.full(cases, 1.0 / cases), size).astype(np.float64)
        for name, metric in metrics.items():
            values[name].append(metric(weights))
    return {name: np.concatenate(parts) for name, parts in values.items()}


def interval_of(drawn: Floats, level: float = 0.95) -> tuple[float, float] | None:
    """The percentile interval of bootstrap draws; None where one of twenty could not be formed."""
    formed = drawn[np.isfinite(drawn)]
    if len(formed) < FORMED * len(drawn):
        return None
    low, high = np.quantile(formed, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def metric_names(manifest: Manifest) -> list[str]:
    """The metrics that `summarise` can form of a split, if the recipe says all that they need."""
    return [name for name, lacking in formable(manifest).items() if not lacking]


def formable(manifest: Manifest) -> dict[str, str]:
    """Every metric of a data set's classes and tasks -> what this split lacks to form it; empty where nothing."""
    labels = "" if manifest.labelled else "an image with a label"
    masks = "" if manifest.masked else "an image with a mask"
    numbers = frozenset(range(len(manifest.classes)))
    every = labels or _absent(manifest, [frozenset({number}) for number in numbers])
    lacks = {"loss": "", "image_nll": labels, "accuracy": labels, "balanced_accuracy": every, "macro_f1": every}
    lacks["auroc"] = every or ("a second class" if len(numbers) < 2 else "")
    tasks = {
        f"auroc_{name}": labels or _absent(manifest, [frozenset(positive), numbers - set(positive)])
        for name, positive in manifest.tasks.items()
    }
    if tasks:
        lacks["auroc_tasks"] = next(filter(None, tasks.values()), "")
    lacks |= tasks
    lacks |= dict.fromkeys(("image_ece", "image_error_auroc_vacuity", "image_error_auroc_entropy"), labels)
    lacks["pixel_nll"] = masks
    foreground = manifest.mask_classes[1:]
    for kind in ("dice", "iou") if foreground else ():
        lacks |= dict.fromkeys((kind, *map(f"{kind}_{{}}".format, foreground)), masks)
    return lacks | dict.fromkeys(("pixel_ece", "pixel_error_auroc_vacuity", "pixel_error_auroc_entropy"), masks)


def definition_of(name: str) -> str:
    """What a metric is."""
    return DEFINITIONS.get(name) or DEFINITIONS[name.partition("_")[0] + "_"]


def is_overlap(name: str) -> bool:
    """Whether a metric is a Dice or an IoU, which depend on the rule for empty masks."""
    return name.partition("_")[0] in ("dice", "iou")


def _absent(manifest: Manifest, groups: Sequence[frozenset[int]]) -> str:
    """The first group of image classes of which a split has no sample, in words; empty where it has all of them."""
    counts = manifest.class_counts or (1,) * len(manifest.classes)
    for group in groups:
        if not any(counts[number] for number in group):
            names = [manifest.classes[number] for number in sorted(group)]
            return f"an image of {' or '.join(names) or 'another class'}"
    return ""


def metrics_of(cases: Sequence[Case], manifest: Manifest, empty: EmptyRule = "one") -> Mapping[str, Metric]:
    """The metrics of a split as functions of the weights of its cases; see `summarise`."""
    columns = Columns(cases, manifest, empty)
    parts = {"image_nll": columns.labelled, "pixel_nll": columns.masked}
    likelihoods = {
        name: weighted.mean(columns.column(name), counted) for name, counted in parts.items() if counted.any()
    }
    if not all(np.isfinite(columns.column(name)[parts[name]]).all() for name in likelihoods):
        return {}
    metrics: dict[str, Metric] = {}
    if likelihoods:
        metrics["loss"] = weighted.sum_of(list(likelihoods.values()))
    if "image_nll" in likelihoods:
        metrics |= {"image_nll": likelihoods["image_nll"], **dict(_of_images(columns))}
    if "pixel_nll" in likelihoods:
        metrics |= {"pixel_nll": likelihoods["pixel_nll"], **dict(_of_overlap(columns)), **dict(_of_pixels(columns))}
    return metrics


def _of_images(columns: Columns) -> Iterator[tuple[str, Metric]]:
    manifest, label, labelled = columns.manifest, columns.label, columns.labelled
    probability, predicted = columns.probability, columns.predicted
    classes = len(manifest.classes)
    right = predicted == label
    yield "accuracy", weighted.mean(right.astype(np.float64), labelled)
    yield "balanced_accuracy", weighted.balanced_accuracy(label, predicted, classes, labelled)
    yield "macro_f1", weighted.macro_f1(label, predicted, classes, labelled)
    numbers = [1] if classes == 2 else range(classes)
    one_against_rest = [weighted.auroc(label == number, probability[:, number], labelled) for number in numbers]
    yield "auroc", weighted.mean_of(one_against_rest)
    tasks = {
        name: weighted.auroc(np.isin(label, positive), probability[:, list(positive)].sum(1), labelled)
        for name, positive in manifest.tasks.items()
    }
    if tasks:
        yield "auroc_tasks", weighted.mean_of(list(tasks.values()))
    for name, task in tasks.items():
        yield f"auroc_{name}", task
    confidence = probability.max(1)
    place = np.minimum(np.nan_to_num(confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    inside = (place[:, None] == np.arange(CALIBRATION_BINS)) & labelled[:, None]
    gap = np.where(inside, (right - confidence)[:, None], 0.0)
    yield "image_ece", weighted.calibration_error(gap, labelled.astype(np.float64))
    if columns.has("image_vacuity"):
        yield "image_error_auroc_vacuity", weighted.auroc(~right, columns.column("image_vacuity"), labelled)
    yield "image_error_auroc_entropy", weighted.auroc(~right, columns.entropy, labelled)


def _of_overlap(columns: Columns) -> Iterator[tuple[str, Metric]]:
    names = columns.manifest.mask_classes[1:]
    overlaps = [columns.overlap(number) for number in range(1, len(names) + 1)]
    for kind, which in (("dice", 0), ("iou", 1)):
        each = [weighted.mean(overlap[which], np.isfinite(overlap[which])) for overlap in overlaps]
        if each:
            yield kind, weighted.mean_of(each)
        for name, metric in zip(names, each, strict=True):
            yield f"{kind}_{name}", metric


def _of_pixels(columns: Columns) -> Iterator[tuple[str, Metric]]:
    bins = columns.stack("pixel_calibration")
    if bins is not None:
        yield "pixel_ece", weighted.calibration_error(bins[..., 2] - bins[..., 1], bins[..., 0].sum(1))
    for kind in ("vacuity", "entropy"):
        histogram = columns.stack(f"{kind}_histogram")
        if histogram is not None:
            yield f"pixel_error_auroc_{kind}", weighted.pooled_auroc(histogram[:, 1], histogram[:, 0])
