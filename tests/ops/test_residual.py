"""What was taken away from an image is told from the image itself."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import ndimage

from abbe.ops.noise import estimate_noise
from abbe.ops.residual import look_at_residual, passed_by_means, spectrum


def scene(seed: int = 0, extent: int = 384) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).random((extent, extent)), 5, mode="wrap")
    return 100 + 400 * (smooth - smooth.min()) / np.ptp(smooth)


def photons(clean: np.ndarray, gain: float = 2.0, read: float = 4.0) -> np.ndarray:
    generator = np.random.default_rng(1)
    return gain * generator.poisson(clean / gain) + generator.normal(0, read, clean.shape)


def test_of_a_perfect_restoration_noise_is_left() -> None:
    clean = scene()
    noisy = photons(clean)
    found = look_at_residual(noisy, clean, estimate_noise(noisy))
    assert found.relative == pytest.approx(1, abs=0.05)
    assert found.excess == pytest.approx(1, abs=0.15)
    assert not found.shows_structure


def test_a_blur_takes_structure_away() -> None:
    clean = scene()
    noisy = photons(clean)
    found = look_at_residual(noisy, ndimage.gaussian_filter(noisy, 8), estimate_noise(noisy))
    assert found.shows_structure
    assert found.excess > 4


def test_noise_of_rows_is_no_structure() -> None:
    clean = scene()
    generator = np.random.default_rng(0)
    noise = 10 * ndimage.convolve1d(generator.normal(size=clean.shape), np.ones(4) / 2, axis=1)
    noisy = clean + noise
    measured = estimate_noise(noisy)
    assert measured.verdict == "horizontal"
    assert look_at_residual(noisy, clean, measured).excess == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("cut", ["saturated", "masked", "counts"])
def test_where_noise_is_cut_off_nothing_is_told(cut) -> None:
    """Of a perfect restoration, which leaves these places as they are."""
    clean = np.maximum(scene() - 300, 0) / 5 if cut == "counts" else scene()
    noisy = photons(clean, 1, 0) if cut == "counts" else photons(clean)
    if cut == "masked":
        clean[:200], noisy[:200] = 0, 0
    if cut == "saturated":
        clean, noisy = clean.clip(None, 340), noisy.clip(None, 340)
    found = look_at_residual(noisy, clean, estimate_noise(noisy))
    assert found.relative == pytest.approx(1, abs=0.1)
    assert not found.shows_structure


def test_infinite_and_unknown_pixels_are_left_out() -> None:
    clean = scene()
    noisy = photons(clean)
    noisy[10:20, 30:50], noisy[0, 0] = np.inf, np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = look_at_residual(noisy, np.where(np.isfinite(noisy), clean, noisy), estimate_noise(noisy))
        spectrum(noisy)
        spectrum(np.full((16, 16), np.nan))
    assert found.relative == pytest.approx(1, abs=0.05)


def test_nothing_taken_away_and_nothing_known() -> None:
    noisy = photons(scene())
    noise = estimate_noise(noisy)
    assert look_at_residual(noisy, noisy, noise).relative == 0
    unknown = look_at_residual(np.full((32, 32), np.nan), np.zeros((32, 32)), noise)
    assert np.isnan(unknown.relative)
    assert not unknown.shows_structure
    assert not look_at_residual(noisy[:16, :16], noisy[:16, :16] - 1, noise).shows_structure  # too small to tell


def test_means_keep_what_is_shared() -> None:
    assert passed_by_means((0.0,) * 8) == pytest.approx(1 / 8)
    assert passed_by_means((1.0,) * 8) == pytest.approx(1)


def test_the_spectrum_of_white_noise_is_even_and_stripes_are_a_line() -> None:
    white = np.random.default_rng(0).normal(size=(128, 128))
    even = spectrum(white)
    assert abs(even[48:80, 48:80].mean() - even[:32, :32].mean()) < 1
    striped = spectrum(white + 2 * np.random.default_rng(1).normal(size=(128, 1)))
    assert striped[:, 63:66].mean() > striped[:, :32].mean() + 5
