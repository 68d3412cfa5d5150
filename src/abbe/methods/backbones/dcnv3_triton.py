"""DCNv3 (arXiv:2211.05778) as two Triton kernels, one for each direction; imported only where a GPU computes.

A program takes a block of outputs, each with all the channels of its group::

    for every point:  place -> four pixels (N, C) -> weighted into the output           forward
                                                  -> times the gradient, summed over C: offset and weight; and added
                                                     to the four pixels' gradients      backward

Neither samples nor places are ever stored. The gradient of the values is added up in float32 by atomic operations,
whose order, and so the last digit, differs from run to run, as with the official operator.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

ELEMENTS = 1024
"""Outputs times channels of one program."""


class Fused(torch.autograd.Function):
    """:func:`abbe.methods.backbones.dcnv3.dcnv3` on a GPU."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, window: Any) -> torch.Tensor:
        """Launch a program per block of outputs."""
        x, offset, mask = x.contiguous(), offset.contiguous(), mask.contiguous()
        ctx.save_for_backward(x, offset, mask)
        ctx.window = window
        out = x.new_empty((*offset.shape[:3], x.shape[-1]))
        grid, numbers = launch(x, offset, window)
        with torch.cuda.device_of(x):
            sample_forward[grid](x, offset, mask, out, **numbers)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Give the gradients of values, offsets and weights."""
        x, offset, mask = ctx.saved_tensors
        to_x = torch.zeros_like(x, dtype=torch.float32)
        to_offset, to_mask = torch.empty_like(offset), torch.empty_like(mask)
        grid, numbers = launch(x, offset, ctx.window)
        gradient = gradients[0].contiguous()
        with torch.cuda.device_of(x):
            sample_backward[grid](x, offset, mask, gradient, to_x, to_offset, to_mask, **numbers)
        return to_x.to(x.dtype), to_offset, to_mask, None


def launch(x: torch.Tensor, offset: torch.Tensor, window: Any) -> tuple[tuple[int], dict[str, Any]]:
    """Give the number of programs, and what they need to know of the shapes and of the window, as in ``dcnv3.py``."""
    batch, rows, columns, channels = x.shape
    _, rows_out, columns_out, _ = offset.shape
    width = triton.next_power_of_2(channels // window.groups)
    block = max(1, ELEMENTS // width)
    outputs = batch * rows_out * columns_out * window.groups
    numbers = {
        "outputs": outputs,
        "rows": rows,
        "columns": columns,
        "rows_out": rows_out,
        "columns_out": columns_out,
        "scale": float(window.offset_scale),
        "channels": channels // window.groups,
        "groups": window.groups,
        "kernel": window.kernel,
        "stride": window.stride,
        "padding": window.padding,
        "dilation": window.dilation,
        "removed": (window.kernel**2 // 2) if window.remove_center else -1,
        "points": window.points,
        "block": block,
        "width": width,
    }
    return (triton.cdiv(outputs, block),), numbers


@triton.jit
def _place(offsets, wanted, begin, step, scale, extent):
    """Give the pixel before a place along an axis, and how far beyond that the place lies."""
    move = tl.load(offsets, mask=wanted, other=0.0).to(tl.float32)
    place = begin + (step + move) * scale
    place = tl.minimum(tl.maximum(place, -2.0), extent + 1.0)  # further away all is zero, too
    first = tl.floor(place)
    return first.to(tl.int64), place - first


@triton.jit
def sample_forward(
    values,
    offsets,
    masks,
    out,
    outputs,
    rows,
    columns,
    rows_out,
    columns_out,
    scale,
    channels: tl.constexpr,
    groups: tl.constexpr,
    kernel: tl.constexpr,
    stride: tl.constexpr,
    padding: tl.constexpr,
    dilation: tl.constexpr,
    removed: tl.constexpr,
    points: tl.constexpr,
    block: tl.constexpr,
    width: tl.constexpr,
):
    """Compute a block of outputs of one group each."""
    number = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)  # (N,), of the output and group
    channel = tl.arange(0, width)[None, :]  # (1, C)
    wanted = number < outputs
    group, pixel = number % groups, number // groups
    begin_x = (pixel % columns_out) * stride - padding + dilation * (kernel - 1) // 2
    begin_y = (pixel // columns_out % rows_out) * stride - padding + dilation * (kernel - 1) // 2
    image = pixel // (columns_out * rows_out) * rows  # the row where the image begins
    total = tl.zeros((block, width), dtype=tl.float32)
    for k in tl.static_range(kernel * kernel):
        if k != removed:
            point = number * points + (k - (1 if removed >= 0 and k > removed else 0))
            weight = tl.load(masks + point, mask=wanted, other=0.0).to(tl.float32)
            step_x = k // kernel * dilation - dilation * (kernel - 1) // 2  # columns one after the other
            step_y = k % kernel * dilation - dilation * (kernel - 1) // 2
            first_x, right = _place(offsets + 2 * point, wanted, begin_x, step_x, scale, columns)
            first_y, below = _place(offsets + 2 * point + 1, wanted, begin_y, step_y, scale, rows)
            for corner in tl.static_range(4):
                x, y = first_x + corner % 2, first_y + corner // 2
                share_x = right if corner % 2 else 1 - right
                share_y = below if corner // 2 else 1 - below
                at = (((image + y) * columns + x) * groups + group)[:, None] * channels + channel
                inside = wanted & (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
                known = inside[:, None] & (channel < channels)
                pixels = tl.load(values + at, mask=known, other=0.0).to(tl.float32)
                total += (weight * share_x * share_y)[:, None] * pixels
    at = number[:, None] * channels + channel
    tl.store(out + at, total.to(out.dtype.element_ty), mask=wanted[:, None] & (channel < channels))


@triton.jit
def sample_backward(
    values,
    offsets,
    masks,
    gradients,
    to_values,
    to_offsets,
    to_masks,
    outputs,
    rows,
    columns,
    rows_out,
    columns_out,
    scale,
    channels: tl.constexpr,
    groups: tl.constexpr,
    kernel: tl.constexpr,
    stride: tl.constexpr,
    padding: tl.constexpr,
    dilation: tl.constexpr,
    removed: tl.constexpr,
    points: tl.constexpr,
    block: tl.constexpr,
    width: tl.constexpr,
):
    """Compute the gradients of a block of outputs of one group each."""
    number = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)  # (N,), of the output and group
    channel = tl.arange(0, width)[None, :]  # (1, C)
    wanted = number < outputs
    group, pixel = number % groups, number // groups
    begin_x = (pixel % columns_out) * stride - padding + dilation * (kernel - 1) // 2
    begin_y = (pixel // columns_out % rows_out) * stride - padding + dilation * (kernel - 1) // 2
    image = pixel // (columns_out * rows_out) * rows  # the row where the image begins
    at = number[:, None] * channels + channel
    gradient = tl.load(gradients + at, mask=wanted[:, None] & (channel < channels), other=0.0).to(tl.float32)
    for k in tl.static_range(kernel * kernel):
        if k != removed:
            point = number * points + (k - (1 if removed >= 0 and k > removed else 0))
            weight = tl.load(masks + point, mask=wanted, other=0.0).to(tl.float32)
            step_x = k // kernel * dilation - dilation * (kernel - 1) // 2  # columns one after the other
            step_y = k % kernel * dilation - dilation * (kernel - 1) // 2
            first_x, right = _place(offsets + 2 * point, wanted, begin_x, step_x, scale, columns)
            first_y, below = _place(offsets + 2 * point + 1, wanted, begin_y, step_y, scale, rows)
            sample = tl.zeros((block,), dtype=tl.float32)  # times the gradient, summed over the channels
            slope_x = tl.zeros((block,), dtype=tl.float32)
            slope_y = tl.zeros((block,), dtype=tl.float32)
            for corner in tl.static_range(4):
                x, y = first_x + corner % 2, first_y + corner // 2
                share_x = right if corner % 2 else 1 - right
                share_y = below if corner // 2 else 1 - below
                at = (((image + y) * columns + x) * groups + group)[:, None] * channels + channel
                inside = wanted & (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
                known = inside[:, None] & (channel < channels)
                pixels = tl.load(values + at, mask=known, other=0.0).to(tl.float32)
                product = tl.sum(gradient * pixels, 1)
                sample += product * share_x * share_y
                slope_x += product * share_y * (1 if corner % 2 else -1)
                slope_y += product * share_x * (1 if corner // 2 else -1)
                tl.atomic_add(to_values + at, (weight * share_x * share_y)[:, None] * gradient, mask=known)
            kind = to_offsets.dtype.element_ty
            tl.store(to_masks + point, sample.to(to_masks.dtype.element_ty), mask=wanted)
            tl.store(to_offsets + 2 * point, (weight * scale * slope_x).to(kind), mask=wanted)
            tl.store(to_offsets + 2 * point + 1, (weight * scale * slope_y).to(kind), mask=wanted)
