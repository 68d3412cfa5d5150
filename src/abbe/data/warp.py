"""Resampling along one map of coordinates: images interpolated once, labels looked up, never mixed.

What lies outside the image is its mirror image. Only what is asked for is computed, so the cost does not grow with the
image.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch.nn import functional as F

MAX_SHIFTS = {2: 4, 3: 2}
"""Places per axis, by the number of axes, at which a pixel's footprint is sampled at most."""


@dataclass
class Warp:
    """Where pixel p of a crop lies: centre + matrix (p + displacement), p counted from the crop's middle.

    In planes (Y, X), or in stacks as solids (Z, Y, X).
    """

    size: tuple[int, ...]
    matrix: np.ndarray
    centre: np.ndarray
    displacement: np.ndarray | None
    exact: bool
    """Every place is a pixel: nothing to interpolate."""

    def __post_init__(self) -> None:
        crop = list(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in self.size), indexing="ij", sparse=True))
        if self.displacement is not None:
            crop = [place + shift for place, shift in zip(crop, self.displacement, strict=True)]
        rows = zip(self.centre, self.matrix, strict=True)
        # Terms of weight 0 are left out: an axis that stays by itself has one row of places, not a whole grid.
        self.places = tuple(sum((w * x for w, x in zip(row, crop) if w), np.array(c)) for c, row in rows)

    @property
    def step(self) -> float:
        """Pixels of the image per pixel of the crop, the mean over directions."""
        return float(abs(np.linalg.det(self.matrix)) ** (1 / len(self.size)))

    def nearest(self, array: np.ndarray) -> np.ndarray:
        """Look up the nearest pixel of ``array`` (..., [Z,] Y, X)."""
        extents = array.shape[-len(self.size) :]
        index = [mirror(np.rint(place).astype(np.intp), n) for place, n in zip(self.places, extents, strict=True)]
        everywhere: tuple[Any, ...] = (..., *np.broadcast_arrays(*index))
        return array[everywhere]

    def linear(self, array: np.ndarray) -> np.ndarray:
        """Interpolate ``array`` (..., [Z,] Y, X) linearly, or where it shrinks, average each pixel's footprint."""
        if self.exact:
            return self.nearest(array)
        # As many places per pixel as it covers pixels of the image, so that shrinking does not alias.
        axes = len(self.size)
        count = min(int(np.ceil(self.step - 0.25)), MAX_SHIFTS[axes]) if self.step > 1.25 else 1
        offsets = (np.arange(count) + 0.5) / count - 0.5
        shifts = [self.matrix @ shift for shift in itertools.product(offsets, repeat=axes)]
        result = interpolate(array, self.places, shifts)
        return result.reshape(*array.shape[:-axes], *self.size)


def interpolate(array: np.ndarray, places: tuple[np.ndarray, ...], shifts: list[np.ndarray]) -> np.ndarray:
    """Mean over ``shifts`` of the values at ``places`` + shift, (C, *grid), the places' grid broadcast."""
    axes, extents = len(places), array.shape[-len(places) :]
    shape = np.broadcast_shapes(*(place.shape for place in places))
    margin = np.max(np.abs(shifts), axis=0)
    spans = [span(place, pad, n) for place, pad, n in zip(places, margin, extents)]
    needed: tuple[Any, ...] = (..., *(slice(start, stop) for start, stop in spans))
    part = array[needed]
    window = torch.from_numpy(np.ascontiguousarray(part)).reshape(1, -1, *part.shape[-axes:])
    total = torch.zeros(())
    for shift in shifts:
        grid = np.empty((1, *shape, axes), dtype=np.float32)
        for axis, (start, stop) in enumerate(spans):  # grid_sample wants (x, y[, z]) from -1 to 1
            place = mirror(places[axis] + shift[axis], extents[axis])
            grid[0, ..., axes - 1 - axis] = (place - start) * (2 / max(stop - start - 1, 1)) - 1
        warped = F.grid_sample(window, torch.from_numpy(grid), padding_mode="border", align_corners=True)
        total = total + warped
    return (total / len(shifts))[0].numpy()


def span(place: np.ndarray, margin: float, extent: int) -> tuple[int, int]:
    """First and last pixel + 1 of the image that mirrored places can ask for."""
    low, high = int(np.floor(place.min() - margin)), int(np.ceil(place.max() + margin)) + 1
    if low >= 0 and high <= extent:
        return low, high
    mirrored_low = 0 if low < 0 else min(low, max(0, 2 * extent - 1 - high))
    mirrored_high = extent if high > extent else max(high, min(extent, 1 - low))
    return mirrored_low, mirrored_high


def mirror(place: np.ndarray, extent: int) -> np.ndarray:
    """Fold places outside [0, extent - 1] back, the border pixels as mirrors."""
    if place.min() >= 0 and place.max() <= extent - 1:
        return place
    if extent == 1:
        return np.zeros_like(place)
    last = extent - 1
    return last - np.abs(np.mod(place, 2 * last) - last)


def upsample(coarse: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Interpolate coarse grids (N, [l,] n, m) to (N, [Z,] Y, X) by cubic splines, the outer points on the border."""
    for axis, extent in enumerate(size, 1):
        n = coarse.shape[axis]
        weights = CubicSpline(np.linspace(0, 1, n), np.eye(n), bc_type="natural")(np.linspace(0, 1, extent))
        coarse = np.moveaxis(np.tensordot(weights, coarse, (1, axis)), 0, axis)
    return coarse
