from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from abbe.data.resample import pick, resample, resize
from abbe.data.sample import Sample
from abbe.errors import AbbeError


@pytest.mark.parametrize("shape", [(30, 40), (15, 80), (47, 21)])
def test_resampling_keeps_the_field_and_linear_gradients(shape):
    old = np.stack(np.meshgrid(*[np.arange(n) + 0.5 for n in (30, 40)], indexing="ij")).astype(np.float32)
    new = resize(old, shape)
    for axis, (n, m) in enumerate(itertools.zip_longest((30, 40), shape)):
        expected = np.clip((np.arange(m) + 0.5) * n / m, 0.5, n - 0.5)
        found = new[axis].swapaxes(0, axis)[:, 0]
        np.testing.assert_allclose(found[1:-1], expected[1:-1], atol=0.05)
        np.testing.assert_allclose(found, expected, atol=0.2)  # beyond the border, its pixel stands in


def test_a_sample_comes_to_the_pixel_size_of_the_model():
    labels = np.zeros((20, 30), np.int32)
    labels[5:15, 10:20] = 7
    image = labels[None].astype(np.float32)
    sample = resample(Sample(image, labels, labels > 0, (1.0, 0.25), "a"), (0.5, 0.5))
    assert sample.image.shape == (1, 40, 15)
    assert sample.pixel_size == (0.5, 0.5)
    assert set(np.unique(sample.labels)) == {0, 7}
    np.testing.assert_array_equal(sample.labels > 0, sample.ignore)
    assert (sample.labels > 0).sum() * 0.25 == pytest.approx((labels > 0).sum() * 0.25, rel=0.1)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(1, 20))
def test_labels_are_picked_like_nearest_exact(old, new):
    row = np.arange(old)
    expected = F.interpolate(torch.arange(old, dtype=torch.float64)[None, None], new, mode="nearest-exact")
    np.testing.assert_array_equal(pick(row, (new,)), expected[0, 0].numpy())


def test_resampling_stacks_and_back():
    shape = (4, 10, 12)
    stack = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")).astype(np.float32)
    sample = resample(Sample(stack, pixel_size=(2.0, 0.5, 0.5)), (1.0, 0.5, 0.5))
    assert sample.image.shape == (3, 8, 10, 12)
    back = resize(sample.image, shape)
    np.testing.assert_allclose(back[:, 1:-1], stack[:, 1:-1], atol=1e-5)


def test_a_sample_of_unknown_pixel_size_is_refused():
    with pytest.raises(AbbeError, match=r"plate1\.tif.*0\.5 × 0\.5"):
        resample(Sample(np.zeros((1, 4, 4), np.float32), name="plate1.tif"), (0.5, 0.5))


def test_what_shrinks_is_averaged():
    noise = np.random.default_rng(0).normal(size=(1, 20, 60, 60)).astype(np.float32)
    sample = resample(Sample(noise, pixel_size=(1.0, 0.25, 0.25)), (1.0, 0.5, 0.5))
    # Triangle weights 1 3 3 1 over 8 along two axes keep (20 / 64)² of the variance.
    assert sample.image[:, :, 2:-2, 2:-2].var() == pytest.approx((20 / 64) ** 2, rel=0.05)
