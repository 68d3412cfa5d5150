"""Noise of known strength and correlation is measured from the noisy image alone."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from abbe.errors import AbbeError
from abbe.ops.noise import LAGS, Noise, difference, estimate_noise

EXTENT, OFFSET = 512, 100


@cache
def photons() -> np.ndarray:
    """Textured disks of 65 to 305 photons on a background of 5, blurred by an objective, (Y, X)."""
    generator = np.random.default_rng(0)
    image = np.zeros((EXTENT, EXTENT))
    rows, columns = np.mgrid[:EXTENT, :EXTENT]
    for _ in range(EXTENT**2 // 2500):
        y, x = generator.uniform(0, EXTENT, 2)
        inside = (rows - y) ** 2 + (columns - x) ** 2 < generator.uniform(6, 14) ** 2
        image[inside] += generator.uniform(60, 300)
    return ndimage.gaussian_filter(image * (1 + 0.3 * np.sin(rows / 2)), 1.5) + 5


def white(seed: int = 1, extent: int = EXTENT) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(extent, extent))


# ---------------------------------------------------------------------------------------------------- strength


@pytest.mark.parametrize("gain", [0.5, 2.0, 8.0])
@pytest.mark.parametrize("read", [2.0, 5.0, 15.0])
def test_gain_and_read_noise_of_a_camera(gain, read):
    """``read`` is in photons."""
    counted = np.random.default_rng(0).poisson(photons())
    found = estimate_noise(OFFSET + gain * (counted + read * white()))
    assert found.gain == pytest.approx(gain, rel=0.1)
    assert found.read_noise(OFFSET) == pytest.approx(gain * read, rel=0.1)
    assert found.verdict == "independent"
    assert found.dark == pytest.approx(OFFSET + gain * 5, abs=gain * (2 + read / 3))  # the background
    level = 50.0
    assert found.deviation(OFFSET + gain * level) == pytest.approx(gain * np.sqrt(level + read**2), rel=0.05)


@pytest.mark.parametrize("sigma", [1.0, 10.0, 100.0])
def test_noise_that_does_not_grow_with_the_level(sigma):
    found = estimate_noise(photons() + sigma * white())
    assert found.deviation(found.level) == pytest.approx(sigma, rel=0.05 if sigma > 1 else 0.15)


def test_planes_of_a_stack_are_measured_together():
    """Twelve small planes tell what one large plane tells; one of them alone does not."""
    counted = np.random.default_rng(0).poisson(photons()) + 5 * white()
    planes = counted.reshape(4, EXTENT // 4, 4, EXTENT // 4).swapaxes(1, 2)
    found = estimate_noise(planes)
    assert found.gain == pytest.approx(1, rel=0.1)
    assert found.read_noise() == pytest.approx(5, rel=0.1)


@settings(deadline=None, max_examples=25)
@given(scale=st.floats(1e-4, 1e4), shift=st.floats(-1e3, 1e3), seed=st.integers(0, 5))
def test_other_units_change_nothing_but_the_units(scale, shift, seed):
    image = np.random.default_rng(seed).poisson(photons()[:96, :96]) + 3 * white(seed, 96)
    first, other = estimate_noise(image), estimate_noise(scale * (image + shift))
    assert other.gain == pytest.approx(scale * first.gain, rel=1e-3, abs=1e-9 * scale)
    level = first.level + 20
    assert other.deviation(scale * (level + shift)) == pytest.approx(scale * first.deviation(level), rel=1e-3)
    np.testing.assert_allclose(other.horizontal, first.horizontal, atol=1e-3)


def test_unknown_pixels_are_left_out():
    image = photons() + 10 * white()
    image[:40, 100:] = np.nan
    found = estimate_noise(image)
    assert found.deviation(found.level) == pytest.approx(10, rel=0.05)
    assert found.verdict == "independent"


def test_infinite_pixels_are_unknown_too():
    image = photons() + 10 * white()
    image[200:210, 50:90], image[:9, :9] = np.inf, -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = estimate_noise(image)
    assert found.deviation(found.level) == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("share", [0.001, 0.005, 0.01])
def test_scattered_unknown_pixels_are_left_out(share):
    clean = 2000 + 300 * np.sin(np.arange(256) / 40)
    image = clean + 30 * white(0, 256)
    image[np.random.default_rng(1).random(image.shape) < share] = np.nan
    found = estimate_noise(image)
    assert found.verdict == "independent"
    assert found.deviation(2000) == pytest.approx(30, rel=0.1)


@pytest.mark.parametrize("turned", [False, True])
def test_noise_that_every_other_neighbour_shares_is_told(turned):
    noise = white(0, 260)[:256]
    image = 2000 + 70 * (noise[:, :-4] + noise[:, 2:-2])
    found = estimate_noise(image.T if turned else image)
    assert found.verdict == ("vertical" if turned else "horizontal")
    assert found.reach == 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("smooth", [2, 3, 4, 6, 10])
@pytest.mark.parametrize("extent", [128, 512])
def test_a_smooth_image_has_no_noise_though_it_was_rounded(dtype, smooth, extent):
    image = ndimage.gaussian_filter(white(0, extent), smooth, mode="wrap")
    image = (image - image.min()) / np.ptp(image)
    image = image * 150 + 50 if dtype == np.uint8 else image * 3000 + 100
    assert estimate_noise(image.round().astype(dtype) if dtype != np.float32 else image).verdict == "none"


def test_weak_noise_that_neighbours_share_is_not_taken_for_a_smooth_image():
    noise = ndimage.gaussian_filter(white(0, 256), 0.8)
    for deviation in (2, 4, 16):
        found = estimate_noise(np.rint(100 + deviation * noise / noise.std()).astype(np.uint8))
        assert found.verdict == "isotropic"


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_constant_image_has_no_noise(value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = estimate_noise(np.full((64, 70), value, np.uint16))
    assert (found.gain, found.intercept, found.verdict, found.reach) == (0, 0, "none", 0)


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (20, 20), (0, 0), (3, 1, 1)])
def test_images_too_small_are_refused(shape):
    with pytest.raises(AbbeError, match="too few"):
        estimate_noise(np.zeros(shape))


def test_an_image_without_finite_pixels_is_refused():
    with pytest.raises(AbbeError, match="too few"):
        estimate_noise(np.full((64, 64), np.nan))


# ------------------------------------------------------------------------------------ noise that is cut off


@cache
def hills() -> np.ndarray:
    """Smooth hills of 0 to 1, (Y, X)."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(7).random((EXTENT, EXTENT)), 12, mode="wrap")
    return (smooth - smooth.min()) / np.ptp(smooth)


CUT = settings(deadline=None, max_examples=12)


@CUT
@given(share=st.floats(0.05, 0.4), sigma=st.floats(5, 40), bottom=st.booleans(), seed=st.integers(0, 10**6))
def test_saturated_and_clipped_places_are_left_out(share, sigma, bottom, seed):
    image = 1000 + 600 * hills() + sigma * white(seed)
    limit = np.quantile(image, share if bottom else 1 - share)
    found = estimate_noise(np.rint(image.clip(limit) if bottom else image.clip(None, limit)))
    assert found.deviation(found.level) == pytest.approx(sigma, rel=0.1)
    assert found.verdict == "independent"


@CUT
@given(share=st.floats(0.05, 0.9), sigma=st.floats(5, 40), lowest=st.sampled_from([0, -50]), seed=st.integers(0, 10**6))
def test_masked_places_are_left_out(share, sigma, lowest, seed):
    """A pixel darker than the mask shows that it need not be the smallest value."""
    image = 1000 + 600 * hills() + sigma * white(seed)
    image[: round(share * EXTENT)] = 0
    image[0, 0] = lowest
    found = estimate_noise(image)
    assert found.deviation(found.level) == pytest.approx(sigma, rel=0.15)
    assert found.verdict == "independent"
    assert found.level > 900


@CUT
@given(share=st.floats(0.05, 0.4), seed=st.integers(0, 10**6))
def test_rows_that_share_noise_are_told_beside_saturated_places(share, seed):
    noise = 40 * ndimage.uniform_filter1d(white(seed), 5, axis=1) * np.sqrt(5)
    image = 1000 + 600 * hills() + noise
    found = estimate_noise(image.clip(None, np.quantile(image, 1 - share)))
    assert found.verdict == "horizontal"
    assert found.deviation(found.level) == pytest.approx(40, rel=0.15)


@CUT
@given(background=st.sampled_from([0, 0.02, 0.2, 0.5, 2]), gain=st.floats(0.5, 20), seed=st.integers(0, 10**6))
def test_photons_over_a_dark_background(background, gain, seed):
    light = 40 * np.maximum(hills() - 0.5, 0) * 2 + background
    found = estimate_noise(gain * np.random.default_rng(seed).poisson(light))
    assert found.gain == pytest.approx(gain, rel=0.15)
    assert found.deviation(found.level) == pytest.approx(np.sqrt(gain * found.level), rel=0.15)
    assert found.verdict == "independent"


def test_where_all_of_it_is_cut_off_in_part_the_least_is_taken():
    """A quarter of the pixels of every place; deviation of a Gaussian clipped at 0.67: 0.83 (Tobin 1958)."""
    found = estimate_noise((1000 + 10 * white()).clip(None, 1006.7))
    assert found.deviation(found.level) == pytest.approx(8.3, rel=0.05)
    assert found.verdict == "independent"


# ------------------------------------------------------------------------------------------------ independence


def shared_by(kind: str, strength: float) -> tuple[np.ndarray, list[float], list[float]]:
    """Make noise of deviation 1 and give its correlation with the next neighbours along X and Y, from its formula."""
    noise, none = white(2), [0.0, 0.0, 0.0]
    if kind == "box":  # the mean of n in a row: they share n - k of n
        length = int(strength)
        shared = [max(1 - lag / length, 0) for lag in (1, 2, 3)]
        return ndimage.uniform_filter1d(noise, length, axis=1) * np.sqrt(length), shared, none
    if kind == "rows":  # a share of the variance is one value for the whole row
        rows = np.random.default_rng(3).normal(size=(EXTENT, 1))
        return np.sqrt(strength) * rows + np.sqrt(1 - strength) * noise, [strength] * 3, none
    if kind == "pair":  # x_i + a x_{i-1}
        mixed = (noise + strength * np.roll(noise, 1, axis=1)) / np.sqrt(1 + strength**2)
        return mixed, [strength / (1 + strength**2), 0, 0], none
    assert kind == "blur"  # of a Gaussian the correlation is a Gaussian, wider by the root of 2
    blurred = ndimage.gaussian_filter(noise, strength, mode="wrap")
    kernel = ndimage.gaussian_filter1d(np.eye(1, 65, 32)[0], strength)
    shared = [float(kernel[lag:] @ kernel[: 65 - lag] / (kernel @ kernel)) for lag in (1, 2, 3)]
    return blurred / blurred.std(), shared, shared


KINDS = [
    *[("box", 2), ("box", 5), ("box", 9), ("rows", 0.3), ("rows", 0.6), ("pair", 0.3), ("pair", 1)],
    *[("blur", 0.5), ("blur", 0.7), ("blur", 1.0)],
]


@pytest.mark.parametrize(("kind", "strength"), KINDS)
@pytest.mark.parametrize("turned", [False, True])
def test_who_shares_the_noise(kind, strength, turned):
    noise, along_x, along_y = shared_by(kind, strength)
    expected = "isotropic" if kind == "blur" else "horizontal"
    if turned:
        noise, along_x, along_y = noise.T, along_y, along_x
        expected = {"horizontal": "vertical"}.get(expected, expected)
    found = estimate_noise(photons() + 10 * noise)
    np.testing.assert_allclose(found.horizontal[:3], along_x, atol=0.04)
    np.testing.assert_allclose(found.vertical[:3], along_y, atol=0.04)
    assert found.verdict == expected
    assert found.deviation(found.level) == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize(("length", "reach"), [(3, 2), (5, 4), (7, 6), (30, LAGS)])
def test_the_reach_is_the_farthest_neighbour_that_shares_the_noise(length, reach):
    noise, _, _ = shared_by("box", length)
    assert estimate_noise(photons() + 10 * noise).reach == reach


def test_noise_of_an_enlarged_image_is_isotropic():
    small = photons()[::2, ::2] + 10 * white(4, EXTENT // 2)
    assert estimate_noise(ndimage.zoom(small, 2, order=1)).verdict == "isotropic"


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), extent=st.integers(64, 256), sigma=st.floats(3, 100))
def test_independent_noise_is_called_independent(seed, extent, sigma):
    found = estimate_noise(photons()[:extent, :extent] + sigma * white(seed, extent))
    assert found.verdict == "independent"
    assert found.reach == 0


def test_a_turned_image_has_its_directions_exchanged():
    image = photons() + 10 * shared_by("box", 5)[0]
    upright, turned = estimate_noise(image), estimate_noise(image.T)
    np.testing.assert_allclose(turned.vertical, upright.horizontal, atol=1e-6)
    np.testing.assert_allclose(turned.horizontal, upright.vertical, atol=1e-6)


def test_the_level_below_which_no_noise_is_left():
    assert Noise(2.0, -200.0, (0.0,), (0.0,), 150.0).deviation(90) == 0
    assert Noise(2.0, -200.0, (0.0,), (0.0,), 150.0).deviation(150) == 10


@pytest.mark.parametrize("axis", [0, 1])
def test_differences_are_those_of_numpy(axis):
    image = white(5, 20)
    np.testing.assert_allclose(difference(image, (1.0, -2.0, 1.0), axis), np.diff(image, 2, axis), atol=1e-12)
    assert difference(image[:1, :1], (1.0, -2.0, 1.0), axis).size == 0
