"""Reading an image band by band, and what one such pass says of it, in memory that does not grow with the image."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from abbe.errors import AbbeError

BAND_VALUES = 2**22
"""Values that one band may hold; at least one row is read whatever its width."""
SAMPLE_PIXELS = 2**20
"""Pixels per channel that percentiles are taken from."""
FULL_SCALES = (255, 1023, 4095, 16383, 65535)
"""Largest values of cameras with 8, 10, 12, 14 and 16 bits."""


class Pixels(Protocol):
    """A (C, Y, X) image that is read region by region; :class:`abbe.data.image.Image` is one once it is planar."""

    @property
    def height(self) -> int:
        """Extent along Y."""

    @property
    def width(self) -> int:
        """Extent along X."""

    @property
    def n_channels(self) -> int:
        """Extent along C."""

    @property
    def dtype(self) -> np.dtype:
        """Type of the values of a region."""

    def region(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Read (C, y1 - y0, x1 - x0)."""


@dataclass(frozen=True)
class ArrayPixels:
    """An array in memory, or a memory map, as :class:`Pixels`."""

    array: np.ndarray
    """(C, Y, X)."""

    @property
    def height(self) -> int:
        """Extent along Y."""
        return self.array.shape[1]

    @property
    def width(self) -> int:
        """Extent along X."""
        return self.array.shape[2]

    @property
    def n_channels(self) -> int:
        """Extent along C."""
        return self.array.shape[0]

    @property
    def dtype(self) -> np.dtype:
        """Type of the array."""
        return self.array.dtype

    def region(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Cut (C, y1 - y0, x1 - x0) out of the array."""
        return self.array[:, y0:y1, x0:x1]


def as_pixels(image: Pixels | np.ndarray, shape: tuple[int, int] | None = None) -> Pixels:
    """Give arrays and readers one face.

    Parameters
    ----------
    image
        A reader, or an array (Y, X), (C, Y, X) or, where `shape` says that it must be so, (Y, X, C).
    shape
        (Y, X) that the image has to have, that of its labels; None where any will do.

    Raises
    ------
    AbbeError
        If the image does not lie on `shape`.
    """
    pixels = ArrayPixels(_channels_first(image, shape)) if isinstance(image, np.ndarray) else image
    found = (pixels.height, pixels.width)
    if shape is not None and found != tuple(shape):
        raise AbbeError(f"image of {found[0]} × {found[1]} pixels, but its labels are {shape[0]} × {shape[1]}")
    return pixels


def _channels_first(array: np.ndarray, shape: tuple[int, int] | None) -> np.ndarray:
    if array.ndim == 2:
        return array[None]
    if array.ndim != 3:
        raise AbbeError(f"array with {array.ndim} axes, but a picture is drawn of (Y, X) or (C, Y, X)")
    if shape is not None and array.shape[1:] != tuple(shape) and array.shape[:2] == tuple(shape):
        return np.moveaxis(array, -1, 0)
    return array


def bands(pixels: Pixels, multiple: int = 1) -> Iterator[tuple[int, np.ndarray]]:
    """Read an image from top to bottom: pairs of first row and (C, rows, X), rows being a multiple of `multiple`."""
    rows = max(1, BAND_VALUES // max(1, pixels.n_channels * pixels.width * multiple)) * multiple
    for y0 in range(0, pixels.height, rows):
        band = np.asarray(pixels.region(y0, min(y0 + rows, pixels.height), 0, pixels.width))
        yield y0, band.view(np.uint8) if band.dtype == bool else band


@dataclass(frozen=True)
class Survey:
    """What one pass over an image says of it. Values are in the image's own grey levels, non-finite ones left out."""

    shape: tuple[int, int, int]
    """(C, Y, X)."""
    integer: bool
    """Whether grey levels are whole numbers."""
    mean: float
    """Over all channels; NaN where no value is finite."""
    minimum: float
    """Smallest value of all channels; infinity where no value is finite."""
    maximum: float
    """Largest value of all channels; minus infinity where no value is finite."""
    saturated: float
    """Share of the values at the full scale of a camera of 8 to 16 bits; 0 where the image does not reach one."""
    not_finite: float
    """Share of the values that are NaN or infinite."""
    limits: tuple[tuple[float, float], ...]
    """Per channel its 1st and 99.8th percentile, between which it is shown."""
    contrast: float
    """Distance of the 0.01th from the 99.99th percentile, that of the channel where it is largest."""


def survey(image: Pixels | np.ndarray) -> Survey:
    """Look once at every pixel of an image, a reader or an array (Y, X) or (C, Y, X), band by band."""
    pixels = as_pixels(image)
    step = max(1, math.isqrt(math.ceil(pixels.height * pixels.width / SAMPLE_PIXELS)))
    tally = _Tally()
    sampled = []
    for y0, band in bands(pixels):
        tally.add(band)
        sampled.append(band[:, -y0 % step :: step, ::step].copy())  # a view would keep the whole band
    percentiles = _percentiles(np.concatenate(sampled, axis=1))
    integer = np.dtype(pixels.dtype).kind in "biu"
    at_full_scale = integer and tally.maximum in FULL_SCALES
    return Survey(
        shape=(pixels.n_channels, pixels.height, pixels.width),
        integer=integer,
        mean=tally.total / tally.finite if tally.finite else math.nan,
        minimum=tally.minimum,
        maximum=tally.maximum,
        saturated=tally.at_maximum / tally.finite if at_full_scale else 0.0,
        not_finite=1.0 - tally.finite / tally.values if tally.values else 0.0,
        limits=tuple((float(low), float(high)) for _, low, high, _ in percentiles),
        contrast=float(max((last - first for first, _, _, last in percentiles), default=0.0)),
    )


@dataclass
class _Tally:
    """Running totals over bands."""

    values: int = 0
    finite: int = 0
    total: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf
    at_maximum: int = 0

    def add(self, band: np.ndarray) -> None:
        """Take in the values of one band."""
        values: Any = band[np.isfinite(band)] if band.dtype.kind == "f" else band
        self.values += band.size
        if values.size == 0:
            return
        self.finite += values.size
        with np.errstate(over="ignore"):  # near the end of float64 the mean is infinite
            self.total += float(values.sum(dtype=np.float64))
        self.minimum = min(self.minimum, float(values.min()))
        top = values.max()
        if top > self.maximum:
            self.maximum, self.at_maximum = float(top), 0
        if top == self.maximum:
            self.at_maximum += int(np.count_nonzero(values == top))


def _percentiles(sample: np.ndarray) -> list[np.ndarray]:
    """Take the 0.01th, 1st, 99.8th and 99.99th percentile of each channel; zeros where nothing is finite."""
    rows = []
    for channel in sample:
        finite = channel[np.isfinite(channel)].astype(np.float64)
        rows.append(np.percentile(finite, (0.01, 1.0, 99.8, 99.99)) if finite.size else np.zeros(4))
    return rows
