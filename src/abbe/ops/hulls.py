"""Convex hulls of many pixel objects at once, in exact integer arithmetic.

The hull is that of the diamonds that join the four edge midpoints of every pixel, and it covers the pixels
whose centre lies in it or on its edge, as ``convex_hull_image`` of scikit-image defines it. Since the hull of
the diamonds is the hull of the pixel centres widened by one diamond, only the first and the last pixel of
each row are needed:

    row ends of all objects ──> strike out what the neighbours' chord covers, until nothing is left to strike
    ──> vertices of every left and right outline ──> outline in each row, widened by a diamond ──> area
"""

from __future__ import annotations

import numpy as np


def convex_areas(first: np.ndarray, row: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Count the pixels in the convex hull of every object.

    Parameters
    ----------
    first
        (N,): where each object's entries begin in the other arrays; at least one entry per object.
    row
        (R,): rows that an object occupies, ascending within the object; rows without pixels may be missing.
    left, right
        (R,): the object's first and last column in the row.

    Returns
    -------
    np.ndarray
        int64, (N,).
    """
    if not len(first):
        return np.zeros(0, dtype=np.int64)
    owner = np.repeat(np.arange(len(first)), np.diff(first, append=len(row)))
    last = np.append(first[1:], len(row)) - 1
    heights = row[last] - row[first] + 1
    starts = np.cumsum(heights) - heights
    position = (starts - row[first])[owner] + row  # of each row among the rows of all objects
    widths = 1 - _outline(owner, row, left, position) - _outline(owner, row, -right, position)
    return np.add.reduceat(widths, starts)


def _outline(owner: np.ndarray, row: np.ndarray, column: np.ndarray, position: np.ndarray) -> np.ndarray:
    """First column of each object's hull, in every row from the object's first to its last.

    Between two vertices the outline has the slope s = dx / dy. A diamond of half-width 1/2 moves it outwards
    by max(1, |s|) / 2; at a vertex, each of the two edges counts only if it leads inwards from there.
    """
    vertices = _lower_vertices(owner, row, column)
    owner, row, column, position = (values[vertices] for values in (owner, row, column, position))
    outline = np.empty(position[-1] + 1, dtype=np.int64)
    outline[position] = column
    edge = np.flatnonzero(owner[1:] == owner[:-1])
    dy, dx = row[edge + 1] - row[edge], column[edge + 1] - column[edge]

    which = np.repeat(np.arange(len(edge)), dy)  # every row of an edge but its last
    below = np.arange(len(which)) - (np.cumsum(dy) - dy)[which]
    outward = np.maximum(dy, np.abs(dx))[which]
    outward[below == 0] = np.maximum(dy, -dx)
    twice = 2 * dx[which] * below - outward
    outline[position[edge][which] + below] = column[edge][which] - -twice // (2 * dy[which])

    end = column[edge + 1] - np.maximum(dy, dx) // (2 * dy)
    outline[position[edge + 1]] = np.minimum(outline[position[edge + 1]], end)
    return outline


def _lower_vertices(owner: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Indices of the vertices of each object's convex outline towards small columns.

    A point on or above the chord of its neighbours is no vertex, and striking all such points at once leaves
    the hull as it is. A convex outline of height H on a grid has O(H^(2/3)) vertices, so that even an outline
    which loses its points one by one is done after that many rounds; nuclei take about five.
    """
    settled = []
    points = np.arange(len(owner))
    while len(points):
        mine, y, x = owner[points], row[points], column[points]
        strike = np.zeros(len(points), dtype=bool)
        turn = np.diff(y)[:-1] * np.diff(x)[1:] - np.diff(x)[:-1] * np.diff(y)[1:]
        strike[1:-1] = (mine[:-2] == mine[2:]) & (turn <= 0)
        unsettled = np.zeros(owner[-1] + 1, dtype=bool)
        unsettled[mine[strike]] = True
        again = unsettled[mine]
        settled.append(points[~again])
        points = points[again & ~strike]
    return np.sort(np.concatenate(settled))
