from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import distance_transform_edt

from abbe.ops.distance import ridge_separation, two_nearest_distances

wide = settings(deadline=None, max_examples=40)
label_images = hnp.arrays(
    np.int32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=8), elements=st.sampled_from([0, 0, 1, 2, 9])
)


def brute_two_nearest(labels, sampling):
    """Every pixel against every pixel of every object."""
    pixels = np.indices(labels.shape).reshape(labels.ndim, -1).T * np.array(sampling)
    distances = [
        np.linalg.norm(pixels[:, None] - pixels[labels.ravel() == label][None], axis=-1).min(axis=1)
        for label in np.unique(labels[labels > 0])
    ]
    far = np.full(len(pixels), np.inf)
    ordered = np.sort([*distances, far, far], axis=0)
    return ordered[0].reshape(labels.shape), ordered[1].reshape(labels.shape)


@wide
@given(
    label_images,
    st.sampled_from([1.05, 2.51, 4.03, np.inf]),
    st.tuples(*[st.sampled_from([0.3, 1.0, 2.0])] * 3),
)
def test_distances_are_those_to_every_pixel_of_every_object(labels, reach, sampling):
    sampling = sampling[: labels.ndim]
    for ours, expected in zip(two_nearest_distances(labels, reach, sampling), brute_two_nearest(labels, sampling)):
        np.testing.assert_allclose(ours, np.where(expected <= reach, expected, np.inf))


def test_the_nearest_object_is_as_far_as_the_foreground():
    labels = np.random.default_rng(0).integers(1, 40, (60, 70)) * (np.random.default_rng(1).random((60, 70)) > 0.9)
    nearest, second = two_nearest_distances(labels)
    np.testing.assert_allclose(nearest, distance_transform_edt(labels == 0))
    assert (second >= nearest).all()
    assert (second[labels > 0] > 0).all()


def test_without_objects_everything_is_infinitely_far():
    for labels in (np.zeros((3, 4), int), np.zeros((0, 4), int)):
        nearest, second = two_nearest_distances(labels, reach=5)
        assert nearest.shape == second.shape == labels.shape
        assert np.isinf(nearest).all()
        assert np.isinf(second).all()


def neighbouring_labels(labels):
    """All pairs of different objects that share a side or a corner."""
    padded = np.pad(labels, 1)
    shifts = [np.roll(padded, shift, range(labels.ndim)) for shift in np.ndindex((3,) * labels.ndim)]
    windows = np.stack([np.roll(s, -1, range(labels.ndim))[(slice(1, -1),) * labels.ndim] for s in shifts], axis=-1)
    own = labels[..., None]
    return (windows != own) & (windows > 0) & (own > 0)


@wide
@given(label_images)
def test_no_objects_touch_and_only_contacts_are_given_up(labels):
    separated = ridge_separation(labels)
    assert not neighbouring_labels(separated).any()
    given_up = separated != labels
    assert (separated[given_up] == 0).all()
    assert neighbouring_labels(labels).any(axis=-1)[given_up].all()
    assert separated.dtype == labels.dtype


def test_the_ridge_is_one_pixel_wide_and_taken_from_the_larger():
    labels = np.zeros((6, 10), np.uint16)
    labels[1:5, 1:4], labels[1:5, 4:9] = 7, 3
    expected = labels.copy()
    expected[1:5, 4] = 0
    np.testing.assert_array_equal(ridge_separation(labels), expected)


@pytest.mark.parametrize("first", [1, 2])
def test_a_pixel_beside_a_large_object_survives(first):
    labels = np.full((5, 5), first)
    labels[2, 2] = 3 - first
    assert (ridge_separation(labels) == 3 - first).sum() == 1
