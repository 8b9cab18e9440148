"""Metrics of a split, from its cases."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from uml_shards.manifest import Manifest

from .cases import Case

LOWER_IS_BETTER = frozenset({"loss", "image_nll", "pixel_nll"})


def summarise(cases: Sequence[Case], manifest: Manifest) -> dict[str, float]:
    """The metrics of a split; one that cannot be formed is left out.

    That is so without labels or masks and with one class only; of predictions that are no numbers there is none at all.

    - `loss`: `image_nll` + `pixel_nll`, the negative log-likelihoods of labels and of pixels in nats, means over cases.
    - `accuracy`: share of labelled cases whose most probable class is the label.
    - `auroc`: of the positive class for two classes, else the mean over classes of one against the rest;
      `auroc_<task>`: of the manifest's binary tasks.
    - `dice_<class>`: mean over masked cases of 2 |A and B| / (|A| + |B|); 1 where the class is neither there nor
      predicted; `dice`: the mean of these over the classes but the background.
    """
    labelled = [case for case in cases if case["label"] >= 0 and "image_nll" in case]
    masked = [case for case in cases if case.get("pixels", 0) > 0]
    parts = {"image_nll": _column(labelled, "image_nll"), "pixel_nll": _column(masked, "pixel_nll")}
    means = {name: float(values.mean()) for name, values in parts.items() if len(values)}
    if not all(np.isfinite(mean) for mean in means.values()):
        return {}
    loss = {"loss": sum(means.values())} if means else {}
    return loss | means | _of_images(labelled, manifest) | _of_pixels(masked, manifest)


def metric_names(manifest: Manifest) -> list[str]:
    """The metrics that `summarise` can form of a split."""
    names = ["loss"]
    if manifest.labelled:
        names += ["image_nll", "accuracy", "auroc", *(f"auroc_{task}" for task in manifest.tasks)]
    if manifest.masked:
        names += ["pixel_nll", "dice", *(f"dice_{name}" for name in manifest.mask_classes[1:])]
    return names


def _column(cases: Sequence[Case], name: str) -> NDArray[np.float64]:
    return np.array([case.get(name, np.nan) for case in cases], dtype=np.float64)


def _of_images(labelled: Sequence[Case], manifest: Manifest) -> dict[str, float]:
    if not labelled:
        return {}
    label = _column(labelled, "label").astype(int)
    probability = np.stack([_column(labelled, f"probability_{k}") for k in range(len(manifest.classes))], axis=1)
    metrics = {"accuracy": float((probability.argmax(1) == label).mean())}
    tasks = {f"auroc_{name}": list(positive) for name, positive in manifest.tasks.items()}
    for name, positive in tasks.items():
        is_positive = np.isin(label, positive)
        if is_positive.any() and not is_positive.all():
            metrics[name] = float(roc_auc_score(is_positive, probability[:, positive].sum(1)))
    numbers = [1] if len(manifest.classes) == 2 else range(len(manifest.classes))
    if all((label == number).any() and (label != number).any() for number in numbers):
        scores = [roc_auc_score(label == number, probability[:, number]) for number in numbers]
        metrics["auroc"] = float(np.mean(scores))
    return metrics


def _of_pixels(masked: Sequence[Case], manifest: Manifest) -> dict[str, float]:
    if not masked:
        return {}
    metrics = {}
    for number, name in enumerate(manifest.mask_classes):
        both = 2.0 * _column(masked, f"intersection_{number}")
        sizes = _column(masked, f"predicted_{number}") + _column(masked, f"true_{number}")
        if number > 0:
            metrics[f"dice_{name}"] = float(np.where(sizes > 0, both / np.maximum(sizes, 1.0), 1.0).mean())
    return {"dice": float(np.mean(list(metrics.values()))), **metrics}
