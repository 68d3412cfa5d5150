"""Label images: every object has its own positive integer, 0 is background.

All functions take 2-D or 3-D label images, take time proportional to the pixels, and leave their
input unchanged.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np

BoundaryMode = Literal["inner", "thick"]


class LabelImage(Protocol):
    """A label image to be read piece by piece: an array, or one on the disk that reads like an array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents."""

    @property
    def ndim(self) -> int:
        """Number of its axes."""

    @property
    def size(self) -> int:
        """Number of its pixels."""

    @property
    def dtype(self) -> np.dtype:
        """Of its numbers."""

    def __len__(self) -> int:
        """Count what lies along the first axis."""

    def __getitem__(self, key: Any, /) -> Any:
        """Read a part."""

    def max(self) -> Any:
        """Find the largest label; there must be pixels."""


def smallest_unsigned(n: int) -> np.dtype:
    """Find the smallest unsigned type that holds labels up to ``n``.

    Raises
    ------
    ValueError
        If ``n`` is negative or above 2**64 - 1.
    """
    for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
        if 0 <= n <= np.iinfo(dtype).max:
            return np.dtype(dtype)
    raise ValueError(f"no unsigned integer type holds {n}")


def relabel(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Renumber the objects 1..n, in the order of their old numbers.

    Parameters
    ----------
    labels
        Non-negative integers or bool, any shape; numbers may have gaps and be arbitrarily large.

    Returns
    -------
    tuple
        Labels 1..n as int32 and n.

    Raises
    ------
    ValueError
        If ``labels`` are not integers, or some are negative.
    """
    check_labels(labels)
    largest = largest_label(labels)
    if largest <= max(4 * labels.size, 65536):
        present = np.zeros(largest + 1, dtype=bool)
        present[labels.astype(np.intp, copy=False)] = True
        present[0] = False
        numbers = np.cumsum(present, dtype=np.int32) * present
        return numbers[labels.astype(np.intp, copy=False)], int(numbers.max())
    # A table over all numbers up to the largest would outgrow the image.
    values, inverse = np.unique(labels, return_inverse=True)
    shift = 0 if values[0] == 0 else 1
    return (inverse.reshape(labels.shape) + shift).astype(np.int32), len(values) - 1 + shift


def check_labels(labels: LabelImage) -> None:
    """Refuse what cannot be a label image.

    Raises
    ------
    ValueError
        If the values are not integers or bool, or some are negative.
    """
    if labels.dtype.kind not in "iub":
        raise ValueError(f"labels are {labels.dtype}, expected whole numbers")
    if isinstance(labels, np.ndarray) and labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        raise ValueError(f"labels reach {labels.min()}, expected 0 for background and positive numbers for objects")


def largest_label(labels: LabelImage) -> int:
    """Find the largest label; 0 for an image without pixels or objects."""
    return int(labels.max()) if labels.size else 0


def boundaries(labels: np.ndarray, mode: BoundaryMode = "inner") -> np.ndarray:
    """Mark the pixels at which one object, or the background, meets another.

    Neighbours share a side (4 in 2-D, 6 in 3-D). The edge of the image is no boundary.

    Parameters
    ----------
    labels
        Label image.
    mode
        ``"inner"``: object pixels with a neighbour of another label. ``"thick"``: background pixels with
        such a neighbour as well.

    Returns
    -------
    np.ndarray
        Bool, the shape of ``labels``.
    """
    if mode not in ("inner", "thick"):
        raise ValueError(f"boundary mode {mode!r}: expected inner or thick")
    marked = np.zeros(labels.shape, dtype=bool)
    for before, after in _neighbours(labels.ndim):
        meets = labels[before] != labels[after]
        marked[before] |= meets
        marked[after] |= meets
    return marked & (labels != 0) if mode == "inner" else marked


def _neighbours(ndim: int) -> list[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Views of all pixel pairs that share a side: per axis, all but the last and all but the first."""
    pairs = []
    for axis in range(ndim):
        before, after = [slice(None)] * ndim, [slice(None)] * ndim
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        pairs.append((tuple(before), tuple(after)))
    return pairs


def border_labels(labels: np.ndarray) -> np.ndarray:
    """List the labels, ascending and without 0, of the objects that touch the edge of the image."""
    faces = [labels.take(index, axis).ravel() for axis in range(labels.ndim) for index in (0, -1) if labels.size]
    found = np.unique(np.concatenate(faces)) if faces else labels.ravel()
    return found[found != 0]


def touches_border(labels: np.ndarray, n: int) -> np.ndarray:
    """Tell for each of the labels 1..n whether its object touches the edge of the image.

    Returns
    -------
    np.ndarray
        Bool, (n,); False for a label that is absent.
    """
    touching = np.zeros(n + 1, dtype=bool)
    touching[border_labels(labels).astype(np.intp)] = True
    return touching[1:]


def remove_small(labels: np.ndarray, min_area: int) -> np.ndarray:
    """Remove the objects of fewer than ``min_area`` pixels; the others keep their numbers."""
    if largest_label(labels) <= 4 * labels.size:
        areas = np.bincount(labels.ravel())
        values = np.flatnonzero(areas)
        return _without(labels, values[areas[values] < min_area])
    values, areas = np.unique(labels, return_counts=True)
    return _without(labels, values[areas < min_area])


def _without(labels: np.ndarray, unwanted: np.ndarray) -> np.ndarray:
    """Set the ``unwanted`` labels to 0."""
    unwanted = unwanted[unwanted != 0]
    if not len(unwanted):
        return labels.copy()
    return np.where(np.isin(labels, unwanted), np.zeros((), labels.dtype), labels)


def typical_diameter(labels: np.ndarray) -> float:
    """Mean diameter of circles, or balls, of the objects' sizes, each with the weight of its size; NaN without any.

    The weight makes crumbs count for little.
    """
    sizes = np.bincount(labels.ravel())[1:]
    if not sizes.any():
        return np.nan
    diameters = 2 * np.sqrt(sizes / np.pi) if labels.ndim == 2 else np.cbrt(6 * sizes / np.pi)
    return float(np.average(diameters, weights=sizes))
