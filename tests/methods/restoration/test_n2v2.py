"""Medians, blurred pooling and the U without its top are what they are called."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from abbe.contract import Method
from abbe.errors import AbbeError
from abbe.methods.restoration.n2v2 import N2V2, VARIANTS, MaxBlurPool, N2V2Config, N2V2Options, blind_by_median, build
from abbe.methods.restoration.noise2void import ChannelByChannel, box_sides, stratified_places

shapes = st.sampled_from([(1, 40, 33), (2, 7, 30), (1, 1, 21), (1, 6, 12, 13)])
shares = st.sampled_from([0.00198, 0.015, 0.05, 0.25])


@settings(deadline=None, max_examples=40)
@given(shape=shapes, share=shares, radius=st.integers(1, 4), seed=st.integers(0, 99))
def test_hidden_pixels_get_the_median_of_the_others_around_them(shape, share, radius, seed):
    image = np.random.default_rng(seed).normal(size=shape)
    found = blind_by_median(image, share, radius, np.random.default_rng(seed))
    places = stratified_places(shape, box_sides(shape, share), np.random.default_rng(seed))
    spots, expected = [tuple(place) for place in places.T], image.copy()
    seen = image.copy()
    seen[tuple(places)] = np.nan
    for spot in spots:
        window = seen[(spot[0], *(slice(max(p - radius, 0), p + radius + 1) for p in spot[1:]))]
        values = window[~np.isnan(window)]
        assert found.mask[spot] == bool(len(values))
        expected[spot] = np.median(values) if len(values) else image[spot]
    assert found.mask.sum() <= len(spots)
    np.testing.assert_allclose(found.image, expected, rtol=0, atol=1e-15)


@settings(deadline=None, max_examples=30)
@given(shape=shapes, share=shares, seed=st.integers(0, 99))
def test_what_is_hidden_leaves_no_trace(shape, share, seed):
    image = np.random.default_rng(seed).normal(size=shape)
    seen, mask = blind_by_median(image, share, 2, np.random.default_rng(seed))
    other = np.where(mask, 1e3 + image, image)
    np.testing.assert_array_equal(blind_by_median(other, share, 2, np.random.default_rng(seed)).image, seen)


@pytest.mark.parametrize("pool", [(2, 2), (1, 2), (2, 2, 2), (1, 2, 2)])
def test_pooling_is_maximum_blur_and_every_second_pixel(pool):
    shape = (6, 8, 10)[-len(pool) :]
    x = np.random.default_rng(0).normal(size=shape)
    expected = x
    for axis, joined in enumerate(pool):
        if joined == 2:
            margin = [(1, 1) if a == axis else (0, 0) for a in range(len(pool))]
            expected = np.pad(expected, margin, mode="edge")
            pairs = np.lib.stride_tricks.sliding_window_view(expected, 2, axis=axis)
            expected = pairs.max(axis=-1)
    for axis, joined in enumerate(pool):
        if joined == 2:
            blurred = ndimage.convolve1d(expected, [0.25, 0.5, 0.25], axis=axis)
            expected = blurred.take(range(1, blurred.shape[axis] - 1, 2), axis=axis)
    two = torch.from_numpy(np.stack([x, -x]))[None]
    found = MaxBlurPool(pool).double()(two)
    assert found.shape[2:] == tuple(extent // joined for extent, joined in zip(shape, pool))
    np.testing.assert_allclose(found[0, 0], expected, atol=1e-12)


def test_a_bump_stays_where_it_is_when_pooled_and_doubled_again():
    """The blurred maxima are aligned with the pixels that they stand for."""
    y = np.arange(64)
    bump = np.exp(-((y[:, None] - 30.5) ** 2 + (y - 34.5) ** 2) / 50)
    pooled = MaxBlurPool((2, 2)).double()(torch.from_numpy(bump)[None, None])
    again = F.interpolate(pooled, scale_factor=2.0, mode="nearest")[0, 0].numpy()
    np.testing.assert_allclose(ndimage.center_of_mass(again), (30.5, 34.5), atol=1e-6)


@pytest.mark.parametrize("name", ["radius", "share"])
def test_options_of_nothing_are_refused(name):
    with pytest.raises(AbbeError, match=f"options.{name}"):
        N2V2Options(**{name: 0})


def test_pooling_by_more_than_two_is_refused():
    with pytest.raises(AbbeError, match="pool"):
        MaxBlurPool((3, 2))


def by_definition(network, x):
    weights = network.state_dict()

    def level(x, name):
        for place in (0, 3):
            x = F.conv2d(x, weights[f"{name}.{place}.weight"], padding=1)
            norm = [weights[f"{name}.{place + 1}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
            x = F.batch_norm(x, *norm).clamp(min=0)
        return x

    def double(x):
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    fine = level(x, "contracting.0")
    middle = level(network.pool(fine), "contracting.1")
    coarse = level(network.pool(middle), "middle")
    up = double(level(torch.cat([double(coarse), middle], 1), "expanding.0"))  # and nothing of ``fine``
    return F.conv2d(level(up, "top"), weights["head.weight"], weights["head.bias"])


def test_the_forward_is_that_of_the_definition(randomised):
    network = randomised(build(N2V2Config(in_channels=2, base=6, separate_channels=False))).double()
    x = torch.randn(2, 2, 12, 16, dtype=torch.float64)
    torch.testing.assert_close(network(x), by_definition(network, x))


def test_stacks_and_channels():
    network = build(N2V2Config(in_channels=2, base=4, pool=(1, 2, 2)))
    assert isinstance(network, ChannelByChannel)
    assert network(torch.zeros(2, 2, 3, 8, 12)).shape == (2, 2, 3, 8, 12)
    assert network.multiple == (1, 4, 4)


def test_a_tile_with_its_halo_equals_the_whole(randomised):
    method = N2V2(randomised(build(VARIANTS["n2v2_tiny"])).double())
    halo, _ = method.geometry.halo
    x = torch.randn(1, 1, 2 * halo + 24, 40, dtype=torch.float64)
    with torch.inference_mode():
        difference = (method(x)[:, :, halo:] - method(x[:, :, halo:])).abs().amax((0, 1, 3))
        again = (method(x)[:, :, halo:] - method(x[:, :, 4:])[:, :, halo - 4 :]).abs().amax((0, 1, 3))
    assert difference[halo:].max() < 1e-12
    assert difference[0] > 1e-9
    assert again[halo:].max() < 1e-12


def test_a_short_training_brings_the_image_nearer_to_the_clean_one(gain_of_training):
    torch.manual_seed(0)
    method = N2V2(build(VARIANTS["n2v2_tiny"]), N2V2Options(share=0.02))
    assert isinstance(method, Method)
    assert gain_of_training(method, "independent", steps=120) > 4
