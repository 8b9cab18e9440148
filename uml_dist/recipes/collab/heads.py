"""Heads of the grade: linear for a softmax or for evidence, or ordinal with increasing thresholds."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class OrdinalHead(nn.Module):
    """One score of severity, compared with a threshold between each grade and the next.

    Args:
        inputs: length of the vector.
        grades: number of grades, K.
    """

    def __init__(self, inputs: int, grades: int) -> None:
        super().__init__()
        self.score = nn.Linear(inputs, 1, bias=False)
        self.first = nn.Parameter(torch.full((1,), 1 - grades / 2))
        # softplus of these is 1, so thresholds start at distances of 1 around 0.
        self.gaps = nn.Parameter(torch.full((grades - 2,), 1.0).expm1().log())

    def forward(self, vector: Tensor) -> Tensor:
        """Map (B, inputs) to the logits (B, K - 1) of being worse than grade 0, 1, ..., K - 2; they decrease."""
        thresholds = torch.cat([self.first, functional.softplus(self.gaps)]).cumsum(0)
        return self.score(vector) - thresholds


def ordinal_probability(logits: Tensor) -> Tensor:
    """Return the probability (B, K) of each grade, given decreasing logits (B, K - 1) of being worse than a grade."""
    worse = torch.sigmoid(logits)
    end = worse[:, :1]
    return torch.cat([torch.ones_like(end), worse], 1) - torch.cat([worse, torch.zeros_like(end)], 1)
