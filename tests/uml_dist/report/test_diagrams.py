"""What is drawn is what the metrics are: bins of the calibration error, areas of risk and coverage."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy import stats

from case_rows import cases_of
from manifests import manifest_of
from reported import make_split, predict_split
from uml_dist.metrics.columns import Columns
from uml_dist.report.calibration import calibration_part, confidence_bins, wilson
from uml_dist.report.diagrams import coverage_diagram, reliability_diagram, strip, values_diagram
from uml_dist.report.selective import coverage_part, curves_of


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    return predict_split(make_split(tmp_path_factory.mktemp("diagrams") / "test", 40, gaps=True))[0]


@pytest.fixture(scope="module")
def columns(evaluated):
    return Columns(evaluated.cases, evaluated.manifest, evaluated.empty)


@pytest.mark.parametrize(
    ("kind", "metric"), [("image", "image_ece"), ("pixel", "pixel_ece"), ("border", "pixel_ece_border")]
)
def test_the_bins_give_the_calibration_error(evaluated, columns, kind, metric):
    number, confidence, hits = confidence_bins(columns)[kind].T
    assert np.abs(hits - confidence).sum() / number.sum() == pytest.approx(evaluated.metrics[metric])


def test_bins_count_the_labelled_cases_and_all_pixels_that_count(evaluated, columns):
    bins = confidence_bins(columns)
    assert bins["image"][:, 0].sum() == evaluated.manifest.labelled
    assert bins["pixel"][:, 0].sum() == 256 * evaluated.manifest.masked
    assert 0 < bins["border"][:, 0].sum() < bins["pixel"][:, 0].sum()


def test_a_confidence_of_one_is_in_the_last_bin():
    rows = [{"key": "a", "label": 1, "probability_0": 0.0, "probability_1": 1.0, "image_nll": 0.0}]
    assert confidence_bins(Columns(cases_of(rows), manifest_of()))["image"][-1].tolist() == [1.0, 1.0, 1.0]


def test_intervals_of_shares_are_wilsons():
    bins = np.array([[20.0, 15.0, 13.0], [7.0, 6.0, 7.0], [5.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    expected = [stats.binomtest(k, n).proportion_ci(0.95, "wilson") for n, k in ((20, 13), (7, 7), (5, 0))]
    assert wilson(bins)[:3] == pytest.approx(np.array([[one.low, one.high] for one in expected]), abs=1e-4)
    assert np.isnan(wilson(bins)[3]).all()


@pytest.mark.parametrize("level", ["image", "mask"])
def test_the_area_below_a_curve_is_the_metric(evaluated, columns, level):
    curves = curves_of(columns)[level]
    assert len(curves) >= 2
    for name, curve in curves.items():
        cases = len(curve) - 1
        assert np.trapezoid(curve, dx=1 / cases) == pytest.approx(evaluated.metrics[f"{level}_augrc_{name}"])
        risks = curve[1:] / (np.arange(1, cases + 1) / cases)
        assert risks.mean() == pytest.approx(evaluated.metrics[f"{level}_aurc_{name}"])


@pytest.mark.parametrize(
    "svg",
    [
        reliability_diagram("a", np.array([[0.0, 0, 0], [3.0, 2.2, 2.0], [1e6, 9.9e5, 9.8e5]]), 0),
        reliability_diagram("b", np.array([[1.0, 1.0, 0.0]]), 5, np.array([[0.0, 0.79]])),
        coverage_diagram("c", {"vacuity": np.array([0.0, 0.0])}, generalised=False),
        coverage_diagram("d", {"entropy": np.linspace(0, 0.5, 5000)}, generalised=True),
        coverage_diagram("e", {str(number): np.array([0.0, 0.1, 0.3]) for number in range(9)}, generalised=False),
        values_diagram("f", [0.5, 0.5], 0.5, (0.5, 0.5)),
        values_diagram("g", [0.0, 0.0, 0.0], 0.0, (0.0, 0.0)),
        values_diagram("h", list(range(40)), 19.5, None),
    ],
    ids="abcdefgh",
)
def test_diagrams_of_odd_values_are_vector_graphics_of_finite_numbers(svg):
    root = ElementTree.fromstring(svg)
    assert root.get("class") == "chart"
    assert root.get("aria-label")
    values = [value for element in root.iter() for value in element.attrib.values()]
    assert not any("nan" in value or "inf" in value or value.startswith("#0000") for value in values)
    assert all("style" not in element.attrib for element in root.iter())


def test_a_strip_has_a_dot_for_each_run_within_its_width():
    svg = strip([0.2, 0.4, 0.3], 0.3, (0.1, 0.5))
    places = [float(one) for one in re.findall(r'cx="([\d.]+)%"', svg)]
    assert places[0] < places[2] < places[1]
    assert places[2] == pytest.approx((places[0] + places[1]) / 2)
    assert all(0 <= place <= 100 for place in places)
    assert strip([1.0, 1.0], 1.0, (1.0, 1.0)).count("<circle") == 2


def test_without_labels_masks_or_predictions_there_is_no_diagram():
    empty = Columns(cases_of([{"key": "a", "label": -1, "pixels": 0}]), manifest_of())
    assert calibration_part(empty, {}) == coverage_part(empty, {}) == ""
