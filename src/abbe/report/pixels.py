"""Reading an image band by band, and what one such pass says of it, in memory that does not grow with the image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from abbe.data.image import Image
from abbe.errors import AbbeError

BAND_VALUES = 2**22
"""Values that one band may hold; at least one row is read whatever its width."""
SLAB_VALUES = 2**24
"""Values that one slab of a volume may hold: more than a band, since its chunks may be several planes deep."""
SAMPLE_PIXELS = 2**20
"""Pixels per channel that percentiles are taken from, about."""
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


def as_volume(image: Image | np.ndarray, shape: tuple[int, ...] | None = None) -> Image:
    """Give arrays (Z, Y, X) and (C, Z, Y, X) the face of an image CZYX.

    Raises
    ------
    AbbeError
        If the volume does not lie on `shape`, that of its labels.
    """
    if isinstance(image, np.ndarray):
        image = Image(image if image.ndim == 4 else image[None], "CZYX")
    if shape is not None and image.extents != tuple(shape):
        found, expected = (" × ".join(map(str, extents)) for extents in (image.extents, shape))
        raise AbbeError(f"{image.name or 'image'}: {found} pixels, but its labels are {expected}")
    return image


def slabs(volume: Image, multiple: int = 1) -> Iterator[tuple[int, int, np.ndarray]]:
    """Read an image CZYX piece by piece: first plane, first row and (C, planes, rows, X).

    Pieces are planes as far as they fit into memory, else a part of one plane; the rows of such a part are a multiple
    of `multiple`.
    """
    depth, height, width = volume.extents
    row = max(1, volume.n_channels * width)
    rows = min(height, max(1, SLAB_VALUES // (row * multiple)) * multiple)
    planes = max(1, SLAB_VALUES // (row * rows))
    for z0 in range(0, depth, planes):
        for y0 in range(0, height, rows):
            spans = ((z0, min(z0 + planes, depth)), (y0, min(y0 + rows, height)), (0, width))
            slab = volume.box(spans)
            yield z0, y0, slab.view(np.uint8) if slab.dtype == bool else slab


@dataclass(frozen=True)
class Survey:
    """What one pass over an image says of it. Values are in the image's own grey levels, non-finite ones left out."""

    shape: tuple[int, ...]
    """(C, Y, X), or (C, Z, Y, X) of a volume; of a series that of one frame."""
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
    frames: int = 1
    """Planes or volumes of a series."""


def survey(image: Pixels | np.ndarray | Sequence[Pixels | np.ndarray]) -> Survey:
    """Look once at every pixel of an image, piece by piece.

    Parameters
    ----------
    image
        A reader of a picture, an :class:`abbe.data.image.Image` CZYX, an array (Y, X), (C, Y, X) or (C, Z, Y, X), or
        a sequence of such frames, all of one shape.
    """
    frames = list(image) if isinstance(image, Sequence) else [image]
    shape, dtype = _shape_and_type(frames[0])
    step = max(1, math.isqrt(math.ceil(len(frames) * math.prod(shape[1:]) / SAMPLE_PIXELS)))
    tally = _Tally()
    sampled = []
    for frame in frames:
        for y0, piece in _pieces(frame):
            tally.add(piece)
            # A copy, for a view would keep the whole piece.
            sampled.append(piece[..., -y0 % step :: step, ::step].reshape(len(piece), -1).copy())
    percentiles = _percentiles(np.concatenate(sampled, axis=1))
    integer = np.dtype(dtype).kind in "biu"
    at_full_scale = integer and tally.maximum in FULL_SCALES
    return Survey(
        shape=shape,
        integer=integer,
        mean=tally.total / tally.finite if tally.finite else math.nan,
        minimum=tally.minimum,
        maximum=tally.maximum,
        saturated=tally.at_maximum / tally.finite if at_full_scale else 0.0,
        not_finite=1.0 - tally.finite / tally.values if tally.values else 0.0,
        limits=tuple((float(low), float(high)) for _, low, high, _ in percentiles),
        contrast=float(max((last - first for first, _, _, last in percentiles), default=0.0)),
        frames=len(frames),
    )


def is_volume(image: Any) -> bool:
    """Tell an image CZYX, or an array of four axes, from a picture."""
    return image.ndim == 4 if isinstance(image, np.ndarray) else getattr(image, "axes", "") == "CZYX"


def _shape_and_type(frame: Any) -> tuple[tuple[int, ...], np.dtype]:
    """(C, Y, X) or (C, Z, Y, X), and the type of the values."""
    if is_volume(frame):
        volume = as_volume(frame)
        return (volume.n_channels, *volume.extents), volume.dtype
    pixels = as_pixels(frame)
    return (pixels.n_channels, pixels.height, pixels.width), pixels.dtype


def _pieces(frame: Any) -> Iterator[tuple[int, np.ndarray]]:
    """First row and (C, ..., rows, X) of the pieces of a picture or a volume."""
    if is_volume(frame):
        return ((y0, slab) for _, y0, slab in slabs(as_volume(frame)))
    return bands(as_pixels(frame))


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
