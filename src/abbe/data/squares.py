"""Pictures of any size brought to the square that a classifier takes, whole or cut around an object."""

from __future__ import annotations

from typing import Literal

import numpy as np

from abbe.data.resample import resize
from abbe.ops.boxes import Box

Fit = Literal["crop", "pad", "stretch"]
"""crop: the shorter side fills the square; pad: the longer one does, the rest is mirrored; stretch: both do."""


def shape_for(extents: tuple[int, ...], size: int, fit: Fit) -> tuple[int, int]:
    """Give the (Y, X) to which a picture is scaled before it is cut or padded to the square."""
    if fit == "stretch":
        return size, size
    height, width = extents
    side = min(extents) if fit == "crop" else max(extents)
    return max(1, round(height * size / side)), max(1, round(width * size / side))


def scale_to(pixels: np.ndarray, size: int, fit: Fit) -> np.ndarray:
    """Scale (C, Y, X), float32, so that its middle square is what the network is to see.

    With "crop" the longer side is at least ``size`` and nothing is cut: training takes its crops from all of it. With
    "pad" what is missing of the square is mirrored.
    """
    scaled = resize(pixels, shape_for(pixels.shape[1:], size, fit))
    return pad_square(scaled, size) if fit == "pad" else scaled


def square(pixels: np.ndarray, size: int, fit: Fit) -> np.ndarray:
    """Bring (C, Y, X), float32, to (C, size, size)."""
    scaled = scale_to(pixels, size, fit)
    top, left = ((extent - size) // 2 for extent in scaled.shape[1:])
    return np.ascontiguousarray(scaled[:, top : top + size, left : left + size])


def pad_square(pixels: np.ndarray, size: int) -> np.ndarray:
    """Put (C, Y, X) of at most ``size`` into the middle of a square, mirrored around it as often as it takes."""
    before = [(size - extent) // 2 for extent in pixels.shape[1:]]
    places = [_mirrored(np.arange(size) - start, extent) for start, extent in zip(before, pixels.shape[1:])]
    return pixels[:, places[0][:, None], places[1]]


def around(box: Box, side: int | None = None, margin: float = 0.0) -> Box:
    """Give the square around an object's box; it may reach beyond the image.

    Parameters
    ----------
    box
        Of the object, (Y, X) spans.
    side
        Of the square in pixels; the longer side of the box and ``margin`` of it on each side unless given.
    margin
        Context around the object, as a share of its longer side.
    """
    longest = max(stop - start for start, stop in box)
    extent = side if side is not None else max(1, round(longest * (1 + 2 * margin)))
    starts = [(start + stop - extent) // 2 for start, stop in box]
    return tuple((start, start + extent) for start in starts)


def inside(box: Box, extents: tuple[int, ...]) -> Box:
    """Give the part of a box that an image covers; what lies wholly beside it gets the nearest pixel."""
    return tuple(
        (min(max(start, 0), extent - 1), max(min(stop, extent), 1)) for (start, stop), extent in zip(box, extents)
    )


def mirror_out(pixels: np.ndarray, part: Box, box: Box) -> np.ndarray:
    """Extend (C, Y, X), read from the box ``part``, to ``box`` by mirroring at its edges."""
    places = [
        _mirrored(np.arange(start, stop) - first, last - first)
        for (start, stop), (first, last) in zip(box, part, strict=True)
    ]
    return pixels[:, places[0][:, None], places[1]]


def _mirrored(places: np.ndarray, extent: int) -> np.ndarray:
    """Fold places outside [0, extent) back, the border pixels as mirrors."""
    if extent == 1:
        return np.zeros_like(places)
    last = extent - 1
    return last - np.abs(np.mod(places, 2 * last) - last)
