"""One machine, any size, bounded memory: windows are read, computed and handed on while the next ones are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby

import numpy as np

from abbe.tiling.grid import Box, Grid, Tile
from abbe.tiling.prefetch import prefetch
from abbe.tiling.stitch import Patch, cut

Region = Callable[[int, int, int, int], np.ndarray]
Predict = Callable[[np.ndarray], dict[str, np.ndarray]]


def run(region: Region, grid: Grid, predict: Predict, *, batch: int = 1) -> Iterator[Patch]:
    """Compute the maps of an image, tile by tile.

    Parameters
    ----------
    region
        ``region(y0, y1, x0, x1)`` reads normalised pixels (C, Y, X), float32, inside the image.
    grid
        Its tiles.
    predict
        Takes windows (B, C, Y, X), gives maps (B, K, Y, X) by name.
    batch
        Windows of one shape to compute at once.

    Yields
    ------
    Patch
        In the order of the tiles.
    """
    windows = prefetch((tile, read_window(region, tile.window, grid.shape)) for tile in grid)
    for group in batches(windows, batch):
        stack = np.stack([window for _, window in group]) if len(group) > 1 else group[0][1][None]  # (B, C, Y, X)
        outputs = predict(stack)  # (B, K, Y, X)
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


def read_window(region: Region, window: Box, shape: tuple[int, int]) -> np.ndarray:
    """Read a window (C, Y, X); what lies beyond the image is mirrored, as often as needed."""
    y0, y1, x0, x1 = window
    height, width = shape
    if y0 >= 0 and x0 >= 0 and y1 <= height and x1 <= width:
        return region(y0, y1, x0, x1)
    rows, columns = mirrored(y0, y1, height), mirrored(x0, x1, width)
    top, left = rows.min(), columns.min()
    inside = region(int(top), int(rows.max()) + 1, int(left), int(columns.max()) + 1)
    return inside[:, rows - top][:, :, columns - left]


def mirrored(start: int, stop: int, extent: int) -> np.ndarray:
    """Indices start..stop folded back into 0..extent; the border pixel is not repeated."""
    if extent == 1:
        return np.zeros(stop - start, int)
    period = 2 * (extent - 1)
    folded = np.arange(start, stop) % period
    return np.minimum(folded, period - folded)
