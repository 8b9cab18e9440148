"""Histograms of pixels by a score in [0, 1], such as a probability, a vacuity or a confidence."""

from math import exp

import torch
from torch import Tensor

BINS = 1024
LOGIT_RANGE = 16.0
"""Scores s are binned by ln(s / (1 - s)) in [-16, 16]: odds in steps of 3 %, however close to 0 or 1 the score is.

What is beyond shares the first or the last bin.
"""

CALIBRATION_BINS = 15
"""Bins of equal width of the confidence in [0, 1]; the upper end of each belongs to the next, 1 to the last."""


def score_histogram(score: Tensor, positive: Tensor, valid: Tensor) -> Tensor:
    """Return (B, 2, BINS) int32: the number of negative and of positive pixels of each case, by ascending score.

    Args:
        score: (B, *S) in [0, 1]; what is no number is counted as 0.5.
        positive: (B, *S) bool.
        valid: (B, *S) bool, the pixels that count.
    """
    logit = torch.logit(score.clamp(0.0, 1.0)).nan_to_num(nan=0.0)
    place = ((logit + LOGIT_RANGE) * (BINS / (2 * LOGIT_RANGE))).clamp(0, BINS - 1).long()
    cases = len(score)
    first = 2 * torch.arange(cases, device=place.device)
    row = first.view(-1, *(1,) * (score.dim() - 1)) + positive.long()
    counts = torch.bincount((row * BINS + place)[valid], minlength=2 * cases * BINS)
    return counts.view(cases, 2, BINS).int()


def lowest_score(place: int) -> float:
    """Return the lowest score that is counted in a bin."""
    return 0.0 if place == 0 else 1.0 / (1.0 + exp(LOGIT_RANGE - place * (2 * LOGIT_RANGE / BINS)))


def calibration_histogram(confidence: Tensor, hit: Tensor, valid: Tensor) -> Tensor:
    """Return (B, CALIBRATION_BINS, 3) float64: number, sum of confidences and hits, by confidence.

    Args:
        confidence: (B, *S) in [0, 1]; what is no number is counted as 0.
        hit: (B, *S) bool.
        valid: (B, *S) bool, the pixels that count.
    """
    place = (confidence.nan_to_num() * CALIBRATION_BINS).long().clamp(max=CALIBRATION_BINS - 1)
    bins = []
    # Bin by bin, since sums of floats by index are in no fixed order on a GPU.
    for number in range(CALIBRATION_BINS):
        inside = valid & (place == number)
        sums = torch.where(inside, confidence, 0.0).flatten(1).sum(1, dtype=torch.float64)
        bins.append(torch.stack([inside.flatten(1).sum(1), sums, (inside & hit).flatten(1).sum(1)], 1))
    return torch.stack(bins, 1)
