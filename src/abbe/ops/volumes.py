"""Measurements of all objects of a 3-D label image at once, in voxels or in the units of a voxel's sides.

The planes are laid one below the other and cut into the runs of :mod:`abbe.ops.regions`, from which volumes, boxes and
moments follow in closed form. The surface is counted by Crofton's formula: its area is four times the mean, over all
directions, of how often lines in that direction enter the object, per area across the lines. Thirteen directions join
a voxel to its neighbours; each stands for the part of the sphere that is nearer to it than to the others, which a voxel
with unequal sides distorts.

    labels ──> runs ──> volume, box, second moments ──> axes of the ellipsoid
                 ├────> statistics along each run of every channel ──> mean, std, min, max, sum
    labels ──> entries of lines in 13 directions ──> surface area ──> sphericity

G. Lehmann, D. Legland: Efficient N-dimensional surface estimation using Crofton formula and run-length encoding.
Insight Journal, 2012. J. Ohser, K. Schladitz: 3D Images of Materials Structures. Wiley, 2009.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial import SphericalVoronoi

from abbe.ops.labels import check_labels
from abbe.ops.regions import Runs, find_runs, intensity_statistics, sum_below, sum_of_squares_below

SLAB = 2**22
"""Voxels that are looked at together, at least one plane; bounds the working memory."""

DIRECTIONS = np.array([step for step in itertools.product((0, 1, -1), repeat=3) if step > (0, 0, 0)])
"""(13, 3): steps z, y, x to one of each pair of opposite neighbours."""


def volume_properties(
    labels: np.ndarray,
    intensity: np.ndarray | None = None,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    offset: Sequence[int] = (0, 0, 0),
) -> dict[str, np.ndarray]:
    """Measure every object of a 3-D label image.

    Parameters
    ----------
    labels
        (Z, Y, X), non-negative integers; numbers may have gaps, objects may touch, have holes or several parts.
    intensity
        (C, Z, Y, X), any real type; sums are taken in float64.
    spacing
        Sides of a voxel along z, y and x.
    offset
        Plane, row and column of the first voxel, where ``labels`` are part of a larger image; added to coordinates.

    Returns
    -------
    dict
        Arrays of one entry per object, ordered by label:

        - ``label``; ``voxels``: how many; ``touching_border``: of the given array;
        - ``centroid``: (N, 3), z, y and x in voxels; ``bbox``: (N, 6), x0, y0, z0, x1, y1, z1 in voxels, the last
          three behind the object;
        - ``covariance``: (N, 3, 3) of the voxels' coordinates, in voxels²; ``entries``: (N, 13), how often lines
          enter the object, by :data:`DIRECTIONS`;
        - ``volume``, ``surface_area``, ``sphericity``, ``axis_lengths`` and ``equivalent_diameter``: see
          :func:`shapes`;
        - ``intensity_mean``, ``intensity_std``, ``intensity_min``, ``intensity_max``, ``intensity_sum``:
          (N, C), with ``intensity`` only, as :func:`abbe.ops.regions.region_properties` gives them.

    Raises
    ------
    ValueError
        If ``labels`` are not a 3-D label image or ``intensity`` has another shape.
    """
    check_labels(labels)
    if labels.ndim != 3:
        raise ValueError(f"labels of shape {labels.shape}: expected (Z, Y, X)")
    depth, height, width = labels.shape
    rows = labels.reshape(depth * height, width)
    runs = find_runs(rows)
    first, last = _box(runs, height)
    centroid, covariance = _moments(runs, height, first)
    properties = {
        "label": runs.labels,
        "voxels": runs.reduce(np.add, runs.length),
        "touching_border": ((first == 0) | (last == labels.shape)).any(axis=1),
        "centroid": centroid + offset,
        "bbox": np.concatenate([(first + offset)[:, ::-1], (last + offset)[:, ::-1]], axis=1),
        "covariance": covariance,
        "entries": _entries(labels, runs),
    }
    properties |= shapes(properties, spacing)
    if intensity is not None:
        if intensity.shape[1:] != labels.shape:
            raise ValueError(f"intensity of shape {intensity.shape}: expected {(len(intensity), *labels.shape)}")
        properties |= intensity_statistics(rows, intensity.reshape(len(intensity), *rows.shape), runs)
    return properties


def shapes(measured: Mapping[str, np.ndarray], spacing: Sequence[float]) -> dict[str, np.ndarray]:
    """Measure sizes and shapes in the units of a voxel's sides.

    Parameters
    ----------
    measured
        ``voxels``, ``covariance`` and ``entries`` of :func:`volume_properties`.
    spacing
        Sides of a voxel along z, y and x.

    Returns
    -------
    dict
        - ``volume``;
        - ``surface_area``, closed where the array cuts the object. Within some per cent for round objects of at
          least four voxels along each axis; a face along the grid comes out up to 7 % too small, or more where
          voxels are far from cubes, and so does what is one voxel thin;
        - ``sphericity``: surface of the ball of the same volume / surface_area; above 1 for some small objects;
        - ``axis_lengths``: (N, 3), longest first, of the ellipsoid with the same second moments;
        - ``equivalent_diameter``: of the ball of the same volume.
    """
    sides = np.asarray(spacing, dtype=np.float64)
    volume = measured["voxels"] * sides.prod()
    variances = np.linalg.eigvalsh(measured["covariance"] * np.outer(sides, sides))[:, ::-1]
    diameter = np.cbrt(6 / math.pi * volume)
    surface = measured["entries"] @ _areas_per_entry(sides)
    return {
        "volume": volume,
        "surface_area": surface,
        "sphericity": math.pi * diameter**2 / surface,
        "axis_lengths": np.sqrt(20 * np.maximum(variances, 0)),
        "equivalent_diameter": diameter,
    }


def _box(runs: Runs, height: int) -> tuple[np.ndarray, np.ndarray]:
    """First voxel of each object along z, y, x and that behind its last, both (N, 3)."""
    planes, rows = runs.row // height, runs.row % height
    first = [runs.reduce(np.minimum, values) for values in (planes, rows, runs.start)]
    last = [runs.reduce(np.maximum, values) for values in (planes + 1, rows + 1, runs.stop)]
    return np.stack(first, axis=1), np.stack(last, axis=1)


def _moments(runs: Runs, height: int, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centroid (N, 3) and covariance (N, 3, 3) of each object's voxel coordinates."""
    # From the object's own corner, so that the integer sums stay exact however large the image.
    corner = first[runs.owner]
    z, y = runs.row // height - corner[:, 0], runs.row % height - corner[:, 1]
    a, b = runs.start - corner[:, 2], runs.stop - corner[:, 2]
    n, x = b - a, sum_below(b) - sum_below(a)
    xx = sum_of_squares_below(b) - sum_of_squares_below(a)
    voxels, *means = (runs.reduce(np.add, values) for values in (n, z * n, y * n, x))
    mean = np.stack(means, axis=1) / voxels[:, None]
    products = [[z * z * n, z * y * n, z * x], [z * y * n, y * y * n, y * x], [z * x, y * x, xx]]
    second = np.stack([np.stack([runs.reduce(np.add, values) for values in row], axis=1) for row in products], axis=1)
    return first + mean, second / voxels[:, None, None] - mean[:, :, None] * mean[:, None, :]


def _entries(labels: np.ndarray, runs: Runs) -> np.ndarray:
    """Count for every object how often lines in each of the directions enter it, (N, 13)."""
    depth, height, width = labels.shape
    planes = max(1, SLAB // max(height * width, 1))
    counts = np.zeros((len(DIRECTIONS), len(runs.labels)), dtype=np.int64)
    before = np.zeros((1, height + 2, width + 2), dtype=np.int32)
    # With a rim of background, a step in any direction is one offset among the voxels in memory.
    offsets = DIRECTIONS @ [before.size, width + 2, 1]
    first = before.size + width + 3
    for top in range(0, depth, planes):
        slab = np.concatenate([before, np.pad(_numbers(labels, runs, top, planes), ((0, 0), (1, 1), (1, 1)))])
        before, voxels = slab[-1:], slab.ravel()
        here = voxels[first:]
        for count, offset in zip(counts, offsets):
            entered = here[here != voxels[first - offset : len(voxels) - offset]]
            count += np.bincount(entered, minlength=len(runs.labels) + 1)[1:]
    return counts.T


def _numbers(labels: np.ndarray, runs: Runs, top: int, planes: int) -> np.ndarray:
    """Some planes of the labels, numbered from 1 in the order of ``runs.labels``."""
    slab, height = labels[top : top + planes], labels.shape[1]
    numbers = np.zeros(slab.shape, dtype=np.int32)
    within = slice(*np.searchsorted(runs.row, (top * height, (top + len(slab)) * height)))
    numbers[slab != 0] = np.repeat(runs.owner[within] + 1, runs.length[within])
    return numbers


def _areas_per_entry(sides: np.ndarray) -> np.ndarray:
    """Surface that one entry of a line stands for, by direction, (13,)."""
    steps = DIRECTIONS * sides
    lengths = np.linalg.norm(steps, axis=1)
    units = steps / lengths[:, None]
    shares = SphericalVoronoi(np.concatenate([units, -units])).calculate_areas().reshape(2, -1).sum(axis=0)
    # Lines through all voxels in one direction lie a voxel's volume / step length apart, as areas across them.
    return 4 * shares / shares.sum() * sides.prod() / lengths
