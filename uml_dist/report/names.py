"""How metrics are named, ordered and grouped in a report."""

from collections.abc import Iterable

GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Segmentation", ("dice", "iou", "aupr", "lesion_auroc", "cup_to_disc")),
    ("Distances between surfaces", ("hd95", "assd", "asd", "surface_failures")),
    (
        "Class of the image",
        (
            "auroc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "class_", "macro_f1",
            "weighted_f1", "quadratic_kappa", "kappa",
        ),
    ),
    (
        "Calibration and likelihood",
        (
            "image_ece", "pixel_ece", "image_brier", "pixel_brier", "lesion_brier", "image_nll", "pixel_nll",
            "lesion_nll", "loss",
        ),
    ),
    ("Errors found by uncertainty", ("image_error_auroc", "pixel_error_auroc")),
    ("Risk if the most uncertain cases are referred", ("image_augrc", "image_aurc", "image_error_at", "mask_")),
    ("Another data set told apart by uncertainty", ("ood_",)),
)  # fmt: skip
"""Titles of the tables, and beginnings of the names in each, in their order."""

OTHERS = "Further metrics"

_WORDS = {
    word.lower(): word
    for word in (
        "Dice",
        "IoU",
        "AUROC",
        "AUPR",
        "ECE",
        "NLL",
        "AUGRC",
        "AURC",
        "Brier",
        "HD95",
        "ASD",
        "ASSD",
        "F1",
        "OOD",
    )
}
_BEGINNINGS = 3
"""Words of a name that may be our own; those of a class or a lesion follow."""


def title_of(name: str) -> str:
    """Return the name of a metric as people write it, such as "Image AUGRC entropy"; it may contain words of others."""
    words = name.split("_")
    spelt = [_WORDS.get(word, word) for word in words[:_BEGINNINGS]] + words[_BEGINNINGS:]
    title = " ".join(spelt)
    return title[:1].upper() + title[1:]


def grouped(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the metrics of each table by its title, in the order of `GROUPS`; tables without metrics are left out."""
    found: dict[str, list[tuple[int, bool, int, str]]] = {}
    for place, name in enumerate(names):
        title, order, start = _group_of(name)
        found.setdefault(title, []).append((order, name != start, place, name))
    titles = [*(title for title, _ in GROUPS), OTHERS]
    return {title: [name for *_, name in sorted(found[title])] for title in titles if title in found}


def _group_of(name: str) -> tuple[str, int, str]:
    """Return the title of a metric's table, its place there, and the beginning by which it was found, the longest."""
    fitting = [
        (len(start), title, order, start)
        for title, starts in GROUPS
        for order, start in enumerate(starts)
        if name.startswith(start)
    ]
    _, title, order, start = max(fitting, default=(0, OTHERS, 0, ""))
    return title, order, start
