"""The metrics that stand first where all of them would be too many, as in a model card."""

from collections.abc import Iterable

HEADLINE = (
    *("dice", "hd95", "aupr", "cup_to_disc_error"),
    *("auroc", "auroc_tasks", "sensitivity", "specificity", "quadratic_kappa"),
    *("image_augrc_vacuity", "image_augrc_entropy", "mask_augrc_vacuity_mean", "mask_augrc_entropy_mean"),
    *("image_ece", "pixel_ece", "pixel_ece_border"),
)
"""Overlap and ranking of lesions, decisions on the image, selective prediction (AUGRC), and calibration.

Figures of single classes are not among them: they are behind the means.
"""


def headline(names: Iterable[str]) -> list[str]:
    """Return the metrics that stand first, in the order of `HEADLINE`; without those that repeat another one."""
    there = set(names)
    repeated = {"auroc_tasks"} if "auroc" in there else set()
    return [name for name in HEADLINE if name in there - repeated]
