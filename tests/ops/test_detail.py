"""Detail is what blur takes away and noise does not add to."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from abbe.ops.detail import FINE, measure_detail


@cache
def patches() -> np.ndarray:
    """Patches of random levels and extents that cover each other, sharp to the pixel, (Y, X)."""
    generator = np.random.default_rng(0)
    image = np.zeros((256, 300))
    for y, x, height, width, level in generator.uniform(0, (256, 300, 30, 30, 200), (900, 5)):
        image[int(y) : int(y + height) + 1, int(x) : int(x + width) + 1] = level
    return image


def test_the_stronger_the_blur_the_less_detail() -> None:
    shares = [measure_detail(ndimage.gaussian_filter(patches(), sigma), 0.0).share for sigma in (0, 0.7, 1.5, 3, 6)]
    assert all(low < high for high, low in pairwise(shares))


@settings(deadline=None, max_examples=20)
@given(scale=st.floats(1e-3, 1e3), offset=st.floats(-1e3, 1e3))
def test_units_and_offset_do_not_count(scale: float, offset: float) -> None:
    expected = measure_detail(patches(), 100.0)
    found = measure_detail(patches() * scale + offset, 100.0 * scale**2)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("sigma", [5.0, 20.0, 60.0])
def test_noise_adds_no_detail_and_is_what_detail_is_compared_with(sigma: float) -> None:
    noise = np.random.default_rng(1).normal(0, sigma, patches().shape)
    plain, noisy = measure_detail(patches(), 0.0), measure_detail(patches() + noise, sigma**2)
    assert noisy.share == pytest.approx(plain.share, rel=0.1)
    alone = measure_detail(noise, sigma**2)
    assert alone.over_noise == pytest.approx(0, abs=0.1)
    assert noisy.over_noise > 10 * alone.over_noise
    assert np.isinf(plain.over_noise)


@pytest.mark.parametrize("period", [5, 10, 40])
def test_stripes_are_detail_between_7_and_17_pixels(period: int) -> None:
    coarse = np.sin(2 * np.pi / 50 * np.arange(400))[:, None]
    stripes = np.sin(2 * np.pi / period * np.arange(400))
    assert (measure_detail(coarse + stripes, 0.0).share > 0.01) == (FINE[0] < 1 / period < FINE[1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (2, 3), (9, 9)])
@pytest.mark.parametrize("value", [0.0, 7.0, np.nan])
def test_planes_that_tell_nothing_have_none(shape: tuple[int, int], value: float) -> None:
    assert measure_detail(np.full(shape, value), 1.0).share == 0


def test_pixels_without_a_value_do_not_spread() -> None:
    holes = patches().copy()
    holes[::50, ::50] = np.nan
    assert measure_detail(holes, 0.0).share == pytest.approx(measure_detail(patches(), 0.0).share, rel=0.1)
