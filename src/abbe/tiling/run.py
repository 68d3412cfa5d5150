"""One machine, any size, bounded memory: windows are read, computed and handed on while the next ones are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np

from abbe.ops.boxes import Box
from abbe.tiling.grid import Tile
from abbe.tiling.prefetch import prefetch
from abbe.tiling.stitch import Patch, cut

Region = Callable[[Box], np.ndarray]
"""Reads the normalised pixels (C, ...), float32, of a box inside the image."""
Predict = Callable[[np.ndarray], dict[str, np.ndarray]]


def run(
    region: Region, shape: Sequence[int], tiles: Iterable[Tile], predict: Predict, *, batch: int = 1
) -> Iterator[Patch]:
    """Compute the maps of an image, tile by tile.

    Parameters
    ----------
    region
        Reads pixels of the image.
    shape
        Its extents, (Z,) Y, X.
    tiles
        Which tiles of its grid.
    predict
        Takes windows (B, C, ...), gives maps (B, K, ...) by name.
    batch
        Windows of one shape to compute at once.

    Yields
    ------
    Patch
        In the order of the tiles.
    """
    windows = prefetch((tile, read_window(region, tile.window, shape)) for tile in tiles)
    for group in batches(windows, batch):
        stack = np.stack([window for _, window in group]) if len(group) > 1 else group[0][1][None]  # (B, C, ...)
        outputs = predict(stack)  # (B, K, ...)
        for i, (tile, _) in enumerate(group):
            yield cut(tile, {name: maps[i] for name, maps in outputs.items()})


def batches(windows: Iterable[tuple[Tile, np.ndarray]], size: int) -> Iterator[list[tuple[Tile, np.ndarray]]]:
    """Group neighbours of one shape, at most ``size`` together."""
    for _, alike in groupby(windows, key=lambda window: window[1].shape):
        group = []
        for window in alike:
            group.append(window)
            if len(group) == size:
                yield group
                group = []
        if group:
            yield group


def read_window(region: Region, window: Box, shape: Sequence[int]) -> np.ndarray:
    """Read a window (C, ...); what lies beyond the image is mirrored, as often as needed."""
    if all(start >= 0 and stop <= extent for (start, stop), extent in zip(window, shape, strict=True)):
        return region(window)
    places = [mirrored(*span, extent) for span, extent in zip(window, shape, strict=True)]
    inside = tuple((int(along.min()), int(along.max()) + 1) for along in places)
    pixels = region(inside)
    for axis, (along, (first, _)) in enumerate(zip(places, inside, strict=True), 1):
        pixels = pixels.take(along - first, axis=axis)
    return pixels


def mirrored(start: int, stop: int, extent: int) -> np.ndarray:
    """Indices start..stop folded back into 0..extent; the border pixel is not repeated."""
    if extent == 1:
        return np.zeros(stop - start, int)
    period = 2 * (extent - 1)
    folded = np.arange(start, stop) % period
    return np.minimum(folded, period - folded)
