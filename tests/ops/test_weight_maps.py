from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from abbe.ops.weight_maps import border_weight_map, class_balance_weights, separation_weight_map

small_labels = arrays(np.int32, st.tuples(st.integers(3, 9), st.integers(3, 9)), elements=st.integers(0, 3))


def nearest_two(labels):
    """Distances to every object by looking at all pairs of pixels; infinite where there is none."""
    grid = np.stack(np.indices(labels.shape), -1).astype(float)
    distances = [
        np.linalg.norm(grid[..., None, :] - np.argwhere(labels == number), axis=-1).min(-1)
        for number in np.unique(labels[labels > 0])
    ]
    far = np.full(labels.shape, np.inf)
    ordered = np.sort(np.stack([*distances, far, far]), axis=0)
    return ordered[0], ordered[1]


@settings(deadline=None, max_examples=40)
@given(small_labels)
def test_border_weights_follow_the_formula_of_2015(labels):
    d1, d2 = nearest_two(labels)
    expected = 10 * np.exp(-((d1 + d2) ** 2) / (2 * 5**2))
    np.testing.assert_allclose(border_weight_map(labels), expected, atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(small_labels)
def test_separation_weights_follow_the_formula_of_2019(labels):
    foreground = (labels > 0) & (labels < 3)  # any part of the objects
    d1, d2 = nearest_two(labels)
    balance = 0.1 + 0.9 * np.exp(-(d1**2) / (2 * 10**2))
    separation = 50 * np.exp(-((d1 + d2) ** 2) / (2 * 6**2))
    expected = np.where(foreground, 1, balance + separation)
    np.testing.assert_allclose(separation_weight_map(labels, foreground), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("gap", [1, 3, 8, 20, 60])
def test_weights_hold_at_any_gap_and_beyond_the_reach(gap):
    labels = np.zeros((5, gap + 80), np.int32)
    labels[:, 20:30], labels[:, 30 + gap : 40 + gap] = 1, 2
    d1, d2 = nearest_two(labels)
    np.testing.assert_allclose(border_weight_map(labels), 10 * np.exp(-((d1 + d2) ** 2) / 50), atol=1e-4)
    expected = 0.1 + 0.9 * np.exp(-(d1**2) / 200) + 50 * np.exp(-((d1 + d2) ** 2) / 72)
    weights = separation_weight_map(labels, np.zeros(labels.shape, bool))
    np.testing.assert_allclose(weights, expected, atol=1e-3)


def test_separation_weights_in_three_dimensions():
    labels = np.zeros((4, 6, 7), np.int32)
    labels[0:2, 1:3, 1:3], labels[2:4, 4:6, 4:6] = 1, 2
    d1, d2 = nearest_two(labels)
    expected = np.where(labels > 0, 1, 0.1 + 0.9 * np.exp(-(d1**2) / 200) + 50 * np.exp(-((d1 + d2) ** 2) / 72))
    np.testing.assert_allclose(separation_weight_map(labels, labels > 0), expected, atol=1e-3)


def test_background_far_from_all_objects_weighs_a_tenth_and_at_a_cell_one():
    labels = np.zeros((3, 120), np.int32)
    labels[:, 0] = 1
    weights = separation_weight_map(labels, labels > 0)
    np.testing.assert_allclose(weights[1, [0, 1, 119]], [1, 1, 0.1], atol=0.01)
    assert (np.diff(weights[1, 1:]) <= 0).all()


@settings(deadline=None, max_examples=40)
@given(small_labels)
def test_each_class_gets_the_same_total_weight(classes):
    weights = class_balance_weights(classes, limit=np.inf)
    totals = [weights[classes == c].sum() for c in np.unique(classes)]
    np.testing.assert_allclose(totals, classes.size / len(totals), rtol=1e-4)


def test_rare_classes_weigh_no_more_than_the_limit():
    classes = np.zeros((100, 100), bool)
    classes[0, 0] = True
    assert class_balance_weights(classes).max() == 10
