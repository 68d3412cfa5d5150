"""How two label images of the same field overlap, object by object, in one pass over the pixels."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csgraph

from abbe.ops.labels import largest_label


def contingency(a: np.ndarray, b: np.ndarray) -> sparse.coo_array:
    """Count the pixels that every label of ``a`` shares with every label of ``b``.

    Parameters
    ----------
    a, b
        Label images of one shape, 2-D or 3-D; numbers may have gaps.

    Returns
    -------
    scipy.sparse.coo_array
        int64, (largest label of a + 1, largest label of b + 1); background is row and column 0. Only pairs
        that overlap are stored, each once, ordered by row and then by column.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"label images of shapes {a.shape} and {b.shape}: expected one shape")
    shape = (largest_label(a) + 1, largest_label(b) + 1)
    starts, lengths = _common_runs(a.ravel(), b.ravel())
    rows, row_index = np.unique(a.ravel()[starts], return_inverse=True)
    columns, column_index = np.unique(b.ravel()[starts], return_inverse=True)
    pairs, pair_index = np.unique(row_index * len(columns) + column_index, return_inverse=True)
    counts = np.bincount(pair_index, weights=lengths, minlength=len(pairs)).astype(np.int64)
    row, column = np.divmod(pairs, max(len(columns), 1))
    coordinates = (rows[row].astype(np.int64), columns[column].astype(np.int64))
    return sparse.coo_array((counts, coordinates), shape=shape)


def _common_runs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and lengths of the stretches on which both flat arrays stay constant: far fewer than pixels."""
    if not a.size:
        return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
    changes = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    starts = np.concatenate(([0], np.flatnonzero(changes) + 1))
    return starts, np.diff(starts, append=a.size)


def assign(row: np.ndarray, column: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Pick most pairs such that no row or column occurs twice; of such choices that of greatest total score.

    Pairs that compete with no other are taken at once; the rest is solved exactly, one connected group of
    competing pairs at a time, so that the cost stays proportional to the pairs while the groups are small.

    Parameters
    ----------
    row, column
        Non-negative integers, (N,): the candidate pairs, each once.
    score
        float, (N,), in [0, 1].

    Returns
    -------
    np.ndarray
        Ascending indices of the pairs that were picked.
    """
    _, rows = np.unique(row, return_inverse=True)
    _, columns = np.unique(column, return_inverse=True)
    alone = (np.bincount(rows)[rows] == 1) & (np.bincount(columns)[columns] == 1)
    contested = np.flatnonzero(~alone)
    picked = [np.flatnonzero(alone)]
    for group in _groups(rows[contested], columns[contested]):
        pairs = contested[group]
        picked.append(pairs[_assign_group(row[pairs], column[pairs], score[pairs])])
    return np.sort(np.concatenate(picked))


def _groups(rows: np.ndarray, columns: np.ndarray) -> list[np.ndarray]:
    """Split pairs into those connected through a shared row or column; indices into the pairs."""
    if not len(rows):
        return []
    n_rows, n_columns = rows.max() + 1, columns.max() + 1
    n = n_rows + n_columns
    graph = sparse.coo_array((np.ones(len(rows), dtype=bool), (rows, n_rows + columns)), shape=(n, n))
    component = csgraph.connected_components(graph, directed=False)[1][rows]
    order = np.argsort(component, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(component[order])) + 1)


def _assign_group(row: np.ndarray, column: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Solve one connected group by the Hungarian method; indices of the pairs picked."""
    rows, columns = np.unique(row, return_inverse=True)[1], np.unique(column, return_inverse=True)[1]
    shape = (rows.max() + 1, columns.max() + 1)
    # One more pair outweighs any gain in score: an assignment has at most min(shape) scores, each at most 1.
    gain = np.zeros(shape)
    gain[rows, columns] = 1 + score / (2 * min(shape))
    pair = np.full(shape, -1)
    pair[rows, columns] = np.arange(len(rows))
    chosen = pair[linear_sum_assignment(gain, maximize=True)]
    return chosen[chosen >= 0]
