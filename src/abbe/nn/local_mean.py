"""Means over a window around each pixel, at a cost that grows with the logarithm of the window.

Chu, Chen, Chen, Lu, "Improving Image Restoration by Revisiting Global Information Aggregation", ECCV 2022,
arXiv:2112.04491: a network that was trained on crops has seen means over crops, and a mean over a whole image is
something else; a mean over a window of about the crop's size is not.

Sums are made by doubling (of 1, 2, 4, 8 … neighbours) and put together. Against an integral image, nothing large is
ever subtracted from something large; a pixel's mean is made of the pixels of its window and of nothing else, in the
same order wherever the window lies, so that a part of an image gives bit for bit what the whole gives.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

AT_ONCE = 2**20
"""Numbers of which sums are made at once. They stay in the processor's cache, which makes it faster than an integral
image, and what the sums need beside input and result is a few times this."""


def local_mean(x: torch.Tensor, window: int | None) -> torch.Tensor:
    """Average every window that fits into maps.

    Parameters
    ----------
    x
        Maps (B, C, Y, X).
    window
        Pixels per side; cut to the extents of the maps; None for all of them.

    Returns
    -------
    torch.Tensor
        (B, C, Y - w + 1, X - w + 1), so (B, C, 1, 1) where one window covers all. Of the type of ``x``; summed in
        single precision.
    """
    extents = x.shape[-2:]
    if window is None or window >= max(extents):
        return x.mean((-2, -1), keepdim=True)
    number = max(AT_ONCE // (x.shape[0] * extents[0] * extents[1]), 1)
    height, width = (min(window, extent) for extent in extents)
    means = []
    for part in x.split(number, 1):
        exact = part.to(torch.promote_types(x.dtype, torch.float32), memory_format=torch.contiguous_format)
        sums = window_sums(window_sums(exact, width, -1), height, -2)
        means.append((sums / (height * width)).to(x.dtype))
    return torch.cat(means, 1)


def window_sums(x: torch.Tensor, length: int, axis: int) -> torch.Tensor:
    """Add up ``length`` neighbours along an axis, which gets shorter by ``length - 1``."""
    spans = x
    shorter = x.shape[axis] - length + 1
    total, done, span = None, 0, 1
    while True:
        if length & span:  # spans[i] is the sum of x[i] to x[i + span - 1]
            part = spans.narrow(axis, done, shorter)
            total, done = part if total is None else total + part, done + span
        if done == length:
            return total  # type: ignore[return-value]
        rest = spans.shape[axis] - span
        spans = spans.narrow(axis, 0, rest) + spans.narrow(axis, span, rest)
        span *= 2


def spread(means: torch.Tensor, extents: tuple[int, int]) -> torch.Tensor:
    """Give each pixel the mean of its window: of the one around it, or of the nearest that fits into the image.

    Parameters
    ----------
    means
        (B, C, y, x), as :func:`local_mean` gives, or something computed of each of them.
    extents
        Y and X of the maps that were averaged.

    Returns
    -------
    torch.Tensor
        (B, C, Y, X), or 1 in place of an extent that one window covers, for broadcasting.
    """
    missing = [extent - found if found > 1 else 0 for extent, found in zip(extents, means.shape[-2:], strict=True)]
    if not any(missing):
        return means
    (top, bottom), (left, right) = ((n // 2, n - n // 2) for n in missing)  # of an even window, the earlier middle
    return F.pad(means, (left, right, top, bottom), mode="replicate")
