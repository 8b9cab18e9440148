"""The interval of the calibration error, whose value and whose bootstrap draws are both biased upwards."""

import numpy as np
import pytest

from manifests import manifest_of
from uml_dist.metrics.cases import Cases, draw_weights
from uml_dist.metrics.summary import draw_metrics, estimate, interval_of, intervals, metrics_of

SETS, DRAWS = 60, 300


def drawn_set(number, cases, overconfidence):
    """Cases whose label is 1 with probability p, where the prediction claims p + overconfidence."""
    generator = np.random.default_rng((number, cases))
    claimed = generator.uniform(0.5 + overconfidence, 1.0, cases)
    label = (generator.random(cases) < claimed - overconfidence).astype(np.int64)
    columns = {"label": label, "probability_0": 1.0 - claimed, "probability_1": claimed}
    columns["image_nll"] = -np.log(np.where(label, claimed, np.maximum(1.0 - claimed, 1e-12)))
    return Cases(tuple(map(str, range(cases))), columns, {}, draw_weights(cases, DRAWS, number), number)


def drawn_error(one):
    """Return the calibration error of a set, and of its draws."""
    metric = {"image_ece": metrics_of(one, manifest_of())["image_ece"]}
    return estimate(metric, one)["image_ece"], draw_metrics(metric, one)["image_ece"]


def figures(cases, overconfidence):
    """Return the share of intervals with the true error, with their own value, and of percentiles with the former."""
    covers = contains = plain = 0
    for number in range(SETS):
        value, drawn = drawn_error(drawn_set(number, cases, overconfidence))
        corrected, percentiles = interval_of(drawn, biased=value), interval_of(drawn)
        assert corrected is not None
        assert percentiles is not None
        covers += corrected[0] <= overconfidence <= corrected[1]
        contains += corrected[0] <= value <= corrected[1]
        plain += percentiles[0] <= overconfidence <= percentiles[1]
    return covers / SETS, contains / SETS, plain / SETS


@pytest.mark.parametrize("cases", [200, 1000])
def test_interval_of_a_calibrated_set_reaches_to_zero(cases):
    covers, contains, plain = figures(cases, 0.0)
    assert covers > 0.8
    assert contains == 1.0
    assert plain == 0.0, "the percentiles never do, which is why they are corrected"


@pytest.mark.parametrize(("cases", "overconfidence"), [(200, 0.1), (1000, 0.2)])
def test_interval_of_an_overconfident_set_covers_the_true_error(cases, overconfidence):
    covers, contains, _ = figures(cases, overconfidence)
    assert covers > 0.87
    assert contains == 1.0


def test_interval_of_a_large_error_is_hardly_corrected():
    value, drawn = drawn_error(drawn_set(0, 1000, 0.3))
    assert interval_of(drawn, biased=value) == pytest.approx(interval_of(drawn), abs=0.01)


def test_intervals_of_a_split_are_the_corrected_ones():
    one = drawn_set(0, 200, 0.0)
    value, drawn = drawn_error(one)
    found = intervals(one, manifest_of())
    assert found["image_ece"] == interval_of(drawn, biased=value) != interval_of(drawn)
