"""The lines of the tables: metrics of quality in the order in which they are shown, and costs."""

from comparison_results import Row

VACUITY_OF_PIXELS = Row(
    "wrong pixels found by vacuity *", "pixel_error_auroc_vacuity", "more", "pixel_error_auroc_entropy"
)
"""A method without vacuity is judged by its entropy."""

QUALITY = (
    Row("Dice", "dice", "more"),
    Row("Dice where the class is in the mask", "dice_present", "more"),
    Row("AUROC of the class", "auroc", "more"),
    Row("accuracy of the class", "accuracy", "more"),
    Row("ECE of the class", "image_ece", "less"),
    Row("ECE of the pixels", "pixel_ece", "less"),
    Row("NLL of the class", "image_nll", "less"),
    Row("NLL of the pixels", "pixel_nll", "less"),
    Row("wrong images found by vacuity *", "image_error_auroc_vacuity", "more", "image_error_auroc_entropy"),
    Row("wrong images found by entropy", "image_error_auroc_entropy", "more"),
    VACUITY_OF_PIXELS,
    Row("wrong pixels found by entropy", "pixel_error_auroc_entropy", "more"),
    Row("parameters, million", "parameters", digits=2),
    Row("processor seconds, 1000 images", "processor_seconds_per_1000", digits=1),
    Row("processor minutes, whole training", "processor_minutes", digits=1),
    Row("minutes by the clock", "wall_minutes", digits=1),
)
"""Of the quality benchmark."""

ABLATION = (
    Row("Dice", "dice", "more"),
    Row("IoU", "iou", "more"),
    Row("95 % Hausdorff distance", "hd95", "less", digits=2),
    Row("mean surface distance", "asd", "less", digits=2),
    Row("missing or invented classes", "surface_failures", "less", digits=1),
    Row("AUPR of the lesions", "aupr", "more"),
    Row("quadratic kappa of the grade", "quadratic_kappa", "more"),
    Row("AUROC of the class", "auroc", "more"),
    Row("accuracy of the class", "accuracy", "more"),
    Row("ECE of the class", "image_ece", "less"),
    Row("ECE of the pixels", "pixel_ece", "less"),
    Row("NLL of the pixels", "pixel_nll", "less"),
    VACUITY_OF_PIXELS,
    Row("wrong pixels found by entropy", "pixel_error_auroc_entropy", "more"),
    Row("seconds a step", "step_seconds", digits=3),
    Row("processor minutes", "processor_minutes", digits=1),
    Row("peak memory, GB", "peak_gigabytes", digits=2),
    Row("parameters, million", "parameters", digits=2),
)
"""Of the ablation."""
