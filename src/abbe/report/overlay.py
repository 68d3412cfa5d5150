"""Contours of the objects on the image they were found in, readable on dark fluorescence and on bright tissue."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from scipy import ndimage

from abbe.data.image import Image
from abbe.data.select import Series
from abbe.ops.boxes import blocks
from abbe.ops.labels import LabelImage, boundaries
from abbe.report.pixels import Pixels, as_pixels, as_volume, bands, slabs, survey

PALETTE = np.array([(255, 214, 10), (0, 229, 255), (255, 64, 200), (120, 255, 60), (255, 120, 40)], np.uint8)
"""Contour colours: bright enough for black ground, saturated enough for white."""
COMPOSITE = np.array([(0.25, 0.55, 1.0), (0.2, 1.0, 0.3), (1.0, 0.25, 0.25), (0.9, 0.8, 0.1)], np.float32)
"""Colours in which two channels, or the first four of more than three, are added up."""
HALO = 0.35
"""What is left of the image's brightness beside a contour: on bright images the dark rim is what one sees."""
FINE_SIDE, MEDIAN_SIDE = 512, 24
"""Contours are two pixels thick where the picture and the median object are larger than this."""

CONTACTS = 9
"""Frames of a series that are shown at most."""
CAPTION, GAP = 20, 6
"""Pixels of the line above a frame, and between frames."""
SHEET, INK = 24, 235
"""Grey levels of the sheet and its captions."""
_ROWS = 256
"""Rows that are coloured together."""
_BLOCK = 1024
"""Pixels per side of what is read of labels at a time."""

SERIES_NAMES = {"T": "time", "C": "channel", "Z": "z"}
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


def picture_of(series: Series, labels: LabelImage, max_side: int = 4096, *, limits: Limits | None = None) -> np.ndarray:
    """Draw the contours of `labels` on an image; of a series on some of its frames, side by side.

    Where channels are worked on one by one, each is stretched by itself; planes and time points share a stretch.

    Parameters
    ----------
    series
        The image.
    labels
        The axes of the series, then (Z,) Y, X; 0 is background.
    max_side, limits
        As :func:`overlay_of` takes them; limits of channels that are worked on one by one are found all the same.
    """
    if not series.axes:
        return overlay_of(series[0], labels, max_side, limits=limits)
    places = (series.names(number) for number in range(len(series)))
    captions = [", ".join(f"{SERIES_NAMES[axis]} {at}" for axis, at in place.items()) for place in places]
    channels = None
    if "C" in series.axes:
        limits, channels = None, [series.index(number)[series.axes.index("C")] for number in range(len(series))]
    return contact_sheet(series, lambda number: labels[series.index(number)], max_side, limits, captions, channels)


def overlay_of(
    image: Pixels | np.ndarray, labels: LabelImage, max_side: int = 4096, *, limits: Limits | None = None
) -> np.ndarray:
    """Draw the contours of `labels` on an image that is read band by band.

    Of a volume the brightest values along z are shown, and the objects as seen from its first plane: whole outlines
    in front, of those behind what stands out. Images larger than `max_side` shrink by a whole factor, the picture by
    averaging and the labels by their nearest pixel; contours are found afterwards, so that they stay visible. Grey
    images are stretched between their percentiles, three channels are red, green and blue under a common stretch,
    other numbers are added up in colours.

    Parameters
    ----------
    image
        A reader or an array; for a volume an :class:`abbe.data.image.Image` CZYX or an array (C, Z, Y, X).
    labels
        (Y, X) or (Z, Y, X), in memory or on the disk, 0 is background.
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
    height, width = labels.shape[-2:]
    factor = max(1, math.ceil(max(height, width) / max_side))
    if labels.ndim == 3:
        volume = as_volume(image, labels.shape)  # type: ignore[arg-type]  # a reader of pictures has no depth
        picture = _projected_picture(volume, limits or survey(volume).limits, factor)
    else:
        pixels = as_pixels(image, (height, width))
        picture = _shrunk_picture(pixels, limits or survey(pixels).limits, factor)
    # The nearest pixel to a block's centre; the last block may be cut by the image's edge.
    rows = np.minimum(np.arange(picture.shape[0]) * factor + factor // 2, height - 1)
    columns = np.minimum(np.arange(picture.shape[1]) * factor + factor // 2, width - 1)
    if labels.ndim == 2:
        return _draw(picture, _nearest(labels, rows, columns))
    return _draw(picture, _from_first_plane(_nearest(labels[z], rows, columns) for z in range(len(labels))))


def _nearest(labels: LabelImage, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Read some rows and columns, which ascend, of a (Y, X) label image, block by block."""
    if labels.shape == (len(rows), len(columns)):
        return np.asarray(labels)
    picked = np.empty((len(rows), len(columns)), labels.dtype)
    for down, across in blocks(labels.shape, (_BLOCK, _BLOCK)):
        y, x = (
            slice(*np.searchsorted(places, (along.start, along.stop)))
            for places, along in ((rows, down), (columns, across))
        )
        picked[y, x] = labels[down, across][np.ix_(rows[y] - down.start, columns[x] - across.start)]
    return picked


def _from_first_plane(planes: Iterator[np.ndarray]) -> np.ndarray:
    """At each place of a stack, the first label that is met along z, (Y, X)."""
    seen = next(planes).copy()
    for plane in planes:
        np.copyto(seen, plane, where=seen == 0)
    return seen


def _projected_picture(volume: Image, limits: Limits, factor: int) -> np.ndarray:
    """Read a volume once into the maximum along z, (Y, X, 3) uint8 with sides divided by `factor`, rounded up."""
    n = volume.n_channels if volume.n_channels <= 3 else len(COMPOSITE)
    limits = _common(limits[:n])
    peaks = np.zeros((n, *(math.ceil(extent / factor) for extent in volume.extents[1:])), np.uint8)
    for _, y0, slab in slabs(volume, factor):
        for plane in np.moveaxis(slab[:n], 1, 0):
            shrunk = _block_mean(plane, factor)
            for channel, (low, high) in zip(shrunk, limits):
                _stretch(channel, low, high)
            here = peaks[:, y0 // factor : y0 // factor + shrunk.shape[1]]
            np.maximum(here, shrunk.astype(np.uint8), out=here)
    picture = np.empty((*peaks.shape[1:], 3), np.uint8)
    for y in range(0, len(picture), _ROWS):
        picture[y : y + _ROWS] = _coloured(peaks[:, y : y + _ROWS].astype(np.float32), ((0, 255),) * n)
    return picture


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
    for channel, (low, high) in zip(band, _common(limits)):
        _stretch(channel, low, high)
    if len(band) in (1, 3):
        return np.moveaxis(band, 0, -1).astype(np.uint8)
    n = min(len(band), len(COMPOSITE))
    return np.minimum(np.einsum("cyx,ck->yxk", band[:n], COMPOSITE[:n]), 255).astype(np.uint8)


def _common(limits: Limits) -> Limits:
    """Stretch three channels alike, which keeps the hues."""
    if len(limits) != 3:
        return limits
    return ((min(low for low, _ in limits), max(high for _, high in limits)),) * 3


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


def contact_sheet(
    frames: Sequence[Image],
    labels_of: Callable[[int], LabelImage],
    max_side: int = 4096,
    limits: Limits | None = None,
    captions: Sequence[str] | None = None,
    kinds: Sequence[Hashable] | None = None,
) -> np.ndarray:
    """Show up to nine evenly spaced frames of a series side by side, each with the contours of its objects.

    Parameters
    ----------
    frames
        Images CYX or CZYX of one size, at least one; only those that are shown are read.
    labels_of
        Gives the labels of a frame, (Y, X) or (Z, Y, X), by its index.
    max_side
        Longest side of the sheet in pixels, at least 9.
    limits
        Per channel the values that become black and white, the same in all frames; None finds them.
    captions
        What to write above each of `frames`; its index unless given.
    kinds
        A kind for each of `frames`: where `limits` are found, those of a kind share them, others do not.

    Returns
    -------
    numpy.ndarray
        (Y, X, 3), uint8.
    """
    shown = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), CONTACTS)).round().astype(int)).tolist()
    columns = math.ceil(math.sqrt(len(shown)))
    rows = math.ceil(len(shown) / columns)
    caption, gap = min(CAPTION, max_side // 12), min(GAP, max_side // 40)
    side = max(1, min((max_side - gap) // columns - gap, (max_side - gap) // rows - gap - caption))
    stretch = _limits_of(frames, shown, kinds) if limits is None else dict.fromkeys(shown, limits)
    pictures = [overlay_of(frames[index], labels_of(index), side, limits=stretch[index]) for index in shown]
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    step = height + caption + gap, width + gap
    sheet = np.full((rows * step[0] + gap, columns * step[1] + gap, 3), SHEET, np.uint8)
    for number, (index, picture) in enumerate(zip(shown, pictures)):
        top, left = gap + number // columns * step[0], gap + number % columns * step[1]
        sheet[top : top + caption, left : left + width] = written(
            captions[index] if captions else str(index), caption, width
        )
        sheet[top + caption :, left:][: picture.shape[0], : picture.shape[1]] = picture
    return sheet


def _limits_of(frames: Sequence[Image], shown: Sequence[int], kinds: Sequence[Hashable] | None) -> dict[int, Limits]:
    """Find what becomes black and white in the frames that are shown, in one survey of those of each kind."""
    alike: dict[Hashable, list[int]] = {}
    for index in shown:
        alike.setdefault(kinds[index] if kinds else None, []).append(index)
    found: dict[int, Limits] = {}
    for group in alike.values():
        found |= dict.fromkeys(group, survey([frames[index] for index in group]).limits)
    return found


def written(text: str, height: int, width: int) -> np.ndarray:
    """Write a line of small print, (Y, X, 1) uint8, cut off where it is too long; nothing where it is unreadable."""
    line = PIL.Image.new("L", (max(width, 1), max(height, 1)), SHEET)
    if height >= 8:
        draw = PIL.ImageDraw.Draw(line)
        draw.text((1, height / 2), text, INK, PIL.ImageFont.load_default(0.7 * height), anchor="lm")
    return np.asarray(line)[:height, :width, None]


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
