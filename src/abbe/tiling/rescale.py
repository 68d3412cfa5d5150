"""Working at another pixel size than the image's, tile by tile, without a seam.

An output pixel's weights depend on its own coordinate alone, so a region resampled by itself equals the same region of
the whole resampled image. Shrinking averages (a triangle as wide as the step), enlarging interpolates linearly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
from scipy import sparse

from abbe.tiling.run import Region
from abbe.tiling.stitch import Patch

MARGIN = 16
"""Pixels beyond a tile's core that resampling its maps may ask for, up to a factor of 8 between the two images."""


def scaled_shape(shape: tuple[int, int], scale: float) -> tuple[int, int]:
    """Extents of an image after scaling, at least one pixel."""
    return max(round(shape[0] * scale), 1), max(round(shape[1] * scale), 1)


def margin_for(scale: float) -> int:
    """Give the margin for maps of an image that was enlarged by ``scale``, in steps of :data:`MARGIN`."""
    return MARGIN * max(math.ceil(scale / 8), 1)


def scaled_region(region: Region, shape: tuple[int, int], target: tuple[int, int]) -> Region:
    """Read an image of ``shape`` as if it had the extents ``target``."""

    def read(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        top, rows = weights(y0, y1, target[0], shape[0])
        left, columns = weights(x0, x1, target[1], shape[1])
        source = region(top, top + rows.shape[1], left, left + columns.shape[1])
        return resample(source, rows, columns)

    return read


def rescale(patches: Iterable[Patch], shape: tuple[int, int], target: tuple[int, int]) -> Iterator[Patch]:
    """Turn the patches of an image of ``shape`` into those of an image of ``target``, without margins.

    The new cores partition the new image. What a core needs from beyond the old one must lie in the margin that the
    patch keeps, see :func:`margin_for`.
    """
    for patch in patches:
        y0, y1, x0, x1 = (round(place * target[i // 2] / shape[i // 2]) for i, place in enumerate(patch.core))
        if y0 == y1 or x0 == x1:
            continue  # a sliver that falls between two pixels of the target
        top, rows = weights(y0, y1, target[0], shape[0])
        left, columns = weights(x0, x1, target[1], shape[1])
        top, left = top - patch.kept[0], left - patch.kept[2]
        height, width = rows.shape[1], columns.shape[1]
        parts = {name: maps[:, top : top + height, left : left + width] for name, maps in patch.maps.items()}
        core = (y0, y1, x0, x1)
        yield Patch(core, core, {name: resample(part, rows, columns) for name, part in parts.items()})


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
