"""Which cases a report shows."""

import numpy as np

from case_rows import cases_of
from manifests import manifest_of
from uml_dist.metrics.columns import Columns
from uml_dist.report.cases import choices


def case(number, overlap, vacuity, right=True, **others):
    """A case whose lesion of 50 pixels is found by `overlap` pixels of as many."""
    areas = {"intersection_1": overlap, "predicted_1": 50, "true_1": 50, "pixels": 100}
    image = {"label": 1, "probability_0": 0.2 if right else 0.7, "probability_1": 0.8 if right else 0.3}
    return {"key": f"{number:03d}", **image, "image_nll": 0.1 * number, "image_vacuity": vacuity, **areas, **others}


def chosen(rows, **manifest):
    columns = Columns(cases_of(rows), manifest_of(**manifest), "leave-out")
    return {one.title: [columns.cases.keys[row] for row in one.rows] for one in choices(columns)}


def test_best_median_and_worst_are_by_dice_and_the_uncertain_by_vacuity():
    rows = [case(number, 50 - number, 0.1 + 0.01 * (number % 7), right=number % 5 > 0) for number in range(21)]
    found = chosen(rows)
    assert found["Best"] == ["000", "001", "002"]
    assert found["Median"] == ["009", "010", "011"]
    assert found["Worst"] == ["020", "019", "018"]
    assert found["Most uncertain"] == ["006", "013", "020"]
    assert set(found["Wrong, yet most certain"]) == {"000", "015", "010"}
    assert list(found) == ["Best", "Median", "Worst", "Most uncertain", "Wrong, yet most certain"]


def test_images_without_anything_to_see_are_not_the_best():
    nothing = {"intersection_1": 0, "predicted_1": 0, "true_1": 0}
    rows = [case(number, 40 - number, 0.5) for number in range(6)] + [case(6, 0, 0.5) | nothing]
    assert "006" not in chosen(rows)["Best"] + chosen(rows)["Worst"]


def test_without_masks_cases_are_ranked_by_the_likelihood_of_their_label():
    rows = [case(number, 0, 0.5, pixels=0) for number in range(9)]
    found = chosen(rows)
    assert (found["Best"][0], found["Worst"][0]) == ("000", "008")


def test_without_a_vacuity_the_entropy_decides():
    rows = [{name: value for name, value in case(n, 40, 0.5).items() if name != "image_vacuity"} for n in range(6)]
    rows[4] |= {"probability_0": 0.49, "probability_1": 0.51}
    assert chosen(rows)["Most uncertain"][0] == "004"


def test_few_cases_and_cases_of_which_nothing_is_known():
    assert list(chosen([case(0, 40, 0.2), case(1, 20, 0.3)])) == ["Most uncertain"]
    assert len(chosen([case(n, 40, 0.2) for n in range(4)])["Best"]) == 1
    unknown = [{"key": "a", "label": -1, "pixels": 0, "map_entropy_mean": np.nan} for _ in range(3)]
    assert list(chosen(unknown)) == ["Most uncertain"]
    assert chosen([{"key": "a", "label": -1, "pixels": 0}]) == {}
    assert chosen([]) == {}
