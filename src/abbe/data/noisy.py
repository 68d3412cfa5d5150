"""Pieces of noisy images to learn from: all of them where that is little, otherwise a random choice, read once."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from abbe.data.normalize import Normalization
from abbe.data.sample import Sample
from abbe.data.select import Series
from abbe.errors import AbbeError
from abbe.ops.boxes import Box

SIDES = {2: (256, 192, 128, 96, 64), 3: (64, 48, 32)}
"""Least extents of a piece, by spatial axes: the largest of which there are enough."""
ENOUGH = 16
"""Pieces from which they are not made smaller."""
SMALL = {2: (64, 48, 32), 3: (32, 24, 16)}
"""Least extents where there are not enough of any: the largest of which there are a few, one to be held out."""
FEW = 4
"""That many."""
UNEVEN = 8.0
"""Times that the contrast of an image is that of another, from which it is warned."""
MOST = 2**26
"""Values to keep in memory."""
HELD_OUT = 0.1
"""Share of the pieces to validate on."""
MOST_HELD_OUT = 48
"""And how many at most."""


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NoisyPieces:
    """What is learnt from."""

    train: list[Sample]
    """Normalised; pixels without a value are marked to be ignored."""
    validation: list[Sample]
    """Of other places; those of ``train`` where there are too few."""
    normalization: Normalization
    """Mean and deviation of all pieces, by channel."""


@dataclass(frozen=True)
class Place:
    """Where a piece is."""

    series: int
    frame: int
    box: Box


def take_pieces(
    images: Sequence[Series], seed: int = 0, most: int = MOST, tell: Callable[[str], None] = logger.warning
) -> NoisyPieces:
    """Read pieces of images, and divide them.

    Parameters
    ----------
    images
        Of equal numbers of channels.
    seed
        Of the choice.
    most
        Values to keep in memory.
    tell
        Gets a line for each image with damaged places, which are left out.

    Raises
    ------
    AbbeError
        Where the images have no or different numbers of channels, or no finite pixel.
    """
    channels = same_channels(images)
    places = choose_places(images, most // channels, np.random.default_rng(seed))
    raw = list(_read(images, places, tell))
    if uneven := spell_uneven(raw):
        tell(f"warning: {uneven}")
    normalization = measure_all([pixels for _, pixels in raw])
    samples = [_sample(pixels, normalization, name) for name, pixels in raw]
    held = min(round(HELD_OUT * len(samples)), MOST_HELD_OUT)
    if len(samples) >= FEW:
        held = max(held, 1)
    return NoisyPieces(samples[held:], samples[:held] or samples, normalization)


def _read(
    images: Sequence[Series], places: Sequence[Place], tell: Callable[[str], None]
) -> Iterator[tuple[str, np.ndarray]]:
    """Read pieces, with the names of their images; damaged ones are told once for each image."""
    damaged = set()
    for place in places:
        series = images[place.series]
        try:
            yield series.image.name, series[place.frame].box(place.box)
        except Exception as error:  # whatever a damaged file makes its reader raise
            if place.series not in damaged:
                tell(f"warning: {series.image.name}: damaged places are not learnt from ({error})")
            damaged.add(place.series)


def same_channels(images: Sequence[Series]) -> int:
    """Give the channels that all images have."""
    numbers = {series[0].n_channels: series.image.name for series in images}
    if not numbers:
        raise AbbeError("no images to learn from")
    if len(numbers) > 1:
        told = ", ".join(f"{number} in {name}" for number, name in sorted(numbers.items()))
        raise AbbeError(f"images of different numbers of channels ({told}); choose one with --channel, or sort them")
    return next(iter(numbers))


def choose_places(images: Sequence[Series], most: int, generator: np.random.Generator) -> list[Place]:
    """Choose pieces of at most so many pixels in all, in random order."""
    axes = len(images[0][0].extents)
    for side, least in [(side, ENOUGH) for side in SIDES[axes]] + [(side, FEW) for side in SMALL[axes]]:
        grids = [grid_of(series[0].extents, side) for series in images]
        numbers = [len(series) * math.prod(map(len, grid)) for series, grid in zip(images, grids, strict=True)]
        if sum(numbers) >= least:
            break
    ends = np.cumsum(numbers)
    pixels = sum(len(series) * math.prod(series[0].extents) for series in images)
    wanted = min(int(ends[-1]), max(most * int(ends[-1]) // pixels, 1))
    chosen = generator.choice(int(ends[-1]), wanted, replace=False)
    return [_place(int(number), ends, grids) for number in chosen]


def grid_of(extents: Sequence[int], side: int) -> list[list[tuple[int, int]]]:
    """Cut each axis into spans of nearly equal length, none shorter than ``side`` unless the axis is."""
    edges = [np.linspace(0, extent, max(extent // side, 1) + 1).round().astype(int) for extent in extents]
    return [list(itertools.pairwise(along.tolist())) for along in edges]


def _place(number: int, ends: np.ndarray, grids: Sequence[list[list[tuple[int, int]]]]) -> Place:
    """Find the piece of a number in the order of all images, frames and boxes."""
    series = int(np.searchsorted(ends, number, side="right"))
    grid = grids[series]
    inside = number - (int(ends[series - 1]) if series else 0)
    frame, box = divmod(inside, math.prod(map(len, grid)))
    index = np.unravel_index(box, [len(along) for along in grid])
    return Place(series, frame, tuple(along[int(i)] for along, i in zip(grid, index, strict=True)))


def spell_uneven(pieces: Sequence[tuple[str, np.ndarray]]) -> str:
    """Say so where images, told by their names, have so different contrasts that one normalisation fits only some."""
    contrasts: dict[str, float] = {}
    for name, pixels in pieces:
        known = pixels[np.isfinite(pixels)]
        if known.size and (deviation := float(known.std(dtype=np.float64))) > 0:
            contrasts[name] = max(contrasts.get(name, 0.0), deviation)
    if not contrasts:
        return ""
    high, low = max(contrasts, key=contrasts.__getitem__), min(contrasts, key=contrasts.__getitem__)
    times = contrasts[high] / contrasts[low]
    if times < UNEVEN:
        return ""
    return f"{high} has {times:,.0f} times the contrast of {low}, and one model learns both; restore such images apart"


def measure_all(pieces: Sequence[np.ndarray]) -> Normalization:
    """Measure mean and deviation of each channel over all pieces (C, ...)."""
    offsets, scales = [], []
    if not pieces:
        raise AbbeError("none of the images to learn from can be read")
    for channel in zip(*pieces, strict=True):
        values = np.concatenate([part[np.isfinite(part)].ravel() for part in channel])
        if values.size == 0:
            raise AbbeError("no pixel with a finite value in the images to learn from")
        offsets.append(float(values.mean(dtype=np.float64)))
        scales.append(float(values.std(dtype=np.float64)) or 1.0)
    return Normalization("fixed", joint=False, offset=tuple(offsets), scale=tuple(scales))


def _sample(pixels: np.ndarray, normalization: Normalization, name: str) -> Sample:
    unknown = ~np.isfinite(pixels).all(axis=0)
    return Sample(normalization.normalize(pixels), ignore=unknown if unknown.any() else None, name=name)
