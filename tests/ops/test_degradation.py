"""Noise, compression, enlargement and blur as what they imitate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from abbe.ops.degradation import (
    add_camera_noise,
    add_gaussian_noise,
    add_haze,
    blur,
    coarsen,
    compress,
    exposed_alike,
)

generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@settings(deadline=None, max_examples=20)
@given(generators, st.floats(0.01, 2), st.floats(0, 30))
def test_camera_noise_has_mean_and_variance_of_its_model(generator, gain, read) -> None:
    image = np.full((1, 300, 300), 200.0, np.float32)
    noisy = add_camera_noise(image, gain, read, generator)
    assert noisy.dtype == np.float32
    assert noisy.mean() == pytest.approx(200, abs=0.5)
    assert noisy.var() == pytest.approx(gain * 200 + read**2, rel=0.05)


def test_camera_noise_keeps_the_mean_below_zero_where_there_is_no_light() -> None:
    image = np.full((1, 200, 200), -0.1, np.float32)
    noisy = add_camera_noise(image, 0.01, 0.02, np.random.default_rng(0))
    assert noisy.mean() == pytest.approx(-0.1, abs=1e-3)
    assert noisy.std() == pytest.approx(0.02, rel=0.05)


def test_gaussian_noise_leaves_the_image_alone() -> None:
    image = np.zeros((2, 8, 8), np.float32)
    add_gaussian_noise(image, 1, np.random.default_rng(0))
    assert not image.any()


@settings(deadline=None, max_examples=20)
@given(generators, st.integers(0, 3), st.integers(0, 3), st.sampled_from([(9, 12), (4, 9, 12)]))
def test_blur_equals_ndimage(generator, half_y, half_x, extents) -> None:
    image = generator.random((2, *extents), np.float32)
    kernel = generator.random((*(1,) * (len(extents) - 2), 2 * half_y + 1, 2 * half_x + 1))
    wanted = np.stack([ndimage.convolve(channel, kernel, mode="reflect") for channel in image])
    np.testing.assert_allclose(blur(image, kernel), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_compression_keeps_more_the_higher_the_quality(channels) -> None:
    image = ndimage.gaussian_filter(np.random.default_rng(0).random((channels, 48, 40)), (0, 2, 2)).astype(np.float32)
    errors = [np.square(compress(image, quality) - image).mean() for quality in (5, 30, 95)]
    assert errors[0] > errors[1] > errors[2]


@settings(deadline=None, max_examples=20)
@given(generators, st.floats(1.5, 5), st.integers(6, 40), st.integers(6, 40))
def test_coarsening_keeps_shape_and_flat_images(generator, factor, height, width) -> None:
    assert coarsen(generator.random((2, height, width), np.float32), factor).shape == (2, height, width)
    np.testing.assert_allclose(coarsen(np.full((1, height, width), 0.3, np.float32), factor), 0.3, atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(generators, st.floats(0, 1), st.floats(0.5, 12), st.sampled_from([(20, 30), (3, 20, 30)]))
def test_haze_keeps_the_light_and_stays_within_planes(generator, share, width, extents) -> None:
    image = generator.random((1, *extents), np.float32)
    hazy = add_haze(image, share, width)
    np.testing.assert_allclose(hazy.mean((-1, -2)), image.mean((-1, -2)), rtol=1e-4)
    assert hazy.std() <= image.std() + 1e-6
    np.testing.assert_allclose(add_haze(image, 0, width), image)


@settings(deadline=None, max_examples=20)
@given(generators, st.floats(0.2, 3), st.floats(0.1, 5), st.floats(-1, 1))
def test_exposure_is_by_what_is_seen_and_both_follow_one_map(generator, width, scale, offset) -> None:
    clean = (generator.random((1, 40, 40)) ** 8 * scale + offset).astype(np.float32)
    seen = ndimage.gaussian_filter(clean, (0, width, width))
    exposed, along = exposed_alike(seen, clean)
    wanted = np.quantile(clean, (0.01, 0.998))
    np.testing.assert_allclose(np.quantile(exposed, (0.01, 0.998)), wanted, atol=1e-3 * scale)
    slope = np.ptp(exposed) / np.ptp(seen)
    assert slope >= 1 - 1e-3
    np.testing.assert_allclose(along - exposed, slope * (clean - seen), atol=2e-3 * scale * slope)


def test_even_images_are_exposed_as_they_are() -> None:
    even = np.full((1, 8, 8), 0.4, np.float32)
    for seen, clean in ((even, even), (even, even + np.eye(8, dtype=np.float32))):
        found = exposed_alike(seen, clean)
        assert np.array_equal(found[0], seen)
        assert np.array_equal(found[1], clean)
