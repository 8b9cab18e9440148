"""Opinions are binned as numpy bins them, and served as histograms that Prometheus can read."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from uml_dist.telemetry import bin_opinions
from uml_dist.telemetry.distributions import MAX_LEVELS, MAX_OPINIONS, Distributions
from uml_dist.telemetry.table import STRENGTHS, VACUITIES

FLOATS = st.floats(0, 1, width=32) | st.sampled_from([0.0, -1.0, 2.0, float("nan"), float("inf")])


def expected(vacuity: np.ndarray, classes: int) -> list[float]:
    """Return what numpy counts, at the edges' nearest float32."""
    known = vacuity[np.isfinite(vacuity) & (vacuity > 0)].astype(np.float32)
    found = []
    for values, edges in ((known, VACUITIES), (-known, [-classes / edge for edge in STRENGTHS])):
        limits = np.asarray([-np.inf, *edges, np.inf], np.float32)
        # numpy's bins exclude their upper edge, those of Prometheus include it.
        counts, _ = np.histogram(-values, bins=np.negative(limits)[::-1])
        found += np.cumsum(counts[::-1])[:-1].tolist()
    return [*found, float(len(known)), float(known.sum(dtype=float)), float((classes / known).sum(dtype=float))]


@settings(deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=40), st.integers(2, 9))
def test_bins_are_those_of_numpy(values, classes):
    vacuity = np.asarray(values, np.float32)
    found, wanted = bin_opinions(torch.from_numpy(vacuity), classes).numpy(), expected(vacuity, classes)
    np.testing.assert_array_equal(found[:-2], wanted[:-2])
    np.testing.assert_allclose(found[-2:], wanted[-2:], rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_maps_are_binned_whatever_their_shape_and_add_up(dtype):
    vacuity = torch.rand(3, 4, 5, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    parts = [bin_opinions(part, 3) for part in vacuity]
    whole = bin_opinions(vacuity, 3)
    assert whole.dtype == torch.float64
    torch.testing.assert_close(sum(parts), whole)
    np.testing.assert_allclose(whole.numpy(), expected(vacuity.float().numpy().ravel(), 3), rtol=1e-6)


def test_of_many_pixels_every_nth_counts_and_every_column_is_among_them():
    shape = (7, 224, 224)
    columns = (torch.arange(224.0) + 1).div(224).expand(shape)
    bins = bin_opinions(columns, 2)
    kept = bins[len(VACUITIES) + len(STRENGTHS)]
    assert MAX_OPINIONS / 2 < kept <= MAX_OPINIONS
    share = bins[: len(VACUITIES)] / kept
    expected = bin_opinions(columns[0, 0], 2)[: len(VACUITIES)] / 224
    torch.testing.assert_close(share, expected, rtol=0, atol=1e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_counts_the_same_and_is_not_waited_for():
    vacuity = torch.rand(8, 256, 256, generator=torch.Generator().manual_seed(0))
    on_gpu = vacuity.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = bin_opinions(on_gpu, 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found.cpu(), bin_opinions(vacuity, 2))


def served(distributions: Distributions) -> dict[str, dict[tuple[str, str], float]]:
    registry = CollectorRegistry()
    registry.register(distributions)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    found = {}
    for family in families:
        assert family.type == "histogram"
        for sample in family.samples:
            found.setdefault(sample.name, {})[sample.labels["level"], sample.labels.get("le", "")] = sample.value
    return found


def test_histograms_are_absent_until_there_are_opinions():
    assert served(Distributions()) == {}


def test_histograms_add_up_by_level_and_are_cumulative():
    distributions = Distributions()
    sure, unsure = torch.full((6,), 0.015), torch.ones(4)
    distributions.add("pixel", bin_opinions(sure, 2).tolist())
    distributions.add("pixel", bin_opinions(unsure, 2).tolist())
    distributions.add("image", bin_opinions(unsure, 3).tolist())
    found = served(distributions)
    vacuity, strength = found["uml_opinion_vacuity_bucket"], found["uml_opinion_strength_bucket"]
    assert (vacuity["pixel", "0.01"], vacuity["pixel", "0.02"], vacuity["pixel", "1.0"]) == (0, 6, 10)
    assert vacuity["pixel", "+Inf"] == found["uml_opinion_vacuity_count"]["pixel", ""] == 10
    assert (strength["pixel", "2.0"], strength["pixel", "100.0"], strength["pixel", "200.0"]) == (4, 4, 10)
    assert (strength["image", "2.0"], strength["image", "3.0"]) == (0, 4), "without evidence, the number of classes"
    assert found["uml_opinion_vacuity_sum"]["pixel", ""] == pytest.approx(6 * 0.015 + 4)
    assert found["uml_opinion_strength_sum"]["image", ""] == 12
    for buckets in (vacuity, strength):
        counts = [count for (level, _), count in buckets.items() if level == "pixel"]
        assert counts == sorted(counts)


def test_levels_are_bounded():
    distributions = Distributions()
    for number in range(3 * MAX_LEVELS):
        distributions.add(f"level {number}", bin_opinions(torch.ones(1), 2).tolist())
    assert len(served(distributions)["uml_opinion_vacuity_count"]) == MAX_LEVELS
