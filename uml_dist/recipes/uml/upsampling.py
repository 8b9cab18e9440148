"""A 3x3 convolution of upsampled features, computed at half their size.

Bilinear interpolation and convolution are both linear, and the channel matrix of a tap commutes with interpolation. So
each of the nine taps is applied as a channel matrix before upsampling, at a quarter of the points. The result is then
interpolated and shifted, first along the columns for each row of taps, then along the rows for all of them; both are
products with a matrix that all samples share. This takes a quarter of the convolution's multiply-adds, plus those of
the interpolation, which matter if there are few channels. The upsampled features are never stored.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TAPS = 3
FEWEST_CHANNELS = 128
"""Number of input channels from which this is faster than upsampling first. Forward and backward, on 2 cores: for 4
samples, 256 -> 64 channels, 64 -> 128 pixels, 128 ms instead of 167 (AVX-512) or 432 (AVX2); for 8 samples, 32 -> 8
channels, 48 -> 96 pixels, 18 ms instead of 6 or 8."""


def convolves_faster_at_half_size(features: Sequence[Tensor]) -> bool:
    """Return whether `convolve_upsampled` is faster for these features: many channels, on a CPU in full precision."""
    first = features[0]
    channels, columns = sum(feature.shape[1] for feature in features), first.shape[3]
    return (
        first.device.type == "cpu"
        and first.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        # The interpolation's multiply-adds grow with the size of the features.
        and channels >= max(FEWEST_CHANNELS, columns)
    )


def convolve_upsampled(features: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve features, padded with zeros, after bilinear upsampling to twice their size.

    Differentiable once.

    Args:
        features: (B, channels, H, W) each, corners aligned; fastest where channels are last in memory.
        weight: (outputs, all channels, 3, 3).
        bias: (outputs,).

    Returns:
        (B, outputs, 2 H, 2 W), channels last in memory.
    """
    return _ConvolveUpsampled.apply(weight, bias, *features)  # type: ignore[return-value]


class _ConvolveUpsampled(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, weight: Tensor, bias: Tensor, *features: Tensor) -> Tensor:
        context.save_for_backward(weight, *features)
        samples, _, height, width = features[0].shape
        outputs = len(weight)
        matrices = _matrices_of_taps(weight, features)
        enlarged = weight.new_empty(samples, TAPS, height, 2 * width, outputs)
        for tap in range(TAPS):
            mapped = weight.new_zeros(samples * height * width, TAPS * outputs)
            for feature, matrix in zip(features, matrices, strict=True):
                mapped.addmm_(_rows(feature), matrix[tap])
            mapped = mapped.view(samples * height, width * TAPS, outputs)
            wide = _along_columns(width, weight.dtype) @ mapped
            enlarged[:, tap] = wide.view(samples, height, 2 * width, outputs)
        result = _along_rows(height, weight.dtype) @ enlarged.view(samples, TAPS * height, 2 * width * outputs)
        return result.view(samples, 2 * height, 2 * width, outputs).add_(bias).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight, *features = context.saved_tensors
        samples, _, height, width = features[0].shape
        outputs = len(weight)
        gradient = gradient.permute(0, 2, 3, 1).contiguous()
        of_bias = gradient.sum((0, 1, 2))
        of_enlarged = _along_rows(height, weight.dtype).T @ gradient.view(samples, 2 * height, 2 * width * outputs)
        of_enlarged = of_enlarged.view(samples, TAPS, height, 2 * width, outputs)
        matrices = _matrices_of_taps(weight, features)
        of_matrices = [torch.empty_like(matrix) for matrix in matrices]
        of_features = [torch.zeros_like(_rows(feature)) for feature in features]
        for tap in range(TAPS):
            wide = of_enlarged[:, tap].reshape(samples * height, 2 * width, outputs)
            mapped = (_along_columns(width, weight.dtype).T @ wide).view(-1, TAPS * outputs)
            for feature, matrix, own, of_matrix in zip(features, matrices, of_features, of_matrices, strict=True):
                own.addmm_(mapped, matrix[tap].T)
                torch.mm(_rows(feature).T, mapped, out=of_matrix[tap])
        of_weight = torch.cat([matrix.unflatten(2, (TAPS, outputs)).permute(3, 1, 0, 2) for matrix in of_matrices], 1)
        shaped = (own.view(samples, height, width, -1).permute(0, 3, 1, 2) for own in of_features)
        return of_weight, of_bias, *shaped


def _rows(feature: Tensor) -> Tensor:
    """Return points as rows: (B H W, channels) of (B, channels, H, W); a view if channels are last in memory."""
    return feature.permute(0, 2, 3, 1).reshape(-1, feature.shape[1])


def _matrices_of_taps(weight: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
    """Return the channel matrices of each feature: (3 rows of taps, its channels, 3 columns of taps * outputs)."""
    parts = weight.split([feature.shape[1] for feature in features], 1)
    return [part.permute(2, 1, 3, 0).flatten(2) for part in parts]


@cache
def _along_columns(size: int, dtype: torch.dtype) -> Tensor:
    """Return (2 size, size * 3): the weights of (column, tap) in each output."""
    return _interpolation(size).flatten(1).to(dtype)


@cache
def _along_rows(size: int, dtype: torch.dtype) -> Tensor:
    """Return (2 size, 3 * size): the weights of (tap, row) in each output."""
    return _interpolation(size).transpose(1, 2).flatten(1).to(dtype)


def _interpolation(size: int) -> Tensor:
    """Return (2 size, size, 3) float64: the weights of the inputs in the upsampled values that each tap reads.

    A tap reads the point before its output, at it, or after it; outside are zeros.
    """
    place = torch.arange(2 * size, dtype=torch.float64) * ((size - 1) / (2 * size - 1))
    low = place.long().clamp(max=max(size - 2, 0))
    share = place - low
    centre = torch.zeros(2 * size, size, dtype=torch.float64)
    outputs = torch.arange(2 * size)
    centre[outputs, low] = 1 - share
    centre[outputs, (low + 1).clamp(max=size - 1)] += share
    weights = torch.zeros(2 * size, size, TAPS, dtype=torch.float64)
    weights[1:, :, 0], weights[:, :, 1], weights[:-1, :, 2] = centre[:-1], centre, centre[1:]
    return weights
