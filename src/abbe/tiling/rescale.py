"""Working at another pixel size than the image's, tile by tile, without a seam.

An output pixel's weights depend on its own coordinate alone, so a region resampled by itself equals the same region of
the whole resampled image. Shrinking averages (a triangle as wide as the step), enlarging interpolates linearly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from scipy import sparse

from abbe.tiling.run import Region
from abbe.tiling.stitch import Band


def scaled_shape(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    """Extents of an image after scaling, at least one pixel."""
    return max(round(shape[0] * scale), 1), max(round(shape[1] * scale), 1)


def scaled_region(region: Region, shape: tuple[int, int], target: tuple[int, int]) -> Region:
    """Read an image of ``shape`` as if it had the extents ``target``."""

    def read(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        top, rows = weights(y0, y1, target[0], shape[0])
        left, columns = weights(x0, x1, target[1], shape[1])
        source = region(top, top + rows.shape[1], left, left + columns.shape[1])
        return resample(source, rows, columns)

    return read


def rescale_bands(bands: Iterable[Band], shape: tuple[int, int], target: tuple[int, int]) -> Iterator[Band]:
    """Turn the bands of an image of ``shape`` into bands of ``target``, as soon as their rows are known."""
    _, columns = weights(0, target[1], target[1], shape[1])
    kept: dict[str, np.ndarray] = {}
    top = done = 0
    for band in bands:
        kept = {
            n: np.concatenate([kept[n], rows], axis=1) if n in kept else rows for n, rows in band.maps.items()
        }
        ready = target[0] if band.y1 == shape[0] else _rows_ready(band.y1, shape[0], target[0])
        if ready <= done:
            continue
        first, rows = weights(done, ready, target[0], shape[0])
        window = slice(first - top, first - top + rows.shape[1])
        yield Band(
            done, ready, {name: resample(maps[:, window], rows, columns) for name, maps in kept.items()}
        )
        done = ready
        keep_from = (
            min(weights(done, done + 1, target[0], shape[0])[0], band.y1) if done < target[0] else band.y1
        )
        kept = {name: maps[:, keep_from - top :] for name, maps in kept.items()}
        top = keep_from


def resample(image: np.ndarray, rows: sparse.csr_array, columns: sparse.csr_array) -> np.ndarray:
    """Apply row and column weights to (C, Y, X)."""
    return np.stack([(columns @ (rows @ plane).T).T for plane in image]).astype(np.float32, copy=False)


def weights(start: int, stop: int, extent: int, source: int) -> tuple[int, sparse.csr_array]:
    """Weights of source pixels for the output pixels start..stop.

    Parameters
    ----------
    start, stop
        Range of output indices.
    extent, source
        Extents of the whole output and the whole source.

    Returns
    -------
    tuple
        First source index that is needed, and a matrix (stop - start, needed), whose rows sum to one.
    """
    step = source / extent
    reach = max(step, 1.0)
    centre = (np.arange(start, stop) + 0.5) * step - 0.5
    taps = np.arange(int(np.ceil(2 * reach)) + 1)
    index = np.ceil(centre - reach).astype(int)[:, None] + taps  # (N, taps)
    weight = np.clip(1 - np.abs(index - centre[:, None]) / reach, 0, None)
    weight /= weight.sum(axis=1, keepdims=True)
    index = np.clip(index, 0, source - 1)  # beyond the border, its pixel stands in
    first, last = int(index.min()), int(index.max())
    row = np.repeat(np.arange(stop - start), len(taps))
    entries = (weight.ravel().astype(np.float32), (row, (index - first).ravel()))
    return first, sparse.csr_array(entries, shape=(stop - start, last - first + 1))


def _rows_ready(known: int, source: int, extent: int) -> int:
    """How many output rows need only the first ``known`` source rows."""
    step = source / extent
    reach = max(step, 1.0)
    return max(int(np.floor((known - 1 - reach + 0.5) / step - 0.5)), 0)
