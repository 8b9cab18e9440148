"""The length of the demo's training run on machines of any speed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import demo_length
from demo_length import LENGTHS, PARTS, PICTURE, TOTAL, Speed, choose, describe, measured_quality, speed_of

SECONDS = st.floats(0.0, 100.0)


def test_fast_machine_trains_all_steps_with_three_validations():
    length = choose(Speed(launch=10.0, step=0.1, validation=3.0), spent=20.0)
    assert (length.steps, length.every) == (900, 300)
    assert length.picture == 20.0 + 10.0 + 30.0
    assert length.total == 20.0 + 10.0 + 90.0 + 2 * 3.0 + 10.0


def test_slow_machine_trains_fewer_steps_and_validates_earlier():
    length = choose(Speed(launch=25.0, step=1.0, validation=8.0), spent=40.0)
    assert (length.steps, length.every) == (300, 60)


@given(SECONDS, SECONDS, SECONDS, SECONDS)
def test_demo_ends_in_time_or_uses_the_shortest_length(launch, step, validation, spent):
    speed = Speed(launch, step, validation)
    length = choose(speed, spent)
    assert length.steps in LENGTHS
    assert length.steps % length.every == 0
    assert length.total <= TOTAL or length.steps == LENGTHS[-1]
    assert length.picture <= PICTURE or length.every == length.steps // PARTS[-1]
    longer = [steps for steps in LENGTHS if steps > length.steps]
    assert all(spent + speed.until_end(steps, steps // PARTS[-1]) > TOTAL for steps in longer)


def test_speed_is_measured_in_the_last_steps_and_the_rest_is_the_launch(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    records = [
        {"phase": "train", "images_per_second": 3.0}, {"phase": "train", "images_per_second": 32.0}, {"step": 12},
    ]  # fmt: skip
    metrics.write_text("".join(json.dumps(record) + "\n" for record in records))
    speed = speed_of(metrics, 21.0, steps=12, batch=16, images=480)
    assert speed == Speed(launch=21.0 - 12 * 0.5, step=0.5, validation=480 / 96 + 3.0)


def test_every_length_is_measured_with_three_seeds():
    measured = measured_quality()
    assert set(LENGTHS) <= measured.keys()
    for steps in LENGTHS:
        assert {len(measured[steps][name]) for name in demo_length.SHOWN} == {3}


@pytest.mark.parametrize(("step", "lines"), [(0.1, 2), (9.0, 3)])
def test_chosen_length_is_announced_with_its_expected_results(step, lines):
    speed = Speed(20.0, step, 5.0)
    announcement = list(describe(choose(speed), speed, batch=16))
    assert len(announcement) == lines
    steps = 900 if step < 1 else LENGTHS[-1]
    dice = measured_quality()[steps]["dice"]
    assert announcement[0].startswith(f"{16 / step:.0f} images/s: training for {steps} steps; ")
    assert f"Dice {sum(dice) / 3:.3f} ({min(dice):.3f} to {max(dice):.3f})" in announcement[1]
