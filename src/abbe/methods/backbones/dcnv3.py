"""DCNv3, the operator of InternImage: a 3 x 3 window whose points move and whose weights follow the image.

Wenhai Wang et al., "InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions", CVPR
2023, arXiv:2211.05778, Eq. 2. With groups g, points k of the window and the place p0 of an output::

    y_g(p0) = sum over k of  m_gk(p0) x_g(p0 + s (p_k + dp_gk(p0)))

    x (B, Y, X, C) -- linear ------------------------------ values --> sample, weigh, sum --> linear --> (B, Y, X, C)
      |                                                                     ^  ^
      + -- depth-wise convolution, norm, GELU -- linear -- offsets (G P 2) -+  |
                                              + - linear, softmax over P ------+

x outside of the image is zero, and x between pixels is bilinear. The order of points is that of the official operator,
and published weights depend on it: the columns of the window one after the other, each from the top to the bottom;
offsets are (x, y). The scale s stretches the window as well as the offsets.

One operator in three forms, which the tests hold to each other and to loops over the definition:

- :func:`sampled`, by ``grid_sample``: for tracing, exporting and compiling, and for other devices.
- :class:`Bagged`, for processors: a bilinear sample is a weighted sum of four pixels, and so an output is one of 4 P
  rows of a table, an ``embedding_bag``. No sample is ever stored, where the form by ``grid_sample`` writes P times the
  image and reads it again.
- ``dcnv3_triton.py``, the same for GPUs, where Triton is installed.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, reduce
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

IN_CACHE = 2**17
"""Points that are computed at a time."""
BORDER = 2
"""Rows and columns of zeros around an image, so that whatever lies outside has a pixel to point to."""


@dataclass(frozen=True)
class Window:
    """Where the points of DCNv3 lie before they move."""

    groups: int = 4
    """Groups of channels, each with its own offsets and weights."""
    kernel: int = 3
    """Points along a side."""
    stride: int = 1
    """Pixels from one output to the next."""
    padding: int = 1
    """Pixels that the window may reach beyond the image."""
    dilation: int = 1
    """Pixels from one point to the next."""
    offset_scale: float = 1.0
    """Factor of offsets and window."""
    remove_center: bool = False
    """Whether the middle point is left out."""

    def __post_init__(self) -> None:
        if self.remove_center and self.kernel % 2 == 0:
            raise ValueError(f"a window of {self.kernel} x {self.kernel} points has no centre to remove")

    @property
    def points(self) -> int:
        """Points P of the window."""
        return self.kernel**2 - self.remove_center

    def extent(self, size: int) -> int:
        """Give the outputs along an axis of so many pixels."""
        return (size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1


class DCNv3(nn.Module):
    """The operator with the layers that tell it where to look: (B, Y, X, C) to the same shape.

    Parameters
    ----------
    width
        Channels C.
    window
        Groups, points and scale; the stride is 1 and the padding keeps the size.
    depthwise_kernel
        Extent of the depth-wise convolution.
    center_feature_scale
        Whether the values themselves are mixed in, by a learnt share per group; of the largest networks.
    """

    def __init__(self, width: int, window: Window, depthwise_kernel: int = 3, center_feature_scale: bool = False):
        super().__init__()
        if width % window.groups:
            raise ValueError(f"{width} channels in {window.groups} groups; expected a multiple")
        self.window = window
        self.depthwise = nn.Conv2d(width, width, depthwise_kernel, padding=(depthwise_kernel - 1) // 2, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.offset = nn.Linear(width, window.groups * window.points * 2)
        self.mask = nn.Linear(width, window.groups * window.points)
        self.input_projection = nn.Linear(width, width)
        self.output_projection = nn.Linear(width, width)
        self.center_scale = nn.Linear(width, window.groups) if center_feature_scale else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as a window that neither moves nor prefers a point."""
        for linear in (self.offset, self.mask, self.center_scale):
            if linear is not None:
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)
        for linear in (self.input_projection, self.output_projection):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sample, weigh and sum."""
        values = self.input_projection(x)
        query = self.depthwise(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        query = F.gelu(self.norm(query))  # (B, Y, X, C)
        offset = self.offset(query)  # (B, Y, X, G P 2)
        mask = self.mask(query).unflatten(-1, (self.window.groups, -1)).softmax(-1)  # (B, Y, X, G, P)
        out = dcnv3(values, offset, mask.flatten(-2), self.window)
        if self.center_scale is not None:
            share = self.center_scale(query).sigmoid().unsqueeze(-1)  # (B, Y, X, G, 1)
            grouped = (self.window.groups, -1)
            out = out.unflatten(-1, grouped) * (1 - share) + values.unflatten(-1, grouped) * share
            out = out.flatten(-2)
        return self.output_projection(out)


def dcnv3(x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, window: Window) -> torch.Tensor:
    """Compute Eq. 2 in the form that is fastest where the tensors are.

    Parameters
    ----------
    x
        Values (B, Y, X, C).
    offset
        (B, Y', X', G P 2) in pixels, (x, y) of each point.
    mask
        Weights (B, Y', X', G P) of the points.
    window
        Says Y', X', G and P.

    Returns
    -------
    torch.Tensor
        (B, Y', X', C), of the type of ``x``. Places are computed in float32 whatever the type.

    Raises
    ------
    ValueError
        Where the extents are not those of the window.
    """
    check_shapes(x, offset, mask, window)
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return sampled(x, offset, mask, window)
    if x.device.type == "cpu":
        return Bagged.apply(x, offset, mask, window)
    if x.device.type == "cuda" and x.dtype != torch.float64 and has_triton():
        from abbe.methods.backbones.dcnv3_triton import Fused

        return Fused.apply(x, offset, mask, window)
    return sampled(x, offset, mask, window)


@cache
def has_triton() -> bool:
    """Tell whether Triton is installed."""
    return find_spec("triton") is not None


def check_shapes(x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, window: Window) -> None:
    """Raise ValueError where offsets or weights are not those of the window on this image."""
    size = (x.shape[0], window.extent(x.shape[1]), window.extent(x.shape[2]))
    number = window.groups * window.points
    if tuple(offset.shape) != (*size, 2 * number) or tuple(mask.shape) != (*size, number):
        raise ValueError(
            f"offsets {tuple(offset.shape)} and weights {tuple(mask.shape)} on values {tuple(x.shape)}; expected "
            f"{(*size, 2 * number)} and {(*size, number)}"
        )


def places(offset: torch.Tensor, window: Window) -> torch.Tensor:
    """Compute where the points lie, (B, Y', X', G, P, 2) in pixels, (x, y) from the middle of the first pixel."""
    _, rows, columns, _ = offset.shape
    half = window.dilation * (window.kernel - 1) // 2
    device, dtype = offset.device, offset.dtype
    steps = torch.arange(window.kernel, device=device, dtype=dtype) * window.dilation - half
    grid = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).view(-1, 2)  # x goes slower
    if window.remove_center:
        grid = torch.cat([grid[: len(grid) // 2], grid[len(grid) // 2 + 1 :]])
    middle = [
        torch.arange(n, device=device, dtype=dtype) * window.stride + half - window.padding for n in offset.shape[1:3]
    ]
    y, x = torch.meshgrid(*middle, indexing="ij")
    fixed = torch.stack([x, y], -1).view(rows, columns, 1, 1, 2) + window.offset_scale * grid
    moved = offset.unflatten(-1, (window.groups, window.points, 2))
    return torch.add(fixed, moved, alpha=window.offset_scale)


def sampled(x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, window: Window) -> torch.Tensor:
    """Compute :func:`dcnv3` by ``grid_sample``."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    batch, rows, columns, channels = x.shape
    right, down = places(offset.to(dtype), window).unbind(-1)
    grid = torch.stack([(2 * right + 1) / columns, (2 * down + 1) / rows], -1) - 1  # -1 and 1 are the image's edges
    grid = grid.movedim(3, 1).flatten(0, 1).flatten(1, 2)  # (B G, Y' X', P, 2)
    image = x.to(dtype).permute(0, 3, 1, 2).reshape(batch * window.groups, -1, rows, columns)  # (B G, C / G, Y, X)
    samples = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    weights = mask.to(dtype).unflatten(-1, (window.groups, -1)).movedim(3, 1).flatten(0, 1).flatten(1, 2)
    out = (samples * weights.unsqueeze(1)).sum(-1)  # (B G, C / G, Y' X')
    return out.reshape(batch, channels, *offset.shape[1:3]).permute(0, 2, 3, 1).contiguous().to(x.dtype)


class Bagged(torch.autograd.Function):
    """:func:`dcnv3` as weighted sums of rows of a table, of which a row is a pixel's channels of one group.

    The four pixels around a place are the rows r, r + a, r + b and r + a + b: the same numbers of rows in four tables
    that begin a, b and a + b rows later. Only the three arguments are kept for the way back.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor, window: Window) -> torch.Tensor:
        """Sum rows."""
        ctx.save_for_backward(x, offset, mask)
        ctx.window = window
        return torch.cat([Bags(window, *part).summed() for part in parts(mask, x, offset, mask)]).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Give the gradients of values, offsets and weights."""
        saved = ctx.saved_tensors
        found = []
        for *part, gradient in parts(saved[-1], *saved, gradients[0]):
            bags = Bags(ctx.window, *part)
            rows = gradient.to(bags.table.dtype).reshape(len(bags.rows), -1)  # (N, C / G)
            found.append((bags.values_backward(rows), *bags.places_backward(rows)))
        return *(torch.cat(some).view_as(like).to(like.dtype) for some, like in zip(zip(*found), saved)), None


def parts(mask: torch.Tensor, *tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Split a batch into images few enough that what is computed in between stays in the processor's cache."""
    images = max(1, IN_CACHE // max(1, mask[0].numel()))
    return zip(*(tensor.split(images) for tensor in tensors), strict=True)


class Bags:
    """Which rows of which table are summed, and how much of each; N outputs and groups, P points.

    Attributes
    ----------
    table : torch.Tensor
        (B Y" X" G, C / G), the image within a border of zeros.
    rows : torch.Tensor
        (N, P), of the pixel at the top left of each place.
    steps : tuple of int
        Rows from there to each of the four pixels: itself, right, below, right below.
    right, below : torch.Tensor
        (N, P), what a place lies beyond the pixel at its top left, 0 to 1 pixel.
    mask : torch.Tensor
        (N, P), the weights.
    """

    def __init__(self, window: Window, x: torch.Tensor, offset: torch.Tensor, mask: torch.Tensor):
        self.window, self.shape = window, x.shape
        self.outputs = (*offset.shape[:3], x.shape[-1])
        dtype = torch.promote_types(x.dtype, torch.float32)
        around = F.pad(x.to(dtype), (0, 0, BORDER, BORDER, BORDER, BORDER))
        self.table = around.view(-1, x.shape[-1] // window.groups)
        down = around.shape[2] * window.groups
        self.steps = (0, window.groups, down, down + window.groups)
        place = places(offset.to(dtype), window)
        first = place.floor()
        self.right, self.below = ((place - first).view(-1, window.points, 2)).unbind(-1)
        self.rows = self._rows(first.to(torch.int32 if len(self.table) < 2**31 else torch.int64))
        self.mask = mask.to(dtype).reshape(-1, window.points)

    def _rows(self, first: torch.Tensor) -> torch.Tensor:
        """Number the pixels; those outside of the image are all in the border, whatever their distance."""
        batch, rows, columns, _ = self.shape
        x, y = (first.select(-1, i).clamp(-BORDER, n) for i, n in enumerate((columns, rows)))
        _, right, down, _ = self.steps
        image = torch.arange(batch, dtype=first.dtype) * (len(self.table) // batch) + BORDER * (down + right)
        group = torch.arange(right, dtype=first.dtype).unsqueeze(-1)  # (G, 1)
        numbers = y.mul_(down).add_(x, alpha=right).add_(image.view(-1, 1, 1, 1, 1) + group)
        return numbers.view(-1, self.window.points)

    def summed(self) -> torch.Tensor:
        """Give the output, (B, Y', X', C)."""
        pixels = (
            F.embedding_bag(self.rows, self.table[step:], mode="sum", per_sample_weights=weight)
            for step, weight in zip(self.steps, self.weights(), strict=True)
        )
        return reduce(torch.Tensor.add_, pixels).view(self.outputs)

    def weights(self) -> tuple[torch.Tensor, ...]:
        """Give (N, P) for each of the four pixels."""
        lower = self.mask * self.below
        upper = self.mask - lower
        upper_right, lower_right = upper * self.right, lower * self.right
        return upper - upper_right, upper_right, lower - lower_right, lower_right

    def values_backward(self, gradient: torch.Tensor) -> torch.Tensor:
        """Give the gradient of the values, (B, Y, X, C): the outputs sorted by the row that they took, and summed."""
        rows, order = self.rows.view(-1).sort()
        takers = order // self.window.points
        numbers = torch.bincount(rows, minlength=len(self.table))
        begins = numbers.cumsum(0).sub_(numbers)
        total = torch.zeros_like(self.table)
        for step, weight in zip(self.steps, self.weights(), strict=True):
            shares = weight.reshape(-1).index_select(0, order)
            taken = F.embedding_bag(takers, gradient, begins, mode="sum", per_sample_weights=shares)
            total[step:] += taken[: len(taken) - step]  # the last rows are border, and nobody's top left
        batch, rows_, columns, channels = self.shape
        image = total.view(batch, rows_ + 2 * BORDER, columns + 2 * BORDER, channels)
        return image[:, BORDER:-BORDER, BORDER:-BORDER].contiguous()

    def places_backward(self, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the gradients of the offsets, (N, P, 2), and of the weights, (N, P)."""
        a, b, c, d = (self._products(gradient, self.table[step:]) for step in self.steps)
        b, d = b.sub_(a), d.sub_(c)  # what is gained by going right, above and below
        top, slope = torch.addcmul(a, b, self.right), d.sub_(b)
        down = torch.addcmul(c.sub_(a), slope, self.right)  # gained by going down
        scaled = self.mask * self.window.offset_scale
        right = torch.addcmul(b, slope, self.below)
        return torch.stack([right * scaled, down * scaled], -1), top.addcmul_(down, self.below)

    def _products(self, gradient: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """Multiply each output's gradient with the pixels that it took, (N, P)."""
        pattern = sparse_pattern(self.rows, len(pixels), gradient.dtype)
        return torch.sparse.sampled_addmm(pattern, gradient, pixels.T, beta=0.0).values().view(self.rows.shape)


def sparse_pattern(columns: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Make a sparse matrix (N, width) of zeros that are stored at the given columns (N, P) of each line."""
    begins = torch.arange(0, columns.numel() + 1, columns.shape[1], dtype=columns.dtype)
    zeros = torch.zeros(columns.numel(), dtype=dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return torch.sparse_csr_tensor(begins, columns.view(-1), zeros, (len(columns), width), check_invariants=False)
