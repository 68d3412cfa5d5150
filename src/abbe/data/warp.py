"""Resampling along one map of coordinates: images interpolated once, labels looked up, never mixed.

What lies outside the image is its mirror image. Only what is asked for is computed, so the cost does not grow with the
image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch.nn import functional as F


@dataclass
class Warp:
    """Where pixel p of a crop lies: centre + matrix (p + displacement), p counted from the crop's middle."""

    size: tuple[int, ...]
    matrix: np.ndarray
    centre: np.ndarray
    displacement: np.ndarray | None
    exact: bool
    """Every place is a pixel: nothing to interpolate."""

    def __post_init__(self) -> None:
        y, x = (np.arange(n) - (n - 1) / 2 for n in self.size)
        y, x = y[:, None], x[None, :]
        if self.displacement is not None:
            y, x = y + self.displacement[0], x + self.displacement[1]
        (a, b), (c, d) = self.matrix
        self.places = self.centre[0] + (a * y + b * x), self.centre[1] + (c * y + d * x)

    @property
    def step(self) -> float:
        """Pixels of the image per pixel of the crop, the mean over directions."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix))))

    def nearest(self, array: np.ndarray) -> np.ndarray:
        """Look up the nearest pixel of ``array`` (..., Y, X)."""
        y, x = (mirror(np.rint(place).astype(np.intp), extent) for place, extent in zip(self.places, array.shape[-2:]))
        return array[..., y, x]

    def linear(self, array: np.ndarray) -> np.ndarray:
        """Interpolate ``array`` (..., Y, X) linearly, or where it shrinks, average each pixel's footprint."""
        if self.exact:
            return self.nearest(array)
        # As many places per pixel as it covers pixels of the image, so that shrinking does not alias.
        count = min(int(np.ceil(self.step - 0.25)), 4) if self.step > 1.25 else 1
        offsets = (np.arange(count) + 0.5) / count - 0.5
        shifts = [self.matrix @ (dy, dx) for dy in offsets for dx in offsets]
        result = interpolate(array, self.places, shifts)
        return result.reshape(*array.shape[:-2], *self.size)


def interpolate(array: np.ndarray, places: tuple[np.ndarray, ...], shifts: list[np.ndarray]) -> np.ndarray:
    """Mean over ``shifts`` of the values at ``places`` + shift, (C, *places.shape)."""
    margin = np.max(np.abs(shifts), axis=0)
    spans = [span(place, pad, n) for place, pad, n in zip(places, margin, array.shape[-2:])]
    (y0, y1), (x0, x1) = spans
    window = torch.from_numpy(np.ascontiguousarray(array[..., y0:y1, x0:x1])).reshape(1, -1, y1 - y0, x1 - x0)
    total = torch.zeros(())
    for shift in shifts:
        grid = np.empty((1, *places[0].shape, 2), dtype=np.float32)
        for axis in (0, 1):  # grid_sample wants (x, y) from -1 to 1
            place, (start, stop) = mirror(places[axis] + shift[axis], array.shape[axis - 2]), spans[axis]
            grid[0, ..., 1 - axis] = (place - start) * (2 / max(stop - start - 1, 1)) - 1
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
    """Interpolate coarse grids (N, n, m) to (N, Y, X) by cubic splines, the outer points on the border."""
    rows, columns = (
        CubicSpline(np.linspace(0, 1, n), np.eye(n), bc_type="natural")(np.linspace(0, 1, extent))
        for n, extent in zip(coarse.shape[1:], size)
    )
    return rows @ coarse @ columns.T
