"""The benchmark of collab's memory: what it counts, and that memory hardly grows by a lesion."""

import csv
from functools import partial

import pytest
import torch

import collab_memory
from collab_memory import FORMS, Setting, attention, measure, steps
from live_memory import LiveMemory


def test_tensors_count_once_until_they_are_freed():
    before = torch.zeros(1000)
    with LiveMemory() as memory:
        first = before + 1
        view = first[:10]
        del first
        assert memory.now == 4000
        second = view.double()
        assert memory.now == 4080
        del view
        assert memory.now == 80
        second.add_(1.0)
    assert (memory.now, memory.peak) == (80, 4080)


def test_activations_for_backward_are_held_until_backward():
    weight = torch.ones(100, requires_grad=True)
    with LiveMemory() as memory:
        loss = (weight * 2).exp().sum()
        held = memory.now
        loss.backward()
        assert held == 4 * 100 + 4  # the result of exp, and the loss
        del loss
        assert memory.now == 4 * 100  # the gradient


@pytest.mark.parametrize("form", FORMS)
def test_a_lesion_more_adds_no_feature_unless_lesions_go_together(form):
    """One feature of the size of the image has `width` channels."""
    found = []
    for lesions in (2, 3):
        setting = Setting(64, 8, lesions)
        found.append(measure(partial(attention, setting, 1, **FORMS[form]), setting))
    feature = 4 * 8 * 64 * 64
    for added in (found[1].held - found[0].held, found[1].peak - found[0].peak):
        assert (added > 4 * feature) if "together" in form else (added < feature)


def test_the_table_has_every_step(tmp_path, capsys):
    assert collab_memory.main(["--sizes", "32", "--width", "8", "--lesions", "2", "--out", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "collab_memory.csv").open(newline="")))
    expected = [(*step, "32") for step in steps(Setting(32, 8, 2))]
    assert [(row["stage"], row["form"], row["size"]) for row in rows] == expected
    assert all(int(row["peak_bytes"]) > 0 for row in rows)
    assert "MiB for each image, width 8, 2 lesions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--sizes", "40"], "error: --sizes must be multiples of 16, at least 32\n"),
        (["--width", "9"], "error: --width must be even and at least 8, and --lesions at least 1\n"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(arguments, line, capsys):
    assert collab_memory.main(arguments) == 2
    assert capsys.readouterr().err == line
