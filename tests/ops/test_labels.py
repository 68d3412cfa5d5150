from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.segmentation import find_boundaries, relabel_sequential

from abbe.ops.labels import (
    boundaries,
    relabel,
    remove_small,
    smallest_unsigned,
    touches_border,
)

wide = settings(deadline=None, max_examples=40)
shapes = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9)
small_labels = hnp.arrays(np.int32, shapes, elements=st.integers(0, 4))
any_labels = hnp.arrays(np.int64, shapes, elements=st.sampled_from([0, 1, 2, 7, 300, 70_000, 2**31, 2**62]))


@pytest.mark.parametrize(
    ("n", "dtype"),
    [(0, "u1"), (255, "u1"), (256, "u2"), (65535, "u2"), (65536, "u4"), (2**32, "u8"), (2**64 - 1, "u8")],
)
def test_smallest_unsigned_holds_every_label(n, dtype):
    assert smallest_unsigned(n) == np.dtype(dtype)


@pytest.mark.parametrize("n", [-1, 2**64])
def test_smallest_unsigned_refuses_what_nothing_holds(n):
    with pytest.raises(ValueError, match=str(n)):
        smallest_unsigned(n)


@wide
@given(any_labels)
def test_relabel_keeps_the_partition_and_the_order(labels):
    numbers, n = relabel(labels)
    expected, _, _ = relabel_sequential(np.searchsorted(np.unique(np.append(labels, 0)), labels))
    np.testing.assert_array_equal(numbers, expected)
    assert numbers.dtype == np.int32
    assert n == len(np.unique(labels[labels > 0]))


def test_relabel_without_pixels_or_objects():
    assert relabel(np.zeros((0, 5), np.uint16))[1] == 0
    assert relabel(np.zeros((3, 5), np.uint8))[1] == 0
    assert relabel(np.array([[True, False]]))[1] == 1


@pytest.mark.parametrize("labels", [np.array([[0.5]]), np.array([[-1, 2]])])
def test_relabel_refuses_what_is_no_label_image(labels):
    with pytest.raises(ValueError, match="labels"):
        relabel(labels)


@wide
@given(small_labels, st.sampled_from(["inner", "thick"]))
def test_boundaries_equal_skimage(labels, mode):
    expected = find_boundaries(labels, connectivity=1, mode=mode)
    np.testing.assert_array_equal(boundaries(labels, mode), expected)


def test_boundaries_refuse_an_unknown_mode():
    with pytest.raises(ValueError, match="subpixel"):
        boundaries(np.zeros((2, 2), int), "subpixel")


@wide
@given(small_labels)
def test_objects_at_the_border_have_pixels_there(labels):
    inside = np.zeros(labels.shape, bool)
    inside[tuple(slice(1, -1) for _ in labels.shape)] = True
    for label in range(1, 5):
        assert touches_border(labels, 4)[label - 1] == ((labels == label) & ~inside).any()


@wide
@given(any_labels, st.integers(0, 5))
def test_remove_small_keeps_exactly_the_large(labels, min_area):
    before = labels.copy()
    kept = remove_small(labels, min_area)
    for label in np.unique(labels[labels > 0]):
        area = (labels == label).sum()
        assert (kept == label).sum() == (area if area >= min_area else 0)
    assert kept.dtype == labels.dtype
    np.testing.assert_array_equal(labels, before)
