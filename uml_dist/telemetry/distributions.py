"""Distributions of opinions: binned on the device, added up on the host, and served as classic histograms.

A histogram of prometheus_client observes one value at a time, of which a step has millions.
"""

from collections.abc import Iterator, Sequence
from math import gcd

import torch
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from torch import Tensor

from .table import STRENGTHS, VACUITIES, label_value, metric

MAX_OPINIONS = 1 << 16
"""Opinions of a micro batch that are binned; of more, such as those of pixels, every n-th is."""

MAX_LEVELS = 16
"""Levels, such as "image" and "pixel", that get histograms; further ones are left out."""

_VACUITY, _STRENGTH = "uml_opinion_vacuity", "uml_opinion_strength"


def bin_opinions(vacuity: Tensor, classes: int) -> Tensor:
    """Count opinions by vacuity and strength, without waiting for the device.

    Args:
        vacuity: vacuity of each opinion, of any shape, in (0, 1]; others, such as NaN, are left out. Of more than
            `MAX_OPINIONS`, every n-th counts.
        classes: number of classes, which divided by the vacuity is the strength.

    Returns:
        (len(VACUITIES) + len(STRENGTHS) + 3,) float64: the number of opinions with at most each vacuity, with at most
        each strength, and in all; the sum of their vacuities, and of their strengths. They can be added.
    """
    vacuity = _sampled(vacuity.detach()).float()
    valid = torch.isfinite(vacuity) & (vacuity > 0)
    # Comparisons need no sort and no atomic addition, so the counts are exact and the same on every device.
    counts = [(valid & (vacuity <= edge)).sum() for edge in VACUITIES]
    counts += [(valid & (vacuity >= classes / edge)).sum() for edge in STRENGTHS]
    sums = [torch.where(valid, values, 0.0).sum(dtype=torch.float64) for values in (vacuity, classes / vacuity)]
    return torch.stack([*(count.double() for count in (*counts, valid.sum())), *sums])


def _sampled(opinions: Tensor) -> Tensor:
    """Return every n-th opinion, so that there are at most `MAX_OPINIONS`."""
    step = -(-opinions.numel() // MAX_OPINIONS)
    if step <= 1:
        return opinions
    # Otherwise only some columns of an image would count.
    while gcd(step, opinions.shape[-1]) > 1:
        step += 1
    return opinions.flatten()[::step]


class Distributions(Collector):
    """Histograms of vacuity and strength by level, for a registry."""

    def __init__(self) -> None:
        self._totals: dict[str, tuple[float, ...]] = {}

    def add(self, level: str, bins: Sequence[float]) -> None:
        """Add what `bin_opinions` returned to the histograms of a level."""
        level = label_value(level)
        if level in self._totals:
            bins = [before + more for before, more in zip(self._totals[level], bins, strict=True)]
        elif len(self._totals) >= MAX_LEVELS:
            return
        # As a whole, since another thread may be serving the histograms.
        self._totals = {**self._totals, level: tuple(bins)}

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histograms that have values."""
        if not (totals := self._totals):
            return
        count = len(VACUITIES) + len(STRENGTHS)
        for name, first, last, place in (
            (_VACUITY, 0, len(VACUITIES), count + 1),
            (_STRENGTH, len(VACUITIES), count, count + 2),
        ):
            entry = metric(name)
            family = HistogramMetricFamily(entry.name, entry.help, labels=entry.labels)
            for level, bins in totals.items():
                edges = [*map(floatToGoString, entry.buckets), "+Inf"]
                counts = [*bins[first:last], bins[count]]
                family.add_metric([level], list(zip(edges, counts, strict=True)), bins[place])
            yield family
