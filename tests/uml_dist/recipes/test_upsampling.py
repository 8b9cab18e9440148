"""The convolution of upsampled features that is computed at half the size is the plain one."""

import pytest
import torch
from torch.nn import functional

from uml_dist.recipes.uml import upsampling
from uml_dist.recipes.uml.layers import UpsamplingConvolution
from uml_dist.recipes.uml.upsampling import FEWEST_CHANNELS, convolve_upsampled, convolves_faster_at_half_size

CHANNELS = (5, 7)


def plain(weight: torch.Tensor, bias: torch.Tensor, *features: torch.Tensor) -> torch.Tensor:
    joined = torch.cat(features, 1)
    size = [2 * side for side in joined.shape[2:]]
    enlarged = functional.interpolate(joined, size, mode="bilinear", align_corners=True)
    return functional.conv2d(enlarged, weight, bias, padding=1)


def arguments(height: int, width: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Weight, bias and two features, which are to get gradients."""
    generator = torch.Generator().manual_seed(height * 100 + width)
    shapes = [(4, sum(CHANNELS), 3, 3), (4,), *((2, channels, height, width) for channels in CHANNELS)]
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 6), (2, 3), (5, 8), (7, 4)])
def test_it_equals_interpolation_and_convolution(height, width, channels_last):
    weight, bias, *features = given = arguments(height, width)
    if channels_last:
        features = [feature.contiguous(memory_format=torch.channels_last) for feature in features]
    found, expected = convolve_upsampled(features, weight, bias), plain(weight, bias, *features)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(0), dtype=found.dtype)
    ours, theirs = (torch.autograd.grad(output, given, upstream) for output in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_its_gradients_are_those_of_finite_differences():
    weight, bias, *features = arguments(3, 4)
    assert torch.autograd.gradcheck(lambda *given: convolve_upsampled(given[2:], *given[:2]), (weight, bias, *features))


def test_float32_rounds_as_the_plain_convolution_does():
    exact = plain(*(each.double() for each in arguments(9, 16, torch.float32)))
    weight, bias, *features = arguments(9, 16, torch.float32)
    errors = [
        (found - exact).abs().max().item()
        for found in (convolve_upsampled(features, weight, bias), plain(weight, bias, *features))
    ]
    assert errors[0] < 3 * errors[1] + 1e-6


def test_the_layer_takes_it_for_many_channels_and_is_the_same_either_way(monkeypatch):
    torch.manual_seed(0)
    layer = UpsamplingConvolution(FEWEST_CHANNELS, 8)
    features = [torch.randn(1, FEWEST_CHANNELS // 2, 4, 6) for _ in range(2)]
    assert convolves_faster_at_half_size(features)
    found = layer(features)
    monkeypatch.setattr(upsampling, "FEWEST_CHANNELS", 2 * FEWEST_CHANNELS)
    assert not convolves_faster_at_half_size(features)
    torch.testing.assert_close(found, layer(features), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("columns", [FEWEST_CHANNELS, FEWEST_CHANNELS + 1])
def test_wide_features_are_interpolated_first(columns):
    assert convolves_faster_at_half_size([torch.zeros(1, FEWEST_CHANNELS, 1, columns)]) == (columns == FEWEST_CHANNELS)


def test_lower_precision_is_interpolated_first():
    features = [torch.zeros(1, FEWEST_CHANNELS, 2, 2)]
    assert not convolves_faster_at_half_size([features[0].bfloat16()])
    with torch.autocast("cpu", torch.bfloat16):
        assert not convolves_faster_at_half_size(features)
