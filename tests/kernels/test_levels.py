"""Tests of `level_sums` against interpolation, softmax and one-hot products in float64."""

from typing import NamedTuple

import pytest
import torch
from torch.nn import functional

from eager_losses import eager_dice, shares
from uml_kernels import DiceSums, level_sums
from uml_kernels.operation import INTERPRETED

# Sizes of the levels, size of the target, and the size to which levels are interpolated.
CASES = {
    "one, two and eight times": ([(16, 16), (8, 8), (4, 4), (2, 2)], (16, 16), None),
    "eight times exactly": ([(3, 4)], (24, 32), None),
    "odd": ([(21, 1), (3, 7), (11, 5)], (23, 19), None),
    "one point": ([(1, 1), (1, 5), (6, 1)], (9, 13), None),
    "one pixel": ([(1, 1), (3, 4)], (1, 1), None),
    "cropped": ([(11, 13), (4, 4), (2, 5)], (11, 13), (16, 16)),
    "fifteen to one": ([(2, 2), (2, 16)], (16, 16), None),
    "level larger than its target": ([(12, 9), (7, 20)], (5, 8), None),
    "a narrow strip": ([(1, 106), (1, 7)], (1, 423), None),
    "more than a block": ([(2, 33)], (3, 150), (9, 262)),
}


def example(sizes, shape, classes=3, batch=2, dtype=torch.float32, device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    levels = [torch.randn(batch, classes, *size, generator=generator) * 2 for size in sizes]
    target = torch.randint(0, classes, (batch, *shape), generator=generator, dtype=torch.uint8)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    return [level.to(device, dtype) for level in levels], target.to(device)


def eager(levels, target, size=None, ignore_index=255):
    """Compute count (B,), cross-entropy (levels, B) and Dice sums (levels, 3, B, C) by torch operations."""
    height, width = target.shape[1:]
    classes, counted = levels[0].shape[1], target != ignore_index
    hot = shares(target, classes).to(levels[0].dtype)
    cross_entropies, dice = [], []
    for level in levels:
        if level.shape[2:] != target.shape[1:]:
            level = functional.interpolate(level, size or (height, width), mode="bilinear", align_corners=True)
            level = level[:, :, :height, :width]
        losses = -(level.log_softmax(1) * hot * counted.unsqueeze(1)).sum(1)
        cross_entropies.append(losses.sum((1, 2)))
        dice.append(eager_dice(level.softmax(1), hot, counted))
    return counted.sum((1, 2)), torch.stack(cross_entropies), torch.stack(dice)


class Parts(NamedTuple):
    """The sums of levels as plain tensors, which can be unpacked and compared."""

    count: torch.Tensor
    cross_entropy: torch.Tensor
    dice: DiceSums


def parts_of(levels, target, **options):
    sums = level_sums(levels, target, **options)
    return Parts(sums.count, sums.cross_entropy, sums.dice)


def weighted(sums, seed=1):
    """Combine all sums with random weights into a scalar."""
    count, cross_entropy, (intersection, predicted, own) = sums
    generator = torch.Generator().manual_seed(seed)
    total = 0
    for part in (cross_entropy, intersection, predicted):
        total = total + (part * torch.randn(part.shape, generator=generator).to(part)).sum()
    return total + 0 * (count.sum() + own.sum())


def results(levels, target, **options):
    """Return the sums and the gradients of the levels."""
    levels = [level.detach().requires_grad_() for level in levels]
    sums = parts_of(levels, target, **options)
    return sums, torch.autograd.grad(weighted(sums), levels)


def reference(levels, target, size=None):
    levels = [level.detach().double().requires_grad_() for level in levels]
    count, cross_entropy, dice = eager(levels, target, size)
    sums = (count, cross_entropy, dice.unbind(1))
    return sums, torch.autograd.grad(weighted(sums), levels)


def assert_near(got, want, bound=1e-5):
    assert got.shape == want.shape
    assert (got.double() - want.double()).abs().max() <= bound * max(float(want.detach().abs().max()), 1e-30)


def assert_all_near(got, want, bound=1e-5, gradient_bound=1e-5):
    sums, gradients = got
    expected, expected_gradients = want
    assert torch.equal(sums.count.double(), expected[0].double())
    assert_near(sums.cross_entropy, expected[1], bound)
    for part, expected_part in zip(sums.dice, expected[2], strict=True):
        assert_near(part, expected_part, bound)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        assert_near(gradient, expected_gradient, gradient_bound)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("number", [torch.uint8, torch.int64])
def test_sums_and_gradients_match_torch_operations(device, case, number):
    sizes, shape, size = CASES[case]
    levels, target = example(sizes, shape, device=device)
    got = results(levels, target.to(number), size=size)
    assert got[0].cross_entropy.dtype == torch.float32
    assert_all_near(got, reference(levels, target, size))


@pytest.mark.parametrize("classes", [2, 5, 16])
def test_any_number_of_classes_is_supported(device, classes):
    levels, target = example([(9, 10), (5, 3)], (9, 10), classes, 1, device=device)
    assert_all_near(results(levels, target), reference(levels, target))


def test_map_of_several_blocks(device):
    levels, target = example([(33, 65), (9, 17), (5, 3)], (33, 65), 2, 1, device=device)
    assert_all_near(results(levels, target), reference(levels, target))


@pytest.mark.parametrize("size", [(7, 7), (14, 15)])
def test_memory_layout_does_not_change_results(device, size):
    levels, target = example([size, (4, 5), (1, 1)], (14, 15), device=device)
    sums, gradients = results(levels, target)
    last = [level.contiguous(memory_format=torch.channels_last) for level in levels]
    wide = [torch.stack([level, level * 7], -1)[..., 0] for level in levels]
    turned = [level.transpose(2, 3).contiguous().transpose(2, 3) for level in levels]
    repeated = torch.stack([target, target], -1)[..., 0]
    for others in (last, wide, turned):
        other_sums, other_gradients = results(others, repeated)
        torch.testing.assert_close(other_sums, sums)
        for other, gradient in zip(other_gradients, gradients, strict=True):
            torch.testing.assert_close(other, gradient)
    assert results(last, target)[1][0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(device, dtype):
    levels, target = example([(12, 12), (5, 4)], (12, 12), device=device)
    rounded = [level.to(dtype) for level in levels]
    sums, gradients = results(rounded, target)
    exact, exact_gradients = results([level.float() for level in rounded], target)
    torch.testing.assert_close(sums, exact, rtol=1e-6, atol=1e-6)
    for gradient, expected in zip(gradients, exact_gradients, strict=True):
        assert gradient.dtype == dtype
        assert_near(gradient.float(), expected, 2 * torch.finfo(dtype).eps)


def test_two_runs_are_bitwise_equal(device):
    levels, target = example([(16, 16), (8, 8), (3, 3)], (16, 16), device=device)
    (first, gradients), (second, same) = results(levels, target), results(levels, target)
    assert torch.equal(first.cross_entropy, second.cross_entropy)
    assert all(torch.equal(a, b) for a, b in zip(first.dice, second.dice, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(gradients, same, strict=True))


def test_ignored_pixels_have_no_effect_whatever_their_logits(device):
    levels, target = example([(9, 9)], (9, 9), device=device)
    sums, (gradient,) = results(levels, target)
    ignored = (target == 255).unsqueeze(1).expand_as(levels[0])
    assert ignored.any()
    other, (same,) = results([levels[0].masked_fill(ignored, torch.nan)], target)
    torch.testing.assert_close(other, sums)
    torch.testing.assert_close(same, gradient)
    assert (same[ignored] == 0).all()


def test_all_pixels_ignored_gives_zeros(device):
    levels, target = example([(6, 6), (3, 3)], (6, 6), device=device)
    levels[0][0, 0, 0, 0] = torch.nan
    sums, gradients = results(levels, torch.full_like(target, 255))
    assert all((part == 0).all() for part in (sums.count, sums.cross_entropy, *sums.dice))
    assert all((gradient == 0).all() for gradient in gradients)


def test_nan_affects_only_pixels_interpolated_from_it(device):
    levels, target = example([(5, 5)], (17, 17), device=device)
    levels[0][:, :, 4, 4] = torch.nan
    around = torch.zeros_like(target, dtype=torch.bool)
    around[:, 12:, 12:] = True
    assert results(levels, target)[0].cross_entropy.isnan().all()
    sums, (gradient,) = results(levels, target.masked_fill(around, 255))
    assert not sums.cross_entropy.isnan().any()
    assert not gradient.isnan().any()
    assert (gradient[:, :, 4, 4] == 0).all()


@pytest.mark.parametrize("number", [3, 254])
def test_invalid_class_index_makes_only_its_sample_nan(device, number):
    levels, target = example([(8, 8), (4, 4)], (8, 8), device=device)
    sums, _ = results(levels, target)
    target[1, 2, 3] = number
    marked, gradients = results(levels, target)
    assert marked.count[1].isnan()
    for part, expected in zip((marked.cross_entropy, *marked.dice), (sums.cross_entropy, *sums.dice), strict=True):
        assert part[:, 1].isnan().all()
        assert torch.equal(part[:, 0], expected[:, 0])
    assert all(gradient[1].isnan().any() and not gradient[0].isnan().any() for gradient in gradients)


def test_negative_targets_and_another_ignore_index(device):
    levels, target = example([(8, 8), (4, 4)], (8, 8), device=device)
    negative = target.long().masked_fill(target == 255, -100)
    got, expected = results(levels, negative, ignore_index=-100), results(levels, target)
    torch.testing.assert_close(got[0], expected[0])
    for number in (-1, 2**32 + 1):
        negative[0, 0, 0] = number
        assert parts_of(levels, negative, ignore_index=-100).count.isnan().tolist() == [True, False]
    target[target == 255] = 0
    some = results(levels, target, ignore_index=0)
    assert_all_near(some, results(levels, target.masked_fill(target == 0, 255)))


def test_extreme_logits_are_exact(device):
    levels, _ = example([(4, 4)], (4, 4), 2, 1, device=device)
    levels[0][:] = 0
    levels[0][:, 1] = 80
    sums = parts_of(levels, torch.zeros(1, 4, 4, dtype=torch.uint8, device=device))
    torch.testing.assert_close(sums.cross_entropy, torch.full((1, 1), 80.0 * 16, device=device))
    levels[0][:, 0] = -torch.inf
    sums = parts_of(levels, torch.ones(1, 4, 4, dtype=torch.uint8, device=device))
    assert sums.cross_entropy.tolist() == [[0]]
    assert sums.dice.intersection.tolist() == [[[0, 16]]]


def test_zero_samples(device):
    levels, target = example([(4, 4), (2, 2)], (4, 4), batch=0, device=device)
    sums, gradients = results(levels, target)
    assert sums.dice.predicted.shape == (2, 0, 3)
    assert gradients[1].shape == (0, 3, 2, 2)


def test_autocast_does_not_change_results(device):
    levels, target = example([(8, 8), (4, 4)], (8, 8), device=device)
    expected = parts_of(levels, target)
    with torch.autocast(device.type, torch.bfloat16):
        got = parts_of(levels, target)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("classes", [2, 3])
def test_float64_gradients_match_finite_differences(doubles, classes):
    levels, target = example([(6, 5), (3, 3), (1, 2)], (6, 5), classes, 1, torch.float64)
    levels = [level.requires_grad_() for level in levels]
    _, cross_entropy, dice = parts_of(levels, target, size=(8, 9))
    assert cross_entropy.dtype == torch.float64
    assert_near(cross_entropy.detach(), eager(levels, target, (8, 9))[1].detach(), 1e-13)

    def function(*levels):
        sums = parts_of(levels, target, size=(8, 9))
        return sums.cross_entropy, sums.dice.intersection, sums.dice.predicted

    assert torch.autograd.gradcheck(function, levels)
    assert dice.target.grad_fn is None


@pytest.mark.parametrize("count", [1, 3])
def test_operators_pass_opcheck(device, count):
    levels, target = example([(6, 5), (3, 3), (2, 2)][:count], (6, 5), batch=1, device=device)
    levels[0] = levels[0].contiguous(memory_format=torch.channels_last)
    padded = [*(level.requires_grad_() for level in levels), *[None] * (4 - count)]
    arguments = (*padded, target, 6, 5, 255)
    torch.library.opcheck(torch.ops.uml_kernels.level_sums.default, arguments)
    upstream = torch.randn(count, 1, 11, device=device)
    torch.library.opcheck(
        torch.ops.uml_kernels.level_sums_backward.default,
        (upstream, *(None if x is None else x.detach() for x in padded), *arguments[4:]),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.skipif(INTERPRETED, reason="the interpreter cannot be traced")
def test_compiled_function_matches_eager(device):
    levels, target = example([(8, 8), (4, 4)], (8, 8), device=device)

    def loss(*levels):
        _, cross_entropy, (intersection, predicted, _) = parts_of([level * 2 for level in levels], target)
        return cross_entropy.square().sum() + (intersection * predicted).sum()

    found = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaves = [level.clone().requires_grad_() for level in levels]
        value = function(*leaves)
        found.append((value.detach(), *torch.autograd.grad(value, leaves)))
    torch.testing.assert_close(found[1], found[0])


INVALID = {
    "no levels": (lambda levels, target: ([], target), "0 levels; level_sums takes 1 to 4"),
    "too many": (lambda levels, target: (levels * 3, target), "6 levels"),
    "rank": (lambda levels, target: ([levels[0][0]], target), "level 0 of shape .* is not"),
    "classes": (lambda levels, target: ([levels[0], levels[1][:, :2]], target), "level 1 .* differs from level 0"),
    "one class": (lambda levels, target: ([levels[0][:, :1]], target), "1 classes; level_sums takes 2 to 16"),
    "integers": (lambda levels, target: ([levels[0].long()], target), "level 0 has dtype"),
    "mixed": (lambda levels, target: ([levels[0], levels[1].bfloat16()], target), "level 1 has dtype"),
    "samples": (lambda levels, target: (levels, target[:1]), "target of shape .* is not"),
    "target rank": (lambda levels, target: (levels, target.unsqueeze(1)), "target of shape .* is not"),
    "target dtype": (lambda levels, target: (levels, target.float()), "target has dtype torch.float32"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_input_is_named_in_the_error(device, case):
    change, message = INVALID[case]
    with pytest.raises(ValueError, match=message):
        parts_of(*change(*example([(4, 4), (2, 2)], (4, 4), device=device)))


def test_size_smaller_than_the_target_is_rejected(device):
    levels, target = example([(4, 4)], (4, 4), device=device)
    with pytest.raises(ValueError, match="is smaller than the target"):
        parts_of(levels, target, size=(4, 3))
    with pytest.raises(ValueError, match="side over 16384"):
        parts_of(levels, target, size=(4, 20000))
