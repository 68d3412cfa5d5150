"""Grey values to numbers that a network expects: statistics of the whole image, so that a tile never differs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from abbe.errors import AbbeError
from abbe.ops.boxes import Box, whole

MAX_PIXELS = 2**24
"""Up to here statistics use every pixel; a larger image is sampled by blocks on a regular grid."""
COUNTED = 2**20
"""Values that are counted at a time, since counting widens them."""
BLOCK = 256
BLOCKS = 144
"""About as many blocks."""

Region = Callable[[Box], np.ndarray]


@dataclass(frozen=True)
class Normalization:
    """How grey values become network input; it travels with the model."""

    kind: Literal["percentile", "minmax", "zscore", "range", "fixed", "none"] = "percentile"
    """percentile: ``low`` to 0 and ``high`` to 1; minmax: the extremes; zscore: mean 0, deviation 1; range: what a type
    of 8 or 16 bits can hold to 0 and 1, fractions between these as they are, others by percentiles; fixed: ``offset``
    and ``scale``, whatever the image is; none: as is."""
    low: float = 1.0
    """Percentile that becomes 0."""
    high: float = 99.8
    """Percentile that becomes 1."""
    joint: bool = True
    """One range for all channels, which keeps colours; otherwise one for each."""
    offset: tuple[float, ...] = ()
    """Of fixed: the value that becomes 0, in each channel or in all of them."""
    scale: tuple[float, ...] = ()
    """Of fixed: the distance from it that becomes 1."""

    def statistics(self, region: Region, shape: Sequence[int]) -> Statistics:
        """Measure an image of extents ``shape``, (Z,) Y, X, whose ``region`` gives boxes (C, ...)."""
        if self.kind == "fixed":
            return self._known()
        return self.measure(sample_pixels(region, shape))

    def measure(self, pixels: np.ndarray) -> Statistics:
        """Measure (C, ...) pixels; NaN and infinity are left out."""
        if self.kind == "fixed":
            return self._known()
        rows = _countable(pixels).reshape(1 if self.joint else len(pixels), -1)
        base = _base(rows) if self.kind != "none" else None
        if base is not None:
            rows = distance(rows, base[:, None])
        ends = range_of(pixels) if self.kind == "range" else None
        pairs = [ends or self._range(row[np.isfinite(row)] if row.dtype.kind == "f" else row) for row in rows]
        offset, scale = (np.array(values, np.float64) for values in zip(*pairs, strict=True))
        return Statistics(offset, scale, base)

    def normalize(self, image: np.ndarray) -> np.ndarray:
        """Measure and normalise a whole image (C, Y, X) or (C, Z, Y, X)."""
        return self.measure(image).apply(image)

    def _known(self) -> Statistics:
        if not self.offset or len(self.offset) != len(self.scale) or 0 in self.scale:
            raise AbbeError(f"normalization: offset {self.offset} and scale {self.scale}; expected as many, no scale 0")
        return Statistics(np.array(self.offset, np.float64), np.array(self.scale, np.float64))

    def _range(self, values: np.ndarray) -> tuple[float, float]:
        """Offset and scale; a constant image has scale 1."""
        if self.kind == "none" or values.size == 0:
            return 0.0, 1.0
        if self.kind == "zscore":
            with np.errstate(over="ignore"):
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
    """What was measured of one image: ``(value - base - offset) / scale``, each (C,) or (1,)."""

    offset: np.ndarray
    """float64."""
    scale: np.ndarray
    """float64."""
    base: np.ndarray | None = None
    """Of 64-bit whole numbers the smallest that was seen, in their type; None for all other types."""

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Normalise (C, ...) pixels to float32; NaN and infinity become 0.

        Types that float32 does not hold exactly are brought near zero before they become float32: neighbouring values
        of a 32-bit camera with a high offset stay apart.
        """
        channels = (-1, *[1] * (pixels.ndim - 1))
        if self.base is not None:
            pixels = distance(pixels, self.base.reshape(channels))
        exact = np.can_cast(pixels.dtype, np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # at the ends of floating point types
            normalised = pixels.astype(np.float32 if exact else np.float64)
            np.subtract(normalised, self.offset.astype(normalised.dtype).reshape(channels), out=normalised)
            np.divide(normalised, self.scale.astype(normalised.dtype).reshape(channels), out=normalised)
            normalised = normalised.astype(np.float32, copy=False)
        if pixels.dtype.kind == "f":
            np.nan_to_num(normalised, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        return normalised

    def invert(self, normalised: np.ndarray) -> np.ndarray:
        """Bring normalised (C, ...) back to the values of the image, float64."""
        channels = (-1, *[1] * (normalised.ndim - 1))
        values = normalised.astype(np.float64) * self.scale.reshape(channels) + self.offset.reshape(channels)
        return values if self.base is None else values + self.base.astype(np.float64).reshape(channels)


@dataclass(frozen=True)
class Colours:
    """What weights that others published want done to values from 0 to 1; nothing where it is empty."""

    mean: tuple[float, ...] = ()
    """Subtracted from each channel."""
    std: tuple[float, ...] = ()
    """What each channel is divided by then."""

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Apply it to (C, ...), float32."""
        if not self.mean:
            return pixels
        shape = (-1, *[1] * (pixels.ndim - 1))
        mean, std = (np.array(values, np.float32).reshape(shape) for values in (self.mean, self.std))
        return (pixels - mean) / std


def range_of(pixels: np.ndarray) -> tuple[float, float] | None:
    """Offset and scale of what a type of up to 16 bits can hold, or of fractions from 0 to 1; None for other values."""
    if pixels.dtype == bool:
        return 0.0, 1.0
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= 2:
        ends = np.iinfo(pixels.dtype)
        return float(ends.min), float(ends.max) - float(ends.min)
    if pixels.dtype.kind != "f":
        return None
    finite = pixels[np.isfinite(pixels)]
    return (0.0, 1.0) if finite.size == 0 or (finite.min() >= 0 and finite.max() <= 1) else None


def distance(values: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Subtract 64-bit whole numbers exactly, whatever their signs, and only then give float64."""
    gap = values.astype(np.uint64) - base.astype(np.uint64)  # modulo 2⁶⁴, in which negative numbers are right too
    below = values < base
    np.negative(gap, out=gap, where=below)
    distances = gap.astype(np.float64)
    np.negative(distances, out=distances, where=below)
    return distances


def _countable(pixels: np.ndarray) -> np.ndarray:
    """Widen types that have no percentiles: bool, and float16, whose differences overflow."""
    if pixels.dtype == bool:
        return pixels.view(np.uint8)
    return pixels.astype(np.float32) if pixels.dtype == np.float16 else pixels


def _base(rows: np.ndarray) -> np.ndarray | None:
    """Take the smallest value of each row of 64-bit whole numbers, which float64 does not hold."""
    exact = rows.dtype.kind not in "iu" or rows.dtype.itemsize < 8 or rows.size == 0
    return None if exact else rows.min(axis=1)


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


def sample_pixels(region: Region, shape: Sequence[int]) -> np.ndarray:
    """Read (C, N) pixels: all of a small image, blocks on a regular grid of a large one."""
    if math.prod(shape) <= MAX_PIXELS:
        pixels = region(whole(shape))
        return pixels.reshape(len(pixels), -1)
    per_axis = round(BLOCKS ** (1 / len(shape)))
    sides = BLOCK if len(shape) == 2 else round((BLOCK * BLOCK) ** (1 / len(shape)))
    spans = [[(start, min(start + sides, extent)) for start in _starts(extent, sides, per_axis)] for extent in shape]
    blocks = [region(box) for box in itertools.product(*spans)]
    return np.concatenate([block.reshape(len(block), -1) for block in blocks], axis=1)


def _starts(extent: int, side: int, number: int) -> list[int]:
    return np.unique(np.linspace(0, max(extent - side, 0), number).astype(int)).tolist()
