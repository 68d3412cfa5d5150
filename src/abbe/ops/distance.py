"""Distances to single objects of a label image, and gaps between objects that touch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from abbe.ops.labels import relabel


def two_nearest_distances(
    labels: np.ndarray, reach: float = math.inf, sampling: Sequence[float] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Measure how far each pixel is from the nearest and from the second nearest object.

    The exact Euclidean distance transform of each object is taken in its own box grown by ``reach``, so that
    the cost is that of the boxes, not of the image times the objects.

    Parameters
    ----------
    labels
        (Y, X) or (Z, Y, X); numbers may have gaps.
    reach
        Distances beyond it come out as infinite; in the units of ``sampling``.
    sampling
        Distance between neighbouring pixels along each axis; 1 by default.

    Returns
    -------
    tuple
        Two float64 arrays of the shape of ``labels``: the distances from a pixel's centre to the closest
        pixel centre of the nearest object, 0 inside it, and of the second nearest; infinite where none is.
    """
    spacing = (1.0,) * labels.ndim if sampling is None else tuple(sampling)
    margins = [min(math.ceil(min(reach / step, size)), size) for step, size in zip(spacing, labels.shape)]
    nearest, second = np.full((2, *labels.shape), math.inf)
    numbers, n = relabel(labels)
    boxes = ndimage.find_objects(numbers) if n else []
    for number, box in enumerate(boxes, start=1):
        grown = tuple(slice(max(side.start - m, 0), side.stop + m) for side, m in zip(box, margins))
        distance = ndimage.distance_transform_edt(numbers[grown] != number, sampling=spacing)
        distance[distance > reach] = math.inf
        np.minimum(second[grown], np.maximum(nearest[grown], distance), out=second[grown])
        np.minimum(nearest[grown], distance, out=nearest[grown])
    return nearest, second


def ridge_separation(labels: np.ndarray) -> np.ndarray:
    """Put a ridge of background, one pixel wide, between objects that touch at a side or a corner.

    A network that tells only foreground from background can then keep them apart (Falk et al., "U-Net: deep
    learning for cell counting, detection, and morphometry", Nature Methods 16, 2019). The larger object gives
    up the pixels, that with the greater number if both are equal, so that small objects do not vanish.

    Parameters
    ----------
    labels
        (Y, X) or (Z, Y, X); numbers may have gaps.

    Returns
    -------
    np.ndarray
        The labels that are left, of the type of ``labels``; no two objects touch.
    """
    numbers, n = relabel(labels)
    areas = np.bincount(numbers.ravel(), minlength=n + 1)[1:]
    ranks = np.full(n + 1, n, dtype=np.int32)  # background yields to everything and takes nothing
    ranks[1 + np.argsort(areas, kind="stable")] = np.arange(n)
    ranked = ranks[numbers]
    least = ndimage.minimum_filter(ranked, size=3, mode="nearest")
    return np.where(ranked > least, np.zeros((), labels.dtype), labels)
