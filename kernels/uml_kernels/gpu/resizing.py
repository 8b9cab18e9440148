"""Kernels of bilinear interpolation with aligned corners: exact integer positions, backward as a gather, no atomics.

Along a dimension, output i of `fine` outputs reads the inputs around i (coarse - 1) / (fine - 1); `coarse` is the
number of inputs, even if it is the larger. Backward, an input gathers the outputs that read it, first along the rows,
then along the columns of that result: 2 fine / coarse reads each, where a gather of both at once takes the square.
"""

# pyright: reportGeneralTypeIssues=false
# Triton's type information covers neither static_range nor the results of a kernel's functions

import torch
import triton
import triton.language as tl
from torch import Tensor

from uml_kernels.layout import memory_format, result_dtype
from uml_kernels.table import tiles

from .launch import launch


@triton.jit
def _divide(numerator, denominator):
    """Return quotient and remainder of integers by a corrected float division.

    Requires 0 <= numerator < 2^31 and quotient < 2^20.
    """
    quotient = (numerator.to(tl.float32) / denominator.to(tl.float32)).to(tl.int32)
    rest = numerator - quotient * denominator
    low, high = rest < 0, rest >= denominator
    quotient += tl.where(low, -1, tl.where(high, 1, 0))
    rest += tl.where(low, denominator, tl.where(high, -denominator, 0))
    return quotient, rest


@triton.jit
def _neighbours(index, coarse, fine):
    """Return the two inputs that an output reads along a dimension, and the weight of the second."""
    steps = tl.maximum(fine - 1, 1)
    first, rest = _divide(index * (coarse - 1), steps)
    return first, tl.minimum(first + 1, coarse - 1), rest.to(tl.float32) / steps.to(tl.float32)


@triton.jit
def _first_reader(index, coarse, fine):
    """Return the first output along a dimension that reads an input with a weight above 0."""
    before, _ = _divide(tl.maximum(index - 1, 0) * tl.maximum(fine - 1, 1), tl.maximum(coarse - 1, 1))
    return tl.where(index > 0, before + 1, 0)


@triton.jit
def _place(program, rows_of_blocks, columns_of_blocks, chunks, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    """Locate a program's block.

    Returns:
        Sample, chunk of channels, first row, and for BLOCK pixels their rows counted from the first and their columns.
    """
    chunk = program % chunks
    program = program // chunks
    column = program % columns_of_blocks
    program = program // columns_of_blocks
    row = program % rows_of_blocks
    sample = (program // rows_of_blocks).to(tl.int64)
    pixel = tl.arange(0, BLOCK)
    return sample, chunk, row * (BLOCK // COLUMNS), pixel // COLUMNS, column * COLUMNS + pixel % COLUMNS


@triton.jit
def resized_kernel(
    maps,
    result,
    channels,
    height,
    width,
    to_height,
    to_width,
    rows_of_blocks,
    columns_of_blocks,
    chunks,
    stride_sample,
    stride_channel,
    stride_row,
    stride_column,
    to_sample,
    to_channel,
    to_row,
    to_column,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Interpolate CHANNELS channels of BLOCK pixels of one sample's result."""
    sample, chunk, first, row, x = _place(tl.program_id(0), rows_of_blocks, columns_of_blocks, chunks, COLUMNS, BLOCK)
    channel = chunk.to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    mask = ((first + row < to_height) & (x < to_width))[:, None] & (channel < channels)
    y0, y1, down = _neighbours(tl.minimum(first + row, to_height - 1), height, to_height)
    x0, x1, right = _neighbours(tl.minimum(x, to_width - 1), width, to_width)
    upper, lower = (y0.to(tl.int64) * stride_row)[:, None], (y1.to(tl.int64) * stride_row)[:, None]
    left, beyond = (x0.to(tl.int64) * stride_column)[:, None], (x1.to(tl.int64) * stride_column)[:, None]
    base = maps + sample * stride_sample + channel * stride_channel
    a = tl.load(base + (upper + left), mask=mask, other=0.0).to(tl.float32)
    b = tl.load(base + (upper + beyond), mask=mask, other=0.0).to(tl.float32)
    c = tl.load(base + (lower + left), mask=mask, other=0.0).to(tl.float32)
    d = tl.load(base + (lower + beyond), mask=mask, other=0.0).to(tl.float32)
    down, right = down[:, None], right[:, None]
    value = (1.0 - down) * ((1.0 - right) * a + right * b) + down * ((1.0 - right) * c + right * d)
    to = ((first + row).to(tl.int64) * to_row + x.to(tl.int64) * to_column)[:, None]
    tl.store(result + sample * to_sample + channel * to_channel + to, value, mask=mask)


@triton.jit
def gathered_kernel(
    upstream,
    result,
    channels,
    height,  # of the result
    width,
    fine,  # number of outputs along the gathered dimension
    taps,  # maximum number of outputs that read one input
    rows_of_blocks,
    columns_of_blocks,
    chunks,
    stride_sample,
    stride_channel,
    stride_row,
    stride_column,
    to_sample,
    to_channel,
    to_row,
    to_column,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Apply the adjoint of the interpolation along the rows or along the columns."""
    sample, chunk, first, row, x = _place(tl.program_id(0), rows_of_blocks, columns_of_blocks, chunks, COLUMNS, BLOCK)
    channel = chunk.to(tl.int64) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    inside = (first + row < height) & (x < width)
    mask = inside[:, None] & (channel < channels)
    base = upstream + sample * stride_sample + channel * stride_channel
    if ROWS:
        own, coarse = tl.minimum(first + row, height - 1), height
        start = _first_reader(own, coarse, fine)
        offset, step = start.to(tl.int64) * stride_row + x.to(tl.int64) * stride_column, stride_row
    else:
        own, coarse = tl.minimum(x, width - 1), width
        start = _first_reader(own, coarse, fine)
        offset, step = (first + row).to(tl.int64) * stride_row + start.to(tl.int64) * stride_column, stride_column
    steps = tl.maximum(fine - 1, 1)
    share = 1.0 / steps.to(tl.float32)
    distance = start * (coarse - 1) - own * steps  # from the input to an output that may read it, in units of 1 / steps
    value = tl.zeros([BLOCK, CHANNELS], tl.float32)
    for tap in range(taps):
        reads = (start + tap < fine) & (tl.abs(distance) < steps)
        weight = 1.0 - tl.abs(distance).to(tl.float32) * share
        read = tl.load(base + offset[:, None], mask=mask & reads[:, None], other=0.0).to(tl.float32)
        value += tl.where(reads, weight, 0.0)[:, None] * read
        offset += step
        distance += coarse - 1
    to = ((first + row).to(tl.int64) * to_row + x.to(tl.int64) * to_column)[:, None]
    pointer = result + sample * to_sample + channel * to_channel + to
    tl.store(pointer, value.to(result.dtype.element_ty), mask=mask)


def _grid(kernel: str, result: Tensor) -> tuple[int, tuple[int, int, int], dict[str, int]]:
    """Return the number of programs, a sample's blocks along rows, columns and channels, and the constants."""
    chosen = tiles(kernel, result)
    batch, channels, height, width = result.shape
    together = min(32, 1 << (channels - 1).bit_length()) if memory_format(result) == torch.channels_last else 1
    columns = min(128, chosen.block, 1 << (width - 1).bit_length())
    rows_of_blocks = -(-height // (chosen.block // columns))
    blocks = (rows_of_blocks, -(-width // columns), -(-channels // together))
    constants = {"CHANNELS": together, "COLUMNS": columns, "BLOCK": chosen.block, "warps": chosen.warps}
    return batch * blocks[0] * blocks[1] * blocks[2], blocks, constants


def resized(maps: Tensor, height: int, width: int) -> Tensor:
    """Return the interpolated maps; see `uml_kernels.resizing`."""
    batch, channels, *size = maps.shape
    dtype = result_dtype(maps)
    result = torch.empty(
        batch, channels, height, width, dtype=dtype, device=maps.device, memory_format=memory_format(maps)
    )
    programs, blocks, constants = _grid("resized_forward", result)
    launch(
        resized_kernel, programs, maps, result, channels, *size, height, width, *blocks, *maps.stride(),
        *result.stride(), **constants,
    )  # fmt: skip
    return result


def _taps(coarse: int, fine: int) -> int:
    """Return the maximum number of outputs that read one input with a weight above 0: integers in an open interval."""
    if coarse == 1 or fine == 1:
        return fine
    return min(fine, -(-2 * (fine - 1) // (coarse - 1)))


def resized_backward(upstream: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """Return the gradient (B, C, height, width) of maps of that size, in the given dtype."""
    batch, channels, fine_height, fine_width = upstream.shape
    form = memory_format(upstream)
    source = upstream
    for rows, size, fine in ((True, (height, fine_width), fine_height), (False, (height, width), fine_width)):
        result = torch.empty(
            batch, channels, *size, dtype=torch.float32 if rows else dtype, device=upstream.device, memory_format=form
        )
        programs, blocks, constants = _grid("resized_backward", result)
        launch(
            gathered_kernel, programs, source, result, channels, *size, fine, _taps(size[0] if rows else width, fine),
            *blocks, *source.stride(), *result.stride(), ROWS=rows, **constants,
        )  # fmt: skip
        source = result
    return source
