"""Thresholds of lesions: chosen for the largest Dice, and followed by all that depends on predicted lesions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import manifest_of
from uml_dist.batch import Batch, Prediction
from uml_dist.metrics.cases import Cases
from uml_dist.metrics.families import Lesions, Surfaces
from uml_dist.metrics.histograms import lowest_score, score_histogram
from uml_dist.metrics.thresholds import Thresholds, best_thresholds

MANIFEST = manifest_of(mask_classes=(), mask_names=("drusen", "bleeding"), classes=(), labelled=0)


def cases_of(positive, score):
    """Cases of which both lesions have the same pixels."""
    positive, score = torch.tensor([positive]), torch.tensor([score], dtype=torch.float32)
    counts = score_histogram(score, positive, torch.ones_like(positive)).double().numpy()
    return Cases(sums={f"lesion_histogram_{number}": counts for number in (0, 1)})


def dice_at(threshold, positive, score):
    predicted = np.asarray(score, dtype=np.float32) >= np.float32(threshold)
    return 2 * (predicted & positive).sum() / (predicted.sum() + np.sum(positive))


# Scores in the middle of bins, so that rounding cannot move one over the end of a bin.
places = st.integers(0, 1022).map(lambda place: (lowest_score(place) + lowest_score(place + 1)) / 2)


@given(st.lists(st.tuples(st.booleans(), places), min_size=1, max_size=30).filter(lambda one: any(p for p, _ in one)))
@settings(max_examples=100, deadline=None)
def test_no_other_threshold_has_a_larger_dice(drawn):
    positive, score = (list(values) for values in zip(*drawn, strict=True))
    chosen = best_thresholds(cases_of(positive, score), MANIFEST)
    assert list(chosen) == ["drusen", "bleeding"]
    assert chosen["drusen"] == chosen["bleeding"]
    largest = max(dice_at(threshold, positive, score) for threshold in score)
    assert dice_at(chosen["drusen"], positive, score) == pytest.approx(largest)


def test_threshold_between_two_groups_of_scores_is_far_from_both():
    chosen = best_thresholds(cases_of([True, True, False], [0.9, 0.95, 0.1]), MANIFEST)
    assert chosen["drusen"] == pytest.approx(0.5, abs=0.02)


def test_a_lesion_without_a_pixel_has_no_threshold():
    assert best_thresholds(cases_of([False, False], [0.2, 0.8]), MANIFEST) == {}
    assert best_thresholds(Cases(), MANIFEST) == {}


def test_overlap_surfaces_and_predicted_lesions_follow_the_thresholds():
    probability = torch.tensor([[[[0.9, 0.4, 0.2]], [[0.9, 0.4, 0.2]]]])
    mask = torch.tensor([[[[1, 1, 0]], [[1, 1, 0]]]], dtype=torch.uint8)
    numbers = torch.zeros(1, dtype=torch.int64)
    batch = Batch(torch.zeros(1, 3, 1, 3), mask, numbers - 1, torch.ones(1), numbers, numbers, ("case",))
    found = {}
    for thresholds in (None, (0.3, 0.95)):
        prediction = Prediction(lesion_probability=probability, thresholds=thresholds)
        assert prediction.lesions is not None
        columns = {family: family.columns(batch, prediction, MANIFEST) for family in (Lesions(), Surfaces())}
        merged = {name: column for of in columns.values() for name, column in of.items()}
        areas = [int(merged[f"predicted_{number}"]) for number in (0, 1)]
        assert areas == prediction.lesions.flatten(2).sum(2)[0].tolist()
        failed = [bool(merged[f"surface_failed_{number}"]) for number in (0, 1)]
        found[thresholds] = areas, failed
    assert found == {None: ([1, 1], [False, False]), (0.3, 0.95): ([2, 0], [False, True])}


def test_a_line_states_the_thresholds_and_where_they_come_from():
    line = str(Thresholds({"drusen": 0.25, "bleeding": 0.5}, "val"))
    assert line == "drusen 0.2500, bleeding 0.5000: those of the largest Dice of all pixels of val together"
