"""Tests that need a GPU: no synchronisation, CUDA graphs, number of launches, and very large tensors."""

import pytest
import torch

from uml_kernels import (
    TermWeights,
    add_probability,
    combined_loss,
    consistency_sums,
    distance,
    evidential_loss,
    evidential_sums,
    gated,
    level_sums,
    opinion,
    passes_entropy,
    predictive_maps,
    resized,
    signed_distance,
)

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _on_gpu(device):
    if device.type != "cuda":
        pytest.skip("needs a GPU and UML_KERNELS_DEVICE=cuda")


def drawn(device):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 64, 64, generator=generator).to(device).requires_grad_()
    return logits, torch.randint(0, 3, (2, 64, 64), generator=generator, dtype=torch.uint8).to(device)


def everything(logits, target):
    """Combine all differentiable functions into a scalar."""
    formed, half = opinion(logits), resized(logits, (32, 32))
    sums, levels = evidential_sums(logits, target), level_sums([logits, half], target)
    parts = [evidential_loss(logits, target, 0.3, reduction=each).sum() for each in ("none", "mean", "sum")]
    parts += [sums.kl.sum(), sums.dice.intersection.sum(), levels.cross_entropy.sum(), levels.dice.predicted.sum()]
    parts.append(combined_loss(sums, levels, term_weights=[TermWeights(1.0, 1.0, 1.0)] * 3, kl_weight=0.3).loss)
    _, confident = passes_entropy(add_probability(torch.zeros_like(logits), logits), 1, 0.75)
    target_map, teacher = signed_distance(target).unsqueeze(1), torch.zeros_like(logits)
    parts += consistency_sums(logits, logits[:, 1:], teacher, teacher[:, 1:], confident, 8.0)
    parts.append((logits[:, :1] * target_map).mean() + distance(target).clamp(max=9).mean())
    return sum(each.sum() for each in parts) + gated(formed.evidence, formed.gate, logits).sum()


def test_functions_do_not_synchronise_with_the_gpu(device):
    logits, target = drawn(device)
    everything(logits, target).backward()  # compiles the kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        everything(logits, target).backward()
        predictive_maps(logits, classes=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_cuda_graph_captures_forward_and_backward(device):
    logits, target = drawn(device)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            logits.grad = None
            everything(logits, target).backward()
    torch.cuda.current_stream().wait_stream(stream)
    expected, logits.grad = logits.grad.clone(), None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        everything(logits, target).backward()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(logits.grad, expected)


@pytest.mark.parametrize("name", ["uml-paper", "uml-v2", "mutual", "loss"])
def test_an_objective_launches_at_most_ten_kernels(device, name):
    from torch.profiler import ProfilerActivity, profile

    from workloads import WORKLOADS, Setting, make_inputs

    workload, inputs = WORKLOADS[name], make_inputs(Setting(name, batch=2, side=64), device)

    def step():
        result = workload.ours(inputs)
        (result if isinstance(result, torch.Tensor) else result[0]).backward(inputs=inputs.maps)
        for each in inputs.maps:
            each.grad = None

    step()  # compiles the kernels
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        step()
        torch.cuda.synchronize()
    kernels = [event.name for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert 3 <= len(kernels) <= 10, kernels


def test_captured_objective_follows_a_kl_weight_tensor(device):
    logits, target = drawn(device)
    half, kl_weight = torch.randn(2, 3, 32, 32, device=device), torch.tensor(0.1, device=device)

    def loss():
        sums, levels = evidential_sums(logits, target), level_sums([logits, half], target)
        weights = [TermWeights(1.0, 1.0, 1.0), TermWeights(dice=0.5), TermWeights(dice=0.5)]
        return combined_loss(sums, levels, term_weights=weights, kl_weight=kl_weight).loss

    def step():
        logits.grad = None
        loss().backward()

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    logits.grad = None
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss().backward()
    for number in (0.3, 0.9):
        kl_weight.fill_(number)
        graph.replay()
        torch.cuda.synchronize()
        found = logits.grad.clone()
        (expected,) = torch.autograd.grad(loss(), logits)
        assert torch.equal(found, expected)


def test_more_than_two_billion_elements_are_supported(device):
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("needs 24 GiB of free memory")
    side = 1 << 15
    logits = torch.zeros(1, 3, side, side, dtype=torch.bfloat16, device=device)
    target = torch.zeros(1, side, side, dtype=torch.uint8, device=device)
    logits[0, :, -1, -1], target[0, -1, -1] = 3.0, 1
    last = evidential_loss(logits, target, 0.3, reduction="none")[0, -1, -1]
    alone = evidential_loss(logits[..., -1:, -1:], target[:, -1:, -1:], 0.3, reduction="none")[0, 0, 0]
    assert torch.equal(last, alone)
