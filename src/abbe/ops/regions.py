"""Measurements of all objects of a 2-D label image at once.

The definitions are those of scikit-image's ``regionprops``, which measures one object after another. Here the
image is first cut into *runs*, the stretches of one label along a row: some tens of times fewer than pixels.
Areas, boxes, moments and outlines follow from the runs in closed form; only perimeters and intensities look
at pixels again, a band of rows at a time.

    labels ──> runs ──> area, box, moments ──> axes, eccentricity, orientation
                 ├────> row ends ──> convex hull ──> solidity
                 └────> statistics along each run of every channel ──> mean, std, min, max, sum
    labels ──> border pixels ──> classes of their neighbourhoods ──> perimeter ──> circularity
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from abbe.ops.hulls import convex_areas
from abbe.ops.labels import check_labels

BAND = 256
"""Rows whose pixels are looked at together; bounds the working memory."""

STEP_LENGTHS = np.array([0, 1, np.sqrt(2), (1 + np.sqrt(2)) / 2])
"""What a border pixel adds to the perimeter, by class: none, straight, diagonal, half of each."""

CLASSES = np.zeros(50, dtype=np.int64)
"""Class of a border pixel with s neighbours at its sides and c at its corners: entry 1 + 2 s + 10 c."""
CLASSES[[5, 7, 15, 17, 25, 27]] = 1
CLASSES[[21, 33]] = 2
CLASSES[[13, 23]] = 3


@dataclass(frozen=True)
class Runs:
    """The stretches of foreground of one label along a row, in reading order."""

    labels: np.ndarray
    """(N,): the labels that occur, ascending."""
    owner: np.ndarray
    """(R,): position in ``labels`` of each run's label."""
    row: np.ndarray
    """(R,)"""
    start: np.ndarray
    """(R,): first column."""
    stop: np.ndarray
    """(R,): column behind the last."""
    order: np.ndarray
    """(R,): the runs object by object, in reading order within each."""
    first: np.ndarray
    """(N,): where each object begins in ``order``."""

    @property
    def length(self) -> np.ndarray:
        """Pixels of each run, (R,)."""
        return self.stop - self.start

    def reduce(self, ufunc: np.ufunc, values: np.ndarray) -> np.ndarray:
        """Combine ``values``, one per run, object by object."""
        return ufunc.reduceat(values[self.order], self.first)


def region_properties(
    labels: np.ndarray,
    intensity: np.ndarray | None = None,
    offset: tuple[int, int] = (0, 0),
) -> dict[str, np.ndarray]:
    """Measure every object of a label image.

    All lengths are in pixels. Where an object is a single pixel or a line, a definition may not apply:
    the perimeter of one pixel is 0 and its circularity NaN, an axis may have length 0, and the orientation of
    an object without a longer axis is ±π/4.

    Parameters
    ----------
    labels
        (Y, X), non-negative integers; numbers may have gaps, objects may touch, have holes or several parts.
    intensity
        (C, Y, X), any real type; sums are taken in float64.
    offset
        Row and column of the first pixel, where ``labels`` are part of a larger image; added to coordinates.

    Returns
    -------
    dict
        Arrays of one entry per object, ordered by label:

        - ``label``; ``area``; ``touching_border``: of the given array;
        - ``centroid``: (N, 2), y and x; ``bbox``: (N, 4), x0, y0, x1, y1, the last two behind the object;
        - ``perimeter``: of the line through the centres of the border pixels (Benkrid and Crookes);
          ``circularity``: 4π area / perimeter², above 1 for some small objects;
        - ``axis_major_length``, ``axis_minor_length``, ``eccentricity`` and ``orientation``: of the ellipse
          with the same second moments; the angle runs from the y axis to the major axis, in [-π/2, π/2];
        - ``area_convex``: pixels of the convex hull; ``solidity``: area / area_convex;
        - ``equivalent_diameter``: of the disc of the same area;
        - ``intensity_mean``, ``intensity_std``, ``intensity_min``, ``intensity_max``, ``intensity_sum``:
          (N, C), with ``intensity`` only; NaN where an object has NaN pixels, as is the standard deviation
          where it has infinite ones.

    Raises
    ------
    ValueError
        If ``labels`` are not a 2-D label image or ``intensity`` has another shape.
    """
    check_labels(labels)
    if labels.ndim != 2:
        raise ValueError(f"labels of shape {labels.shape}: expected (Y, X)")
    runs = find_runs(labels)
    area = runs.reduce(np.add, runs.length)
    y0, x0, y1, x1 = _box(runs)
    y, x, yy, xx, yx = _moments(runs, y0, x0)
    perimeter = _perimeters(labels, runs.labels)
    area_convex = convex_areas(*_row_ends(runs))
    oy, ox = offset
    properties = {
        "label": runs.labels,
        "area": area,
        "touching_border": (y0 == 0) | (x0 == 0) | (y1 == labels.shape[0]) | (x1 == labels.shape[1]),
        "centroid": np.stack([y + oy, x + ox], axis=-1),
        "bbox": np.stack([x0 + ox, y0 + oy, x1 + ox, y1 + oy], axis=-1),
        "perimeter": perimeter,
        "circularity": 4 * np.pi * area / np.where(perimeter > 0, perimeter, np.nan) ** 2,
        **_ellipses(yy, xx, yx),
        "area_convex": area_convex,
        "solidity": area / area_convex,
        "equivalent_diameter": np.sqrt(4 * area / np.pi),
    }
    if intensity is not None:
        properties |= intensity_statistics(labels, intensity, runs)
    return properties


def find_runs(labels: np.ndarray) -> Runs:
    """Cut a (Y, X) label image into runs; planes of a volume may lie one below the other."""
    bands = [_stretches(labels[top : top + BAND], top) for top in range(0, max(len(labels), 1), BAND)]
    found, row, start, stop = (np.concatenate(parts) for parts in zip(*bands))
    values, owner = np.unique(found, return_inverse=True)
    order = np.argsort(owner, kind="stable")
    first = np.searchsorted(owner[order], np.arange(len(values)))
    return Runs(values, owner, row, start, stop, order, first)


def _stretches(band: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Label, row, start and stop of the runs in some rows, the first of which is number ``top``."""
    flat, width = band.ravel(), band.shape[1]
    begins = np.ones(flat.size, dtype=bool)
    np.not_equal(flat[1:], flat[:-1], out=begins[1:])
    begins.reshape(band.shape)[:, :1] = True
    start = np.flatnonzero(begins)
    stop = np.append(start[1:], flat.size)
    foreground = flat[start] != 0
    start, stop = start[foreground], stop[foreground]
    row = start // max(width, 1)
    return flat[start], row + top, start - row * width, stop - row * width


def _box(runs: Runs) -> tuple[np.ndarray, ...]:
    """First row and column of each object, and those behind its last: y0, x0, y1, x1."""
    rows = runs.reduce(np.minimum, runs.row), runs.reduce(np.maximum, runs.row) + 1
    columns = runs.reduce(np.minimum, runs.start), runs.reduce(np.maximum, runs.stop)
    return rows[0], columns[0], rows[1], columns[1]


def _moments(runs: Runs, y0: np.ndarray, x0: np.ndarray) -> tuple[np.ndarray, ...]:
    """Centroid and covariance of each object's pixel coordinates: y, x, yy, xx, yx."""
    # From the object's own corner, so that the integer sums stay exact however large the image.
    y, a, b = runs.row - y0[runs.owner], runs.start - x0[runs.owner], runs.stop - x0[runs.owner]
    length, sum_x = b - a, sum_below(b) - sum_below(a)
    sum_xx = sum_of_squares_below(b) - sum_of_squares_below(a)
    sums = (length, y * length, sum_x, y * y * length, sum_xx, y * sum_x)
    area, my, mx, myy, mxx, myx = (runs.reduce(np.add, values) for values in sums)
    my, mx = my / area, mx / area
    return y0 + my, x0 + mx, myy / area - my * my, mxx / area - mx * mx, myx / area - my * mx


def sum_below(n: np.ndarray) -> np.ndarray:
    """0 + 1 + ... + (n - 1)."""
    return n * (n - 1) // 2


def sum_of_squares_below(n: np.ndarray) -> np.ndarray:
    """0 + 1 + 4 + ... + (n - 1)²."""
    return n * (n - 1) * (2 * n - 1) // 6


def _ellipses(yy: np.ndarray, xx: np.ndarray, yx: np.ndarray) -> dict[str, np.ndarray]:
    """Axes, eccentricity and orientation of the ellipse with the given covariance."""
    mean, spread = (yy + xx) / 2, np.hypot((yy - xx) / 2, yx)
    major, minor = mean + spread, np.maximum(mean - spread, 0)
    without_axis = np.where(yx > 0, np.pi / 4, -np.pi / 4)
    return {
        "axis_major_length": 4 * np.sqrt(major),
        "axis_minor_length": 4 * np.sqrt(minor),
        "eccentricity": np.sqrt((major - minor) / np.where(major > 0, major, 1)),
        "orientation": np.where(yy == xx, without_axis, np.arctan2(2 * yx, yy - xx) / 2),
    }


def _row_ends(runs: Runs) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where each object begins, and every row of every object with its first and last column."""
    owner, row = runs.owner[runs.order], runs.row[runs.order]
    begins = np.ones(len(owner), dtype=bool)
    begins[1:] = (owner[1:] != owner[:-1]) | (row[1:] != row[:-1])
    ends = np.roll(begins, -1)
    first = np.searchsorted(owner[begins], np.arange(len(runs.labels)))
    return first, row[begins], runs.start[runs.order][begins], runs.stop[runs.order][ends] - 1


def _perimeters(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Perimeter of each of the objects ``values``.

    A border pixel has a neighbour at one of its sides that is not of its object; how many of its neighbours
    are border pixels of the same object says how the outline goes on from it.
    """
    counts = np.zeros(len(values) * 4, dtype=np.int64)
    for top in range(0, labels.shape[0], BAND):
        found, classes = _border_classes(labels, top, min(top + BAND, labels.shape[0]))
        counts += np.bincount(np.searchsorted(values, found) * 4 + classes, minlength=len(counts))
    return counts.reshape(-1, 4) @ STEP_LENGTHS


def _border_classes(labels: np.ndarray, top: int, bottom: int) -> tuple[np.ndarray, np.ndarray]:
    """Label and class of every border pixel in the rows from ``top`` to ``bottom``."""
    above, below = min(top, 2), min(labels.shape[0] - bottom, 2)
    band = labels[top - above : bottom + below]
    band = np.pad(band, ((2 - above, 2 - below), (2, 2)))
    centre = band[1:-1, 1:-1]
    inside = (centre == band[:-2, 1:-1]) & (centre == band[2:, 1:-1])
    inside &= (centre == band[1:-1, :-2]) & (centre == band[1:-1, 2:])
    border = np.where(inside, 0, centre)
    counted = np.zeros(border.shape, dtype=bool)
    np.not_equal(border[1:-1, 1:-1], 0, out=counted[1:-1, 1:-1])
    flat, position, width = border.ravel(), np.flatnonzero(counted), border.shape[1]
    found = flat[position]
    code = np.ones(len(position), dtype=np.uint8)
    for weight, steps in ((2, (-width, -1, 1, width)), (10, (-width - 1, -width + 1, width - 1, width + 1))):
        for step in steps:
            code += weight * (flat[position + step] == found).view(np.uint8)
    return found, CLASSES[code]


def intensity_statistics(labels: np.ndarray, intensity: np.ndarray, runs: Runs) -> dict[str, np.ndarray]:
    """Mean, std, min, max and sum of every object's values in every channel of (C, Y, X), each (N, C)."""
    shape = (len(intensity), *labels.shape)
    if intensity.shape != shape:
        raise ValueError(f"intensity of shape {intensity.shape}: expected {shape}")
    names, area = ("mean", "std", "min", "max", "sum"), runs.reduce(np.add, runs.length)
    statistics = np.empty((len(names), len(area), len(intensity)))
    for index, channel in enumerate(intensity):
        with np.errstate(invalid="ignore"):  # infinity minus itself, in images that hold it
            statistics[..., index] = _channel_statistics(labels, channel, runs, area)
    return {f"intensity_{name}": values for name, values in zip(names, statistics)}


def _channel_statistics(
    labels: np.ndarray, channel: np.ndarray, runs: Runs, area: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Mean, standard deviation, least, greatest and sum of each object's values."""
    length = runs.length
    sums, least, greatest, squares = np.empty((4, len(length)))
    for top in range(0, len(labels), BAND):
        here = slice(*np.searchsorted(runs.row, (top, top + BAND)))
        values = channel[top : top + BAND][labels[top : top + BAND] != 0].astype(np.float64)
        starts = np.cumsum(length[here]) - length[here]
        sums[here] = np.add.reduceat(values, starts)
        least[here] = np.minimum.reduceat(values, starts)
        greatest[here] = np.maximum.reduceat(values, starts)
        values -= np.repeat(sums[here] / length[here], length[here])
        squares[here] = np.add.reduceat(values * values, starts)
    total = runs.reduce(np.add, sums)
    mean = total / area
    # Deviations from the run's own mean, then of that from the object's, so that nothing cancels.
    squares += length * (sums / length - mean[runs.owner]) ** 2
    std = np.sqrt(runs.reduce(np.add, squares) / area)
    return mean, std, runs.reduce(np.minimum, least), runs.reduce(np.maximum, greatest), total
