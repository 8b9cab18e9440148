"""Tests of `resized`: float64 references, any ratio, memory layouts, dtypes, deterministic gradients."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional

from uml_kernels.operation import INTERPRETED
from uml_kernels.resizing import resized

SIZES = [
    ((4, 5), (8, 10)),
    ((3, 7), (24, 56)),
    ((16, 12), (2, 3)),
    ((9, 11), (5, 20)),
    ((1, 6), (5, 13)),
    ((6, 1), (1, 9)),
    ((5, 7), (1, 1)),
    ((1, 1), (4, 3)),
    ((7, 9), (7, 4)),
    ((8, 8), (9, 7)),
    ((2, 2), (40, 1)),
]


def draw(shape, device, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def reference(maps, size):
    return functional.interpolate(maps, size, mode="bilinear", align_corners=True)


def agree(actual, expected, relative=2e-6, absolute=3e-6):
    torch.testing.assert_close(actual.double(), expected.double(), rtol=relative, atol=absolute)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("source", "size"), SIZES)
def test_result_and_gradient_match_torch_in_float64(device, source, size, last):
    maps = draw((2, 3, *source), device)
    maps = (maps.contiguous(memory_format=torch.channels_last) if last else maps).requires_grad_()
    exact = maps.detach().double().requires_grad_()
    result, expected = resized(maps, size), reference(exact, size)
    agree(result, expected)
    if last and min(source) > 1:
        assert result.is_contiguous(memory_format=torch.channels_last)
    up = draw(result.shape, device, 1)
    (got,), (known,) = torch.autograd.grad(result, maps, up), torch.autograd.grad(expected, exact, up.double())
    agree(got, known, 1e-5, 2e-5)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 5, 33])
def test_any_number_of_channels_is_supported(device, channels, last):
    maps = draw((1, channels, 5, 6), device)
    maps = (maps.contiguous(memory_format=torch.channels_last) if last else maps).requires_grad_()
    exact = maps.detach().double().requires_grad_()
    result, expected = resized(maps, (9, 12)), reference(exact, (9, 12))
    agree(result, expected)
    up = draw(result.shape, device, 1).transpose(2, 3).contiguous().transpose(2, 3)
    (got,), (known,) = torch.autograd.grad(result, maps, up), torch.autograd.grad(expected, exact, up.double())
    agree(got, known, 1e-5)


def test_positions_in_long_maps_are_exact(device):
    maps = draw((1, 1, 2, 423), device).requires_grad_()
    exact = maps.detach().double().requires_grad_()
    result, expected = resized(maps, (3, 1023)), reference(exact, (3, 1023))
    # On the CPU, torch rounds positions to float32, an error of 1e-4 of a pixel
    agree(result, expected, 0, 5e-4 if not INTERPRETED and device.type == "cpu" else 2e-6)
    up = draw(result.shape, device, 1)
    (got,), (known,) = torch.autograd.grad(result, maps, up), torch.autograd.grad(expected, exact, up.double())
    agree(got, known, 0, 1e-3 if not INTERPRETED and device.type == "cpu" else 1e-5)


def test_maps_that_have_the_size_are_returned(device):
    maps = draw((2, 3, 4, 5), device)
    assert resized(maps, (4, 5)) is maps
    half = maps.bfloat16().requires_grad_()
    same = resized(half, (4, 5))
    assert torch.equal(same, half.float())
    assert torch.autograd.grad(same.sum(), half)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rounds_only_the_maps_and_their_gradient(device, dtype):
    half = draw((2, 2, 5, 7), device, 0, dtype).requires_grad_()
    full = half.detach().float().requires_grad_()
    result, known = resized(half, (10, 9)), resized(full, (10, 9))
    assert result.dtype == torch.float32
    assert torch.equal(result, known)
    up = draw(result.shape, device, 1)
    (got,), (expected,) = torch.autograd.grad(result, half, up), torch.autograd.grad(known, full, up)
    assert got.dtype == dtype
    agree(got, expected, torch.finfo(dtype).eps, 1e-6)


def test_strided_slices_are_supported(device):
    wide = draw((2, 6, 10, 14), device)
    agree(resized(wide[:, ::2, 1::2, ::3], (7, 3)), reference(wide[:, ::2, 1::2, ::3].double(), (7, 3)))
    turned = draw((2, 3, 8, 5), device).transpose(2, 3).requires_grad_()
    result = resized(turned, (4, 4))
    agree(result, reference(turned.double(), (4, 4)))
    (got,) = torch.autograd.grad(result.sum(), turned)
    (known,) = torch.autograd.grad(reference(turned.double(), (4, 4)).sum(), turned)
    agree(got, known, 1e-5)


def test_nan_spreads_only_to_outputs_that_read_it(device):
    maps = draw((1, 1, 5, 5), device)
    maps[0, 0, 2, 2] = torch.nan
    assert torch.equal(resized(maps, (9, 9)).isnan(), reference(maps, (9, 9)).isnan())


def test_runs_are_bitwise_equal_regardless_of_autocast(device):
    maps = draw((2, 3, 13, 17), device).requires_grad_()
    up = draw((2, 3, 29, 31), device, 1)
    runs = []
    for enabled in (False, False, True):
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            result = resized(maps, (29, 31))
        runs.append((result, *torch.autograd.grad(result, maps, up)))
    for again in runs[1:]:
        assert again[0].dtype == torch.float32
        assert all(torch.equal(a, b) for a, b in zip(again, runs[0], strict=True))


def test_zero_samples_give_an_empty_result(device):
    assert resized(torch.zeros(0, 3, 4, 5, device=device), (8, 8)).shape == (0, 3, 8, 8)


def test_invalid_maps_and_sizes_are_rejected(device):
    maps = torch.zeros(1, 2, 3, 4, device=device)
    with pytest.raises(ValueError, match=r"floating-point \(B, C, H, W\)"):
        resized(maps[0], (3, 3))
    with pytest.raises(ValueError, match=r"floating-point \(B, C, H, W\)"):
        resized(maps.long(), (3, 3))
    for size in ((0, 3), (3, 20000), (3,)):
        with pytest.raises(ValueError, match="1 to 16384"):
            resized(maps, size)


@pytest.mark.parametrize("last", [False, True])
def test_operators_pass_opcheck(device, last):
    from torch.library import opcheck

    maps = draw((2, 3, 4, 5), device)
    maps = maps.contiguous(memory_format=torch.channels_last) if last else maps
    opcheck(torch.ops.uml_kernels.resized.default, (maps.clone().requires_grad_(), 7, 3))
    opcheck(torch.ops.uml_kernels.resized_backward.default, (maps, 7, 3, torch.bfloat16))


def test_gradients_match_finite_differences(doubles):
    maps = torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    for size in ((5, 7), (2, 1)):
        assert gradcheck(lambda x, size=size: resized(x, size), maps)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter cannot be compiled")
def test_compiled_function_matches_eager(device):
    results = []
    for each in (resized, torch.compile(resized, fullgraph=True, backend="aot_eager")):
        maps = draw((2, 3, 5, 7), device).requires_grad_()
        result = each(maps, (9, 3))
        results.append((result.detach(), *torch.autograd.grad(result, maps, draw(result.shape, device, 1))))
    for got, expected in zip(*results, strict=True):
        assert torch.equal(got, expected)
