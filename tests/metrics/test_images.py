"""Numbers of likeness against scikit-image and by their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio

from abbe.metrics.images import psnr, psnr_8bit, psnr_fitted, ssim

seeds = st.integers(0, 2**32 - 1)


def pair(seed: int, shape=(1, 20, 24)) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    clean = generator.random(shape, np.float32)
    return clean + generator.normal(0, 0.1, shape).astype(np.float32), clean


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_psnr_equals_skimage(seed) -> None:
    noisy, clean = pair(seed)
    assert psnr(noisy, clean) == pytest.approx(peak_signal_noise_ratio(clean, noisy, data_range=1), abs=1e-4)
    as_bytes = [np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8) for image in (noisy, clean)]
    assert psnr_8bit(noisy, clean) == pytest.approx(peak_signal_noise_ratio(as_bytes[1], as_bytes[0]), abs=1e-6)


@settings(deadline=None, max_examples=20)
@given(seeds, st.floats(0.2, 5), st.floats(-3, 3))
def test_fitted_psnr_forgets_gain_and_offset(seed, gain, offset) -> None:
    noisy, clean = pair(seed)
    assert psnr_fitted(gain * noisy + offset, clean) == pytest.approx(psnr_fitted(noisy, clean), abs=1e-3)


def test_equal_images() -> None:
    _, clean = pair(0)
    assert psnr(clean, clean) == math.inf
    assert ssim(clean, clean) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(1, 20, 24), (3, 8, 9), (1, 5, 20, 20)])
def test_ssim_falls_with_noise_at_any_size(shape) -> None:
    noisy, clean = pair(0, shape)
    assert 0 < ssim(noisy, clean) < 0.999


def test_ssim_of_too_little_is_unknown() -> None:
    assert math.isnan(ssim(np.zeros((1, 2, 9)), np.zeros((1, 2, 9))))
