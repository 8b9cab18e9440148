"""Learning rate schedules."""

import pytest

from uml_dist.config.schema import OptimizerConfig
from uml_dist.train.optimizer import learning_rate

STEPS_PER_EPOCH = 50
PAPER = OptimizerConfig(lr=1e-4, schedule="poly", hold=0.3, power=0.9, floor=1e-5)


@pytest.mark.parametrize(
    ("epoch", "rate"),
    # Computed by the authors' formula: base 1e-4, 50 steps per epoch, 100 epochs.
    [(0, 1e-4), (29, 1e-4), (30, 9.997e-5), (31, 9.869e-5), (50, 7.385e-5), (80, 3.238e-5), (90, 1.735e-5), (95, 1e-5)],
)
def test_poly_is_the_schedule_of_the_paper(epoch, rate):
    assert learning_rate(PAPER, epoch * STEPS_PER_EPOCH, 100 * STEPS_PER_EPOCH) == pytest.approx(rate, rel=2e-4)


def test_every_schedule_stays_positive_and_at_most_the_base_rate():
    for schedule in ("constant", "poly", "cosine", "step"):
        for steps in (1, 2, 7):
            config = OptimizerConfig(lr=1e-3, schedule=schedule, warmup=2)
            rates = [learning_rate(config, step, steps) for step in range(steps)]
            assert all(0 < rate <= 1e-3 for rate in rates)


def test_cosine_falls_from_base_to_floor_and_warmup_rises_to_base():
    config = OptimizerConfig(lr=1.0, floor=0.1, schedule="cosine", warmup=4)
    rates = [learning_rate(config, step, 104) for step in range(105)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == pytest.approx(1.0)
    assert rates[54] == pytest.approx(0.55)
    assert rates[104] == pytest.approx(0.1)


def test_step_falls_by_its_factor_and_stops_at_the_floor():
    # UG-MCL: 0.01, a tenth after every 2500 of 6000 iterations.
    config = OptimizerConfig(lr=0.01, schedule="step", step_every=2500, step_factor=0.1)
    rates = [learning_rate(config, step, 6000) for step in (0, 2499, 2500, 4999, 5000, 5999)]
    assert rates == pytest.approx([0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4])
    assert learning_rate(config, 7500, 10000) == pytest.approx(1e-5)
    assert learning_rate(config, 10000, 20000) == pytest.approx(1e-5)
