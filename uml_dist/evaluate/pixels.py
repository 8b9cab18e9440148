"""What a case keeps of its pixels: sums and histograms, so that pixels of a whole split are pooled and never stored."""

from math import log

import torch
from torch import Tensor

from uml_shards.sample import IGNORE

from ..batch import Prediction

CALIBRATION_BINS = 15
"""Bins of equal width of the confidence in [0, 1]; the upper end of each belongs to the next, 1 to the last."""

UNCERTAINTY_BINS = 1024
LOGIT_RANGE = 16.0
"""Uncertainties u are binned by ln(u / (1 - u)) in [-16, 16]: evidence in steps of 3 %, however small or large it is.

Beyond lies what float32 cannot tell from 0 or 1. Error detection from the bins is within 1e-3 of that from the pixels
where the evidence of the pixels spreads by a fifth or more (standard deviation), within 5e-3 where by a tenth.
"""


def pixel_columns(prediction: Prediction, mask: Tensor) -> dict[str, Tensor]:
    """Figures of each case of a batch from its pixels; those with mask 255 count nowhere.

    Args:
        prediction: with a pixel probability (B, C, H, W).
        mask: (B, H, W) uint8.

    Returns:
        `pixels` that count; `pixel_nll`, their mean negative log-likelihood in nats, NaN without any; for each class c
        `intersection_c`, `predicted_c` and `true_c` pixels, all (B,); `pixel_calibration` (B, bins, 3), the number,
        sum of confidences and hits by confidence; `entropy_histogram` and `vacuity_histogram` (B, 2, bins) int32, right
        and wrong pixels by uncertainty, entropies divided by the largest, ln C.
    """
    assert prediction.pixel_probability is not None
    probability = prediction.pixel_probability.float()
    valid = mask != IGNORE
    target = torch.where(valid, mask, 0).long()
    confidence, predicted = probability.max(1)
    hit = (predicted == target) & valid
    columns = {"pixels": valid.flatten(1).sum(1)}
    of_target = probability.gather(1, target[:, None])[:, 0]
    nll = torch.where(valid, -of_target.clamp(min=1e-12).log(), 0.0).flatten(1).sum(1)
    columns["pixel_nll"] = torch.where(columns["pixels"] > 0, nll / columns["pixels"], torch.nan)
    for number in range(probability.shape[1]):
        is_predicted = (predicted == number) & valid
        is_true = (target == number) & valid
        columns[f"intersection_{number}"] = (is_predicted & is_true).flatten(1).sum(1)
        columns[f"predicted_{number}"] = is_predicted.flatten(1).sum(1)
        columns[f"true_{number}"] = is_true.flatten(1).sum(1)
    columns["pixel_calibration"] = _calibration(confidence, hit, valid)
    entropy = prediction.pixel_entropy
    if entropy is not None and probability.shape[1] > 1:
        columns["entropy_histogram"] = _histogram(entropy.float() / log(probability.shape[1]), hit, valid)
    if prediction.pixel_vacuity is not None:
        columns["vacuity_histogram"] = _histogram(prediction.pixel_vacuity.float(), hit, valid)
        columns["pixel_vacuity"] = prediction.pixel_vacuity.float().flatten(1).mean(1)
    return columns


def _calibration(confidence: Tensor, hit: Tensor, valid: Tensor) -> Tensor:
    """(B, bins, 3) float64: number, sum of confidences and hits."""
    place = (confidence.nan_to_num() * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    bins = []
    # Bin by bin, since sums of floats by index are in no fixed order on a GPU.
    for number in range(CALIBRATION_BINS):
        inside = valid & (place == number)
        sums = torch.where(inside, confidence, 0.0).flatten(1).sum(1, dtype=torch.float64)
        bins.append(torch.stack([inside.flatten(1).sum(1), sums, (inside & hit).flatten(1).sum(1)], 1))
    return torch.stack(bins, 1)


def _histogram(uncertainty: Tensor, hit: Tensor, valid: Tensor) -> Tensor:
    """(B, 2, bins) int32: right and wrong pixels by uncertainty (B, H, W) in [0, 1]."""
    logit = torch.logit(uncertainty.clamp(0.0, 1.0)).nan_to_num(nan=0.0)
    place = ((logit + LOGIT_RANGE) * (UNCERTAINTY_BINS / (2 * LOGIT_RANGE))).clamp(0, UNCERTAINTY_BINS - 1).long()
    cases = len(uncertainty)
    row = 2 * torch.arange(cases, device=place.device)[:, None, None] + (~hit).long()
    counts = torch.bincount((row * UNCERTAINTY_BINS + place)[valid], minlength=2 * cases * UNCERTAINTY_BINS)
    return counts.view(cases, 2, UNCERTAINTY_BINS).int()
