"""Curves keep their shape, their extremes and what is not finite, however long a run is."""

import numpy as np
import pytest

from uml_dist.watch.series import CAPACITY, Series


def test_few_values_are_kept_as_they_are():
    series = Series()
    series.extend([10, 20], [1.0, 3.0])
    series.extend([30], [2.0])
    assert series.steps.tolist() == [10, 20, 30]
    assert series.means.tolist() == [1.0, 3.0, 2.0]
    assert not series.is_joined
    assert (series.last, series.last_step, series.lowest, series.highest) == (2.0, 30, (1.0, 10), (3.0, 20))


@pytest.mark.parametrize("chunk", [1000, 7919])
def test_a_long_curve_has_few_points_with_the_means_of_its_values(chunk):
    steps = np.arange(1, 30_001)
    values = np.sin(steps / 3000.0)
    values[12_345] = 40.0
    series = Series()
    for start in range(0, len(steps), chunk):
        series.extend(steps[start : start + chunk].tolist(), values[start : start + chunk].tolist())
    assert CAPACITY / 2 < len(series.steps) <= CAPACITY
    assert series.sums.sum() == pytest.approx(values.sum())
    assert series.highs.max() == 40.0
    assert series.highest == (40.0, 12_346)
    width = 64
    whole = values[width - 1 : 2 * width - 1]  # the steps of the second interval
    assert series.means[1] == pytest.approx(whole.mean())
    assert (series.lows[1], series.highs[1]) == (whole.min(), whole.max())


def test_points_of_a_long_curve_do_not_depend_on_how_it_was_read():
    steps, values = list(range(1, 5001)), np.random.default_rng(0).random(5000).tolist()
    whole, parts = Series(), Series()
    whole.extend(steps, values)
    for start in range(0, 5000, 37):
        parts.extend(steps[start : start + 37], values[start : start + 37])
    assert whole.steps.tolist() == parts.steps.tolist()
    np.testing.assert_allclose(whole.means, parts.means)


def test_values_that_are_not_finite_are_counted_and_leave_the_curve_alone():
    series = Series()
    series.extend([1, 2, 3, 4], [1.0, float("nan"), float("inf"), 2.0])
    assert series.means.tolist() == [1.0, 2.0]
    assert (series.broken, series.first_broken, series.last) == (2, 2, 2.0)
    series.extend([5], [float("nan")])
    assert series.last != series.last


def test_a_curve_without_finite_values_is_empty():
    series = Series()
    series.extend([1], [float("nan")])
    assert (len(series.steps), series.lowest, series.is_joined) == (0, None, False)
