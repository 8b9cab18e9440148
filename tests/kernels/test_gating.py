"""Tests of `gated`: float64 references, memory layouts, mixed dtypes, gradients of all three operands."""

import pytest
import torch
from torch.autograd import gradcheck

from uml_kernels.gating import gated
from uml_kernels.operation import INTERPRETED


def draw(shape, device, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def operands(shape, device, added=True, dtype=torch.float32, addend_dtype=torch.float32):
    feature = draw(shape, device, 0, dtype).requires_grad_()
    gate = torch.exp(-draw((shape[0], *shape[2:]), device, 1).sigmoid()).requires_grad_()
    addend = draw(shape, device, 2, addend_dtype).requires_grad_() if added else None
    return feature, gate, addend


def gradients(result, leaves, up):
    return torch.autograd.grad(result, [each for each in leaves if each is not None], up.to(result.dtype))


def reference(feature, gate, addend):
    """Return the result of torch's own operations in float64, and its leaves."""
    leaves = [None if each is None else each.detach().double().requires_grad_() for each in (feature, gate, addend)]
    total = leaves[0] if addend is None else leaves[0] + leaves[2]
    return total * leaves[1].unsqueeze(1), leaves


def agree(actual, expected, relative=1e-6, absolute=1e-6):
    torch.testing.assert_close(actual.double(), expected, rtol=relative, atol=absolute)


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize(
    "shape", [(2, 2, 7), (1, 3, 423), (3, 5, 9, 4), (2, 70, 5, 5), (1, 300, 35), (2, 2048, 3), (4, 6)]
)
def test_result_and_gradients_match_float64_torch_operations(device, shape, added):
    leaves = operands(shape, device, added)
    result, (expected, exact) = gated(*leaves), reference(*leaves)
    agree(result, expected)
    up = draw(shape, device, 3)
    for got, known in zip(gradients(result, leaves, up), gradients(expected, exact, up), strict=True):
        agree(got, known, 1e-6, 2e-5)


@pytest.mark.parametrize("channels", [3, 16, 130])
def test_memory_layout_does_not_change_values(device, channels):
    shape = (2, channels, 5, 13)
    leaves = operands(shape, device)
    up = draw(shape, device, 3)
    known = gated(*leaves)
    slopes = gradients(known, leaves, up)
    for feature_last, addend_last, up_last in ((1, 1, 1), (1, 0, 0), (0, 1, 1)):
        laid = [
            each.detach().contiguous(memory_format=torch.channels_last) if last else each.detach()
            for each, last in zip((leaves[0], leaves[2], up), (feature_last, addend_last, up_last), strict=True)
        ]
        gate = leaves[1].detach().transpose(1, 2).contiguous().transpose(1, 2)
        feature, gate, addend = (each.requires_grad_() for each in (laid[0], gate, laid[1]))
        result = gated(feature, gate, addend)
        assert result.stride() == feature.stride()
        assert torch.equal(result, known)
        for got, expected in zip(gradients(result, (feature, gate, addend), laid[2]), slopes, strict=True):
            agree(got, expected.double(), 1e-6, 2e-5)


def test_slices_and_expanded_cotangents_are_supported(device):
    wide = draw((2, 3, 4, 10), device).requires_grad_()
    gate = draw((2, 4, 5), device, 1)
    result = gated(wide[..., ::2], gate)
    expected = wide[..., ::2] * gate.unsqueeze(1)
    assert torch.equal(result, expected)
    (got,) = torch.autograd.grad(result.sum(), wide)
    (known,) = torch.autograd.grad(expected.sum(), wide)
    assert torch.equal(got, known)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_operands_keep_their_dtypes_and_are_added_in_float32(device, dtype):
    shape = (2, 3, 65)
    leaves = operands(shape, device, dtype=dtype)
    full = [each.detach().float().requires_grad_() for each in leaves]
    result, known = gated(*leaves), gated(*full)
    assert result.dtype == dtype
    eps = torch.finfo(dtype).eps
    agree(result, known.double(), eps, 1e-6)
    up = draw(shape, device, 3, dtype)
    slopes = gradients(result, leaves, up)
    assert [each.dtype for each in slopes] == [dtype, torch.float32, torch.float32]
    expected = gradients(known, full, up)
    agree(slopes[0], expected[0].double(), eps, 1e-6)
    assert torch.equal(slopes[1], expected[1])
    assert torch.equal(slopes[2], expected[2])


def test_operands_without_gradient_get_none(device):
    feature, gate, addend = operands((2, 3, 17), device, dtype=torch.bfloat16)
    feature, addend = feature.detach(), addend.detach()
    (got,) = torch.autograd.grad(gated(feature, gate, addend).sum(), gate)
    agree(got, (feature.double() + addend.double()).sum(1), 1e-5)


def test_nan_does_not_spread(device):
    feature, gate, addend = operands((2, 3, 9), device)
    with torch.no_grad():
        gate[1, 4] = torch.nan
        addend[0, 2, 5] = torch.nan
    result = gated(feature, gate, addend)
    assert result[1, :, 4].isnan().all()
    assert result[0, 2, 5].isnan()
    assert result.isnan().sum() == 4


def test_runs_are_bitwise_equal_regardless_of_autocast(device):
    leaves = operands((2, 67, 131), device, dtype=torch.bfloat16)
    up = draw((2, 67, 131), device, 3)
    runs = []
    for enabled in (False, False, True):
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            result = gated(*leaves)
        runs.append((result, *gradients(result, leaves, up)))
    for again in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(again, runs[0], strict=True))


def test_zero_pixels_give_an_empty_result(device):
    assert gated(torch.zeros(2, 3, 0, device=device), torch.zeros(2, 0, device=device)).shape == (2, 3, 0)


def test_mismatched_operands_are_rejected(device):
    feature, gate = torch.zeros(2, 3, 5, device=device), torch.zeros(2, 5, device=device)
    with pytest.raises(ValueError, match=r"needs \(2, 5\)"):
        gated(feature, gate.unsqueeze(1))
    with pytest.raises(ValueError, match="addend has shape"):
        gated(feature, gate, feature[:, :1])
    with pytest.raises(ValueError, match="gate has dtype"):
        gated(feature, gate.long())
    with pytest.raises(ValueError, match="samples, channels"):
        gated(gate[0], gate[0])


def test_operators_pass_opcheck(device):
    from torch.library import opcheck

    feature, gate, addend = operands((2, 3, 5), device, dtype=torch.bfloat16)
    library = torch.ops.uml_kernels
    opcheck(library.gated.default, (feature, gate, addend))
    opcheck(library.gated.default, (feature, gate, None))
    plain = [each.detach() for each in (feature, feature, gate, addend)]
    for apart in (False, True):
        opcheck(library.gated_backward.default, (*plain, apart))


@pytest.mark.parametrize("added", [False, True])
def test_closed_form_gradients_match_finite_differences(doubles, added):
    shapes = [(2, 3, 4), (2, 4), (2, 3, 4)][: 3 if added else 2]
    assert gradcheck(gated, [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes])


@pytest.mark.skipif(INTERPRETED, reason="the interpreter cannot be compiled")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_function_matches_eager(device, dtype):
    results = []
    for each in (gated, torch.compile(gated, fullgraph=True, backend="aot_eager")):
        leaves = operands((2, 3, 5, 7), device, dtype=dtype)
        result = each(*leaves)
        results.append((result.detach(), *gradients(result, leaves, draw((2, 3, 5, 7), device, 3))))
    for got, expected in zip(*results, strict=True):
        assert torch.equal(got, expected)
