"""Grey values to numbers that a network expects: statistics of the whole image, so that a tile never differs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

MAX_PIXELS = 2**24
"""Up to here statistics use every pixel; a larger image is sampled by blocks on a regular grid."""
COUNTED = 2**20
"""Values that are counted at a time, since counting widens them."""
BLOCK = 256
BLOCKS_PER_AXIS = 12

Region = Callable[[int, int, int, int], np.ndarray]


@dataclass(frozen=True)
class Normalization:
    """How grey values become network input; it travels with the model."""

    kind: Literal["percentile", "minmax", "zscore", "none"] = "percentile"
    """percentile: ``low`` to 0 and ``high`` to 1; minmax: the extremes; zscore: mean 0, deviation 1; none: as is."""
    low: float = 1.0
    """Percentile that becomes 0."""
    high: float = 99.8
    """Percentile that becomes 1."""
    joint: bool = True
    """One range for all channels, which keeps colours; otherwise one for each."""

    def statistics(self, region: Region, shape: tuple[int, int, int]) -> Statistics:
        """Measure an image of ``shape`` (C, Y, X) that is read through ``region(y0, y1, x0, x1)``."""
        return self.measure(sample_pixels(region, shape))

    def measure(self, pixels: np.ndarray) -> Statistics:
        """Measure (C, ...) pixels; NaN and infinity are left out."""
        pixels = pixels.view(np.uint8) if pixels.dtype == bool else pixels  # there are no percentiles of bool
        rows = pixels.reshape(1 if self.joint else len(pixels), -1)
        pairs = [self._range(row[np.isfinite(row)] if row.dtype.kind == "f" else row) for row in rows]
        offset, scale = (np.array(values, np.float32).reshape(-1, 1, 1) for values in zip(*pairs, strict=True))
        return Statistics(offset, scale)

    def normalize(self, image: np.ndarray) -> np.ndarray:
        """Measure and normalise a whole image (C, Y, X) or (C, Z, Y, X)."""
        flat = image.reshape(len(image), -1, image.shape[-1])
        return self.measure(image).apply(flat).reshape(image.shape)

    def _range(self, values: np.ndarray) -> tuple[float, float]:
        """Offset and scale; a constant image has scale 1."""
        if self.kind == "none" or values.size == 0:
            return 0.0, 1.0
        if self.kind == "zscore":
            return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64)) or 1.0
        low, high = self._bounds(values)
        return low, (high - low) or 1.0

    def _bounds(self, values: np.ndarray) -> tuple[float, float]:
        if self.kind == "minmax":
            return float(values.min()), float(values.max())
        low, high = percentiles(values, (self.low, self.high))
        if low == high:  # more than 98.8 % of the image is one value: take what is left of the contrast
            low, high = values.min(), values.max()
        return float(low), float(high)


@dataclass(frozen=True)
class Statistics:
    """What was measured of one image: ``(value - offset) / scale``, each (C or 1, 1, 1)."""

    offset: np.ndarray
    scale: np.ndarray

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Normalise (C, Y, X) pixels to float32; NaN and infinity become 0."""
        normalised = pixels.astype(np.float32)
        normalised -= self.offset
        normalised /= self.scale
        if pixels.dtype.kind == "f":
            np.nan_to_num(normalised, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        return normalised


def percentiles(values: np.ndarray, wanted: tuple[float, ...]) -> list[float]:
    """Compute percentiles as ``np.percentile`` does; of 8- and 16-bit numbers by counting them, in little memory."""
    if values.dtype not in (np.uint8, np.uint16):
        return np.percentile(values, wanted).tolist()
    top = np.iinfo(values.dtype).max + 1
    parts = (values[i : i + COUNTED] for i in range(0, values.size, COUNTED))
    cumulative = np.cumsum(sum(np.bincount(part, minlength=top) for part in parts))
    places = np.array(wanted) / 100 * (values.size - 1)
    below, above = (np.searchsorted(cumulative, rounded(places), side="right") for rounded in (np.floor, np.ceil))
    return (below + (above - below) * (places % 1)).tolist()


def sample_pixels(region: Region, shape: tuple[int, int, int]) -> np.ndarray:
    """Read (C, N) pixels: all of a small image, blocks on a regular grid of a large one."""
    channels, height, width = shape
    if height * width <= MAX_PIXELS:
        return region(0, height, 0, width).reshape(channels, -1)
    blocks = [
        region(y, min(y + BLOCK, height), x, min(x + BLOCK, width)).reshape(channels, -1)
        for y in _starts(height)
        for x in _starts(width)
    ]
    return np.concatenate(blocks, axis=1)


def _starts(extent: int) -> np.ndarray:
    return np.unique(np.linspace(0, max(extent - BLOCK, 0), BLOCKS_PER_AXIS).astype(int))
