"""Operations are those of a hand count, kinds of steps are told apart, and no fault of the counter ends a training."""

from collections.abc import Iterable

import pytest
import torch
from prometheus_client import CollectorRegistry
from torch import nn

from uml_dist.telemetry import flops as flops_module
from uml_dist.telemetry.devices import Guarded
from uml_dist.telemetry.flops import MAX_KINDS, TRIES, FlopCollector
from uml_kernels import evidential_loss, opinion


def exported(flops: FlopCollector, name: str = "uml_flops_total") -> float | None:
    registry = CollectorRegistry()
    registry.register(Guarded(flops))
    return registry.get_sample_value(name)


def product(size: int) -> int:
    """Multiply matrices of 2 x size and size x 3, and return the number of operations."""
    torch.ones(2, size) @ torch.ones(size, 3)
    return 2 * 2 * size * 3


def step(flops: FlopCollector, shape: object, size: int, networks: Iterable[str] = ("student",)) -> int:
    flops.begin_step(shape)
    count = product(size)
    flops.end_step([*networks])
    return count


def test_operations_of_a_network_are_those_of_a_hand_count():
    first, second, last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), nn.Linear(400, 5)
    network = nn.Sequential(first, nn.ReLU(), second, nn.Flatten(), last)
    flops = FlopCollector()
    flops.begin_step("shape")
    network(torch.ones(2, 3, 10, 10)).sum().backward()
    flops.end_step(["network"])
    # Multiplications and additions of 2 images of 10 x 10: 27 inputs for each of 8 outputs, and so on. Backward takes
    # as many for the gradient of the weights, and as many for that of the input, which the first layer does not need.
    layers = [2 * 2 * 100 * 27 * 8, 2 * 2 * 100 * 8 * 4, 2 * 2 * 400 * 5]
    assert exported(flops) == 2 * layers[0] + 3 * sum(layers[1:])


def test_operators_of_uml_kernels_are_not_counted():
    """On a GPU they are Triton kernels, which the counter cannot see; the CPU's must not count either."""
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    target = torch.zeros(2, 8, 8, dtype=torch.uint8)
    flops = FlopCollector()
    flops.begin_step("shape")
    evidential_loss(logits, target, 0.1).backward()
    opinion(logits.detach())
    count = product(5)
    flops.end_step(["network"])
    assert exported(flops) == count


def test_steps_of_a_kind_are_counted_once_and_added_each_time(monkeypatch):
    flops = FlopCollector()
    assert exported(flops) is None
    first = step(flops, "one", 10)
    monkeypatch.setattr(flops_module, "_make_counter", None)
    step(flops, "one", 1)
    step(flops, "one", 1)
    assert exported(flops) == 3 * first


def test_each_phase_and_shape_is_counted():
    flops = FlopCollector()
    steps = (("one", 4), ("two", 5), ("one", 4), ("two", 5), ("three", 6))
    counts = [step(flops, shape, size) for shape, size in steps]
    assert exported(flops) == sum(counts)


def test_networks_that_take_turns_are_told_apart():
    """Steps of a kind that was not seen before are added once one of the kind is counted."""
    flops = FlopCollector()
    turns = [("student", 4), ("critic", 7), ("student", 4), ("critic", 7), ("critic", 7), ("student", 4)]
    counts = [step(flops, "shape", size, [network]) for network, size in turns]
    assert exported(flops) == sum(counts)


def test_a_kind_that_does_not_return_is_not_waited_for_forever():
    flops = FlopCollector()
    modes = []
    for number in range(40):
        flops.begin_step("shape")
        modes.append(torch._C._len_torch_dispatch_stack())
        product(3)
        flops.end_step(["critic"] if number == 2 else ["student"])
    assert sum(modes) == 1 + TRIES
    assert torch._C._len_torch_dispatch_stack() == 0


def test_operation_that_cannot_be_counted_is_one_warning_and_no_metric(monkeypatch, caplog):
    from torch.utils import flop_counter

    def broken(*_: object, **__: object) -> int:
        raise ValueError("an unknown argument")

    monkeypatch.setitem(flop_counter.flop_registry, torch.ops.aten.mm, broken)
    flops = FlopCollector(peak=1e12)
    for shape in ("one", "one", "two"):
        step(flops, shape, 4)
        flops.end_window(1.0)
    assert exported(flops) is None
    assert exported(flops, "uml_mfu_ratio") is None
    (entry,) = caplog.records
    assert "an unknown argument" in entry.getMessage()


def test_counter_that_cannot_be_made_is_one_warning(monkeypatch, caplog):
    monkeypatch.setattr(flops_module, "_make_counter", None)
    flops = FlopCollector()
    step(flops, "one", 4)
    step(flops, "two", 4)
    assert exported(flops) is None
    assert len(caplog.records) == 1


def test_endless_kinds_of_steps_are_not_counted(caplog):
    flops = FlopCollector()
    for number in range(MAX_KINDS + 5):
        step(flops, number, 4)
    assert exported(flops) is None
    assert len(caplog.records) == 1


def test_utilisation_is_of_the_steps_since_the_last_window():
    flops = FlopCollector(peak=1000.0)
    count = step(flops, "shape", 10)
    flops.end_window(0.5)
    assert exported(flops, "uml_mfu_ratio") == count / 500
    for _ in range(3):
        step(flops, "shape", 10)
    flops.end_window(2.0)
    assert exported(flops, "uml_mfu_ratio") == 3 * count / 2000
    assert exported(flops, "uml_peak_flops_per_second") == 1000.0


@pytest.mark.parametrize(("peak", "seconds"), [(None, 1.0), (1e12, 0.0)])
def test_utilisation_is_absent_without_a_peak_or_time(peak, seconds):
    flops = FlopCollector(peak)
    step(flops, "shape", 10)
    flops.end_window(seconds)
    assert exported(flops, "uml_mfu_ratio") is None
    assert exported(flops) is not None
    assert exported(flops, "uml_peak_flops_per_second") == peak
