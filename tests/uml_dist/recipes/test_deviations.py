"""Each deviation from the authors' network changes what it should, and the documentation lists it."""

from pathlib import Path

import pytest

from commands import load_script

ROOT = Path(__file__).parents[3]
deviations = load_script(ROOT / "launchers" / "bench" / "deviations.py")
WITHOUT_EFFECT = {
    "the head's 1x1 convolutions have biases",  # batch norm takes them away
    "last stages of the encoders are not built",
}


@pytest.fixture(scope="module")
def changes() -> dict[str, dict[str, float]]:
    return deviations.changes(width=1 / 16, size=32)


def test_what_is_said_to_change_outputs_does_and_the_rest_does_not(changes):
    largest = {name: max(row.values()) for name, row in changes.items()}
    assert {name for name, change in largest.items() if change < 1e-12} == WITHOUT_EFFECT
    assert min(change for name, change in largest.items() if name not in WITHOUT_EFFECT) > 1e-4


def test_the_head_s_deviations_leave_the_pixels_alone(changes):
    of_head = [row for name, row in changes.items() if "head" in name or "last map" in name]
    assert len(of_head) == 4
    assert all(row["pixel evidence"] == row["segmentation"] == 0 for row in of_head)


@pytest.mark.parametrize("name", deviations.DEVIATIONS)
def test_the_documentation_lists_it(name):
    rows = [line for line in (ROOT / "uml_dist" / "README.md").read_text().splitlines() if line.startswith("|")]
    subject = name.removeprefix("the ").split(" in the ")[0]
    assert any(subject in row for row in rows), subject
