from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.metrics import contingency_table

from abbe.ops.matching import assign, contingency

wide = settings(deadline=None, max_examples=40)


@st.composite
def label_pairs(draw):
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=8))
    array = hnp.arrays(np.int32, shape, elements=st.sampled_from([0, 1, 2, 5, 9]))
    return draw(array), draw(array)


@wide
@given(label_pairs())
def test_contingency_counts_shared_pixels(pair):
    a, b = pair
    ours = contingency(a, b)
    np.testing.assert_array_equal(ours.toarray(), contingency_table(a, b).toarray())
    assert ours.nnz == len(np.unique(np.stack([a.ravel(), b.ravel()]), axis=1).T)
    assert ours.sum() == a.size


def test_contingency_of_huge_labels_needs_no_huge_table():
    a = np.array([[0, 2**40, 2**40]])
    b = np.array([[3, 3, 2**41]])
    ours = contingency(a, b)
    assert list(zip(ours.row, ours.col, ours.data)) == [(0, 3, 1), (2**40, 3, 1), (2**40, 2**41, 1)]


def test_contingency_without_pixels_and_of_different_shapes():
    assert contingency(np.zeros((0, 3), int), np.zeros((0, 3), int)).nnz == 0
    with pytest.raises(ValueError, match="shapes"):
        contingency(np.zeros((2, 3), int), np.zeros((3, 2), int))


@wide
@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=4), elements=st.floats(0, 1)))
def test_assignment_has_most_pairs_and_then_the_best_total(matrix):
    matrix = np.where(matrix < 0.4, 0, matrix)
    row, column = np.nonzero(matrix)
    picked = assign(row, column, matrix[row, column])
    assert len(set(row[picked])) == len(picked) == len(set(column[picked]))
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    ways = [
        [tall[order[j], j] for j in range(tall.shape[1])] for order in permutations(range(tall.shape[0]), tall.shape[1])
    ]
    best = max((sum(v > 0 for v in way), sum(way)) for way in ways)
    assert len(picked) == best[0]
    assert matrix[row[picked], column[picked]].sum() == pytest.approx(best[1])
