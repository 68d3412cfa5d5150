"""Images on finer or coarser grids over the same field, axis by axis.

Shrinking averages (a triangle as wide as the step), enlarging interpolates linearly. Training and tiles see images
through the same weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

Weights = tuple[int, sparse.csr_array]
"""First source index that is needed along an axis, and a matrix (new, needed) whose rows sum to one."""


def resample(image: np.ndarray, matrices: Sequence[sparse.csr_array]) -> np.ndarray:
    """Apply the weights of each spatial axis to (C, ...)."""
    for axis, matrix in enumerate(matrices, 1):
        first = np.moveaxis(image, axis, 0)
        flat = matrix @ np.ascontiguousarray(first, dtype=np.float32).reshape(len(first), -1)
        image = np.moveaxis(flat.reshape(-1, *first.shape[1:]), 0, axis)
    return np.ascontiguousarray(image)


def weights(start: int, stop: int, extent: int, source: int) -> Weights:
    """Weights of source pixels for the output pixels start..stop.

    Parameters
    ----------
    start, stop
        Range of output indices.
    extent, source
        Extents of the whole output and the whole source.

    Returns
    -------
    Weights
        The matrix has a row per output pixel.
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
