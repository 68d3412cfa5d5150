"""Contours of the objects on the image they were found in, readable on dark fluorescence and on bright tissue."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from abbe.ops.labels import boundaries
from abbe.report.pixels import Pixels, as_pixels, bands, survey

PALETTE = np.array([(255, 214, 10), (0, 229, 255), (255, 64, 200), (120, 255, 60), (255, 120, 40)], np.uint8)
"""Contour colours: bright enough for black ground, saturated enough for white."""
COMPOSITE = np.array([(0.25, 0.55, 1.0), (0.2, 1.0, 0.3), (1.0, 0.25, 0.25), (0.9, 0.8, 0.1)], np.float32)
"""Colours in which two channels, or the first four of more than three, are added up."""
HALO = 0.35
"""What is left of the image's brightness beside a contour: on bright images the dark rim is what one sees."""
FINE_SIDE, MEDIAN_SIDE = 512, 24
"""Contours are two pixels thick where the picture and the median object are larger than this."""

Limits = tuple[tuple[float, float], ...]


def overlay(image: np.ndarray, labels: np.ndarray, max_side: int = 4096, *, limits: Limits | None = None) -> np.ndarray:
    """Draw the contours of `labels` on an image in memory; see :func:`overlay_of`.

    Parameters
    ----------
    image
        (Y, X), (C, Y, X) or (Y, X, C), any number type; NaN and infinity are shown black and white.
    labels
        (Y, X), 0 is background.
    """
    return overlay_of(image, labels, max_side, limits=limits)


def overlay_of(
    image: Pixels | np.ndarray, labels: np.ndarray, max_side: int = 4096, *, limits: Limits | None = None
) -> np.ndarray:
    """Draw the contours of `labels` on an image that is read band by band.

    Images larger than `max_side` shrink by a whole factor, the picture by averaging and the labels by their nearest
    pixel; contours are found afterwards, so that they stay visible. Grey images are stretched between their
    percentiles, three channels are red, green and blue under a common stretch, other numbers are added up in colours.

    Parameters
    ----------
    image
        A reader or an array.
    labels
        (Y, X) array or memory map, 0 is background.
    max_side
        Longest side of the picture in pixels, positive.
    limits
        Per channel the values that become black and white, as in :class:`abbe.report.pixels.Survey`, which
        saves a second pass over the image; None finds them.

    Returns
    -------
    numpy.ndarray
        (Y, X, 3), uint8.

    Raises
    ------
    AbbeError
        If image and labels differ in size.
    """
    height, width = labels.shape
    pixels = as_pixels(image, (height, width))
    factor = max(1, math.ceil(max(height, width) / max_side))
    picture = _shrunk_picture(pixels, limits or survey(pixels).limits, factor)
    # The nearest pixel to a block's centre; the last block may be cut by the image's edge.
    rows = np.minimum(np.arange(picture.shape[0]) * factor + factor // 2, height - 1)
    columns = np.minimum(np.arange(picture.shape[1]) * factor + factor // 2, width - 1)
    shown = np.asarray(labels[rows])[:, columns] if factor > 1 else np.asarray(labels)
    return _draw(picture, shown)


def _shrunk_picture(pixels: Pixels, limits: Limits, factor: int) -> np.ndarray:
    """Read the image once, a band at a time, into (Y, X, 3) uint8 with sides divided by `factor`, rounded up."""
    shape = (math.ceil(pixels.height / factor), math.ceil(pixels.width / factor), 3)
    picture = np.empty(shape, np.uint8)
    for y0, band in bands(pixels, factor):
        block = _coloured(_block_mean(band, factor), limits)
        picture[y0 // factor : y0 // factor + block.shape[0]] = block
    return picture


def _block_mean(band: np.ndarray, factor: int) -> np.ndarray:
    """Average squares of `factor` pixels, (C, Y, X); what the edge cuts off is averaged over what is there.

    float32, or float64 for values that float32 does not hold exactly.
    """
    kind = np.result_type(band.dtype, np.float32)
    if factor == 1:
        return band.astype(kind)
    channels, height, width = band.shape
    sums = np.zeros((channels, math.ceil(height / factor), math.ceil(width / factor)), kind)
    counts = np.zeros(sums.shape[1:], np.float32)
    for y, x in np.ndindex(factor, factor):
        part = band[:, y::factor, x::factor]
        sums[:, : part.shape[1], : part.shape[2]] += part
        counts[: part.shape[1], : part.shape[2]] += 1
    return sums / counts


def _coloured(band: np.ndarray, limits: Limits) -> np.ndarray:
    """Turn grey values (C, Y, X), which are overwritten, into colours (Y, X, 3) or, of one channel, (Y, X, 1) uint8."""
    if len(band) == 3:  # one stretch for all three keeps the hues
        limits = ((min(low for low, _ in limits), max(high for _, high in limits)),) * 3
    for channel, (low, high) in zip(band, limits):
        _stretch(channel, low, high)
    if len(band) in (1, 3):
        return np.moveaxis(band, 0, -1).astype(np.uint8)
    n = min(len(band), len(COMPOSITE))
    return np.minimum(np.einsum("cyx,ck->yxk", band[:n], COMPOSITE[:n]), 255).astype(np.uint8)


def _stretch(channel: np.ndarray, low: float, high: float) -> None:
    """Map `low` to 0 and `high` to 255 in place; where both are one value, that becomes mid-grey."""
    with np.errstate(invalid="ignore", over="ignore"):
        channel -= low
        if high > low:
            channel *= 255 / (high - low)
        else:  # values of 64 bits may be too large for any small step beside them
            channel += 0.5
            channel *= 255
    np.clip(channel, 0, 255, out=channel)
    channel[np.isnan(channel)] = 0


def _draw(picture: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Lay contours, each object in its own colour, and a dark rim outside them over the picture, in place."""
    inside, edge = labels > 0, boundaries(labels, mode="thick")
    contour, rim = edge & inside, edge & ~inside
    if _thick(labels, picture.shape):
        contour = ndimage.binary_dilation(contour) & inside
    picture[rim] = (picture[rim] * HALO).astype(np.uint8)
    picture[contour] = PALETTE[labels[contour].astype(np.int64) % len(PALETTE)]
    return picture


def _thick(labels: np.ndarray, shape: tuple[int, ...]) -> bool:
    if max(shape[:2]) <= FINE_SIDE:
        return False
    numbers, counts = np.unique(labels[::4, ::4], return_counts=True)
    areas = counts[numbers > 0] * 16
    return bool(areas.size and np.median(areas) > MEDIAN_SIDE**2)
