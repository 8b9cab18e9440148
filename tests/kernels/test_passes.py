"""Tests of the statistics of stochastic passes: float64 references, changes in place, probabilities of 0, the limit."""

import math

import pytest
import torch
from torch.library import opcheck

from uml_kernels import add_probability, passes_entropy
from uml_kernels.operation import INTERPRETED

SHAPES = [(2, 2, 7), (1, 3, 423), (3, 5, 9, 4), (2, 2, 3, 4, 5), (1, 16, 35), (4, 3)]


def drawn(shape, device, seed=0, dtype=torch.float32):
    return (3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(device, dtype)


def reference(logits):
    """Return mean probability and normalised entropy of all passes in float64."""
    probability = torch.stack([each.double().softmax(1) for each in logits]).mean(0)
    return probability, -torch.special.xlogy(probability, probability).sum(1) / math.log(probability.shape[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_mean_entropy_and_mask_match_float64(device, shape, dtype):
    passes = [drawn(shape, device, seed, dtype) for seed in range(5)]
    total = torch.zeros(shape, device=device)
    for logits in passes:
        assert add_probability(total, logits) is total
    probability, expected = reference(passes)
    torch.testing.assert_close(total.double() / 5, probability, rtol=0, atol=3e-7)
    entropy, mask = passes_entropy(total, 5, 0.4)
    assert (entropy.dtype, mask.dtype, entropy.shape) == (torch.float32, torch.bool, (shape[0], *shape[2:]))
    torch.testing.assert_close(entropy.double(), expected, rtol=0, atol=1e-6)
    certain = (expected - 0.4).abs() > 1e-6
    assert torch.equal(mask[certain], expected[certain] < 0.4)


def test_entropy_is_at_most_1_and_two_equal_probabilities_give_exactly_1(device):
    for classes in range(2, 17):
        entropy, mask = passes_entropy(torch.full((1, classes, 5), 8 / classes, device=device), 8, 1.0)
        assert (entropy <= 1).all()
        torch.testing.assert_close(entropy, torch.ones_like(entropy), rtol=0, atol=1e-6)
        if classes == 2:
            assert (entropy == 1).all()
            assert not mask.any()  # the limit itself is not below the limit


def test_classes_without_probability_do_not_change_the_entropy(device):
    for nothing in (0.0, 1e-45, 1e-39):
        total = torch.tensor([[4.0, 8.0], [4.0, nothing], [nothing, nothing]], device=device).unsqueeze(0)
        entropy, _ = passes_entropy(total, 8, 1.0)
        torch.testing.assert_close(entropy.cpu(), torch.tensor([[math.log(2) / math.log(3), 0.0]]), rtol=0, atol=1e-6)
        assert entropy[0, 1] == 0


def test_limit_is_strict_and_may_be_a_tensor(device):
    total = torch.tensor([[0.5, 0.9], [0.5, 0.1]], device=device).unsqueeze(0)
    for limit, expected in ((1.0, [False, True]), (0.4, [False, False]), (1.1, [True, True])):
        for given in (limit, torch.tensor(limit, device=device), torch.tensor(limit, dtype=torch.float64)):
            assert passes_entropy(total, 1, given)[1].tolist() == [expected]


def test_nan_makes_only_its_pixel_nan_and_excludes_it(device):
    logits = drawn((1, 3, 5), device)
    logits[0, 1, 2] = torch.nan
    entropy, mask = passes_entropy(add_probability(torch.zeros(1, 3, 5, device=device), logits), 1, 2.0)
    assert entropy.isnan().tolist() == mask.logical_not().tolist() == [[False, False, True, False, False]]


def test_total_is_updated_in_any_dense_layout(device):
    logits = drawn((2, 3, 4, 5), device)
    first = add_probability(torch.zeros(2, 3, 4, 5, device=device), logits)
    last = torch.zeros(2, 3, 4, 5, device=device).contiguous(memory_format=torch.channels_last)
    add_probability(last, logits.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(last, first)
    wide = torch.zeros(2, 6, 4, 5, device=device)
    add_probability(wide[:, ::2], logits)
    torch.testing.assert_close(wide[:, ::2], first)
    assert (wide[:, 1::2] == 0).all()


def test_results_have_no_gradient_and_changes_of_the_total_are_recorded(device):
    logits, total = drawn((2, 3, 5), device).requires_grad_(), torch.zeros(2, 3, 5, device=device)
    before = total._version
    leaf = torch.ones(2, 3, 5, device=device, requires_grad=True)
    product = leaf * total
    assert not add_probability(total, logits).requires_grad
    assert total._version > before
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_totals_in_float64_stay_in_float64(doubles):
    logits = torch.randn(2, 3, 5, dtype=torch.float64)
    entropy, _ = passes_entropy(add_probability(torch.zeros_like(logits), logits), 1, 0.5)
    torch.testing.assert_close(entropy, reference([logits])[1], rtol=1e-12, atol=1e-12)


def test_wrong_arguments_are_rejected(device):
    total, logits = torch.zeros(2, 3, 4, 5, device=device), torch.zeros(2, 3, 4, 5, device=device)
    wrong = {
        "total has shape": (total[:1], logits),
        "total has dtype torch.bfloat16": (total.bfloat16(), logits),
        "total is on meta": (total.to("meta"), logits),
        "total requires a gradient": (total.clone().requires_grad_(), logits),
        "allocate it with torch.zeros": (total.transpose(2, 3).contiguous().transpose(2, 3), logits),
        "have 1 classes": (total[:, :1], logits[:, :1]),
    }
    for message, arguments in wrong.items():
        with pytest.raises(ValueError, match=message) as error:
            add_probability(*arguments)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="passes is 0; it must be at least 1"):
        passes_entropy(total, 0, 0.5)
    with pytest.raises(ValueError, match="limit has shape"):
        passes_entropy(total, 1, torch.ones(2, device=device))


def test_operators_pass_opcheck(device):
    library, total = torch.ops.uml_kernels, torch.rand(2, 3, 5, device=device)
    opcheck(library.add_probability.default, (total, drawn((2, 3, 5), device, dtype=torch.bfloat16)))
    opcheck(library.passes_entropy.default, (total, torch.tensor(0.5, device=device), 0.25))


def statistics(logits):
    total = torch.zeros_like(logits)
    for factor in (1.0, 2.0):
        add_probability(total, logits * factor)
    return passes_entropy(total, 2, 0.5)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter cannot be compiled")
def test_compiled_loop_over_passes_matches_eager(device):
    logits = drawn((2, 3, 4, 5), device)
    compiled = torch.compile(statistics, fullgraph=True, backend="aot_eager")(logits)
    for got, expected in zip(compiled, statistics(logits), strict=True):
        torch.testing.assert_close(got, expected)


def test_vmap_over_a_change_in_place_raises_a_one_line_error(device):
    with pytest.raises(NotImplementedError, match=r"^uml_kernels.add_probability changes its first argument.*$"):
        torch.vmap(statistics)(drawn((2, 1, 3, 5), device))
