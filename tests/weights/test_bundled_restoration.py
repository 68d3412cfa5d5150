"""The bundled models of restoration: better than what went in, and sane whatever goes in."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from abbe.api import load, restore
from abbe.data.scenes import scene
from abbe.metrics.images import psnr
from abbe.model import Model
from abbe.ops.degradation import add_camera_noise, add_gaussian_noise, blur, exposed_alike
from abbe.ops.point_spread import point_spread

NAMES = ("denoise", "deblur")
loaded = cache(load)


def clean(kind: str) -> np.ndarray:
    return scene(990_001, (160, 160), [kind])


@pytest.mark.parametrize("kind", ["nuclei", "filaments", "membranes"])
@pytest.mark.parametrize("sigma", [10, 25, 50])
def test_noise_is_taken_away(kind: str, sigma: float) -> None:
    truth = clean(kind)
    noisy = add_gaussian_noise(truth, sigma / 255, np.random.default_rng(0))
    assert psnr(restore(noisy, loaded("denoise")), truth) > psnr(noisy, truth) + 3


@pytest.mark.parametrize("kind", ["nuclei", "filaments", "membranes"])
@pytest.mark.parametrize("resolution", [3.0, 4.0])
def test_blur_is_taken_away(kind: str, resolution: float) -> None:
    sharp, kernel = clean(kind)[None], point_spread(1, 1000, (0.5 / resolution,) * 2)
    seen, truth = exposed_alike(blur(sharp, kernel), sharp)
    noisy = add_camera_noise(seen, 1 / 200, 2 / 255, np.random.default_rng(0))[0]
    assert psnr(restore(noisy, loaded("deblur")), truth[0]) > psnr(noisy, truth[0]) + 0.5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("value", [0, 1, 255])
def test_even_images_stay_even(name: str, dtype: type, value: int) -> None:
    image = np.full((70, 90), value, dtype)
    found = restore(image, loaded(name))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, image, atol=0.2)


@pytest.mark.parametrize("name", NAMES)
def test_saturated_and_sixteen_bit_images_stay_in_their_range(name: str) -> None:
    generator = np.random.default_rng(0)
    light = scene(990_002, (128, 128)).astype(np.float64)
    bright = np.clip(generator.poisson(light * 600) * 300, 0, 65535).astype(np.uint16)
    assert (bright == 65535).mean() > 0.01
    dim = (100 + generator.poisson(light * 60)).astype(np.uint16)  # 160 of 65,536 grey values
    for image in (bright, dim):
        found = restore(image, loaded(name)).astype(float)
        span = np.ptp(image.astype(float))
        assert found.mean() == pytest.approx(image.mean(), abs=0.05 * span)
        assert found.max() < image.max() + span
        assert found.min() > image.min() - 0.3 * span


@pytest.mark.parametrize("name", NAMES)
def test_noise_alone_is_not_made_stronger(name: str) -> None:
    image = (200 + 20 * np.random.default_rng(0).standard_normal((160, 160))).astype(np.float32)
    found = restore(image, loaded(name))
    assert found.std() < image.std() / 2
    assert found.mean() == pytest.approx(200, abs=3)


@pytest.mark.parametrize("name", NAMES)
def test_tiles_agree_with_the_whole(name: str) -> None:
    """In tiles far smaller than those that are chosen, 99.9 per cent of the pixels by half of 255 grey levels."""
    image = add_camera_noise(scene(990_003, (300, 340)), 0.01, 0.01, np.random.default_rng(0))
    model: Model = loaded(name)
    whole, tiled = (restore(image, model, tile=side) for side in (512, 256))
    assert np.quantile(np.abs(whole - tiled), 0.999) < 0.5 / 255


@pytest.mark.parametrize("name", NAMES)
def test_a_pixel_row_and_nan_are_answered(name: str) -> None:
    assert restore(np.linspace(0, 1, 50, dtype=np.float32)[None], loaded(name)).size == 50
    image = add_gaussian_noise(clean("nuclei"), 0.1, np.random.default_rng(0))
    image[3, 5] = np.nan
    found = restore(image, loaded(name))
    assert np.isnan(found[3, 5])
    assert np.isnan(found).sum() == 1
