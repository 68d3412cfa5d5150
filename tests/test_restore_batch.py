"""What is told of restored images: noise before and after, and what is odd."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from scipy import ndimage

from abbe.batch import Outputs
from abbe.folders import restore_files
from abbe.methods.restoration.dncnn import VARIANTS, build
from abbe.methods.restoration.restore import Restoration
from abbe.ops.noise import estimate_noise
from abbe.ops.residual import look_at_residual
from abbe.restore_batch import picture, warnings_of
from abbe.weights.file import Description, save_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    method = Restoration(build(VARIANTS["dncnn_tiny"]))
    described = Description("clean", "dncnn_tiny", objective="restoration", normalization={"kind": "range"})
    return save_model(tmp_path / "m.safetensors", method.state_dict(), described)


def clean(side: int = 192) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).random((side, side)), 6, mode="wrap")
    return 300 + 1000 * (smooth - smooth.min()) / np.ptp(smooth)


def noisy(sigma: float = 50, seed: int = 1) -> np.ndarray:
    return clean() + np.random.default_rng(seed).normal(0, sigma, clean().shape)


def warned(before: np.ndarray, after: np.ndarray, denoises: bool = True) -> list[str]:
    noise, left = estimate_noise(before), estimate_noise(after)
    return warnings_of(before, after, noise, left, look_at_residual(before, after, noise), denoises)


def test_nothing_is_said_of_a_good_restoration() -> None:
    assert warned(noisy(), clean()) == []


@pytest.mark.parametrize("denoises", [True, False])
def test_noise_that_grows_is_warned_of(denoises) -> None:
    (said,) = warned(noisy(), noisy(500, seed=2), denoises)
    assert "grown to 10" in said or "grown to 9" in said


def test_a_restoration_that_fits_nothing_is_warned_of() -> None:
    """Also where it is so dark that noise there would be next to none, or has an even brightness of its own."""
    photons = np.random.default_rng(0).poisson(clean() / 20) * 20.0
    for after in (clean() / 30, clean() * 0 - 5, clean() + 400):
        (said,) = warned(photons, after)
        assert "the model does not fit" in said
        assert not warned(photons, after, denoises=False) or "structure" not in warned(photons, after, False)[0]
    assert warned(photons, clean()) == []


def test_a_changed_mean_is_warned_of_where_there_is_no_noise_to_measure() -> None:
    even = np.full((64, 64), 7.0)
    small = np.random.default_rng(0).normal(549, 30, (1, 300))
    residual = look_at_residual(even, even, estimate_noise(noisy()))
    for before, after, noise in ((even, even + 3, estimate_noise(even)), (small, small + 1000, None)):
        (*_, said) = warnings_of(before, after, noise, noise, residual, True)
        assert "the mean has changed" in said
        assert not any("mean" in said for said in warnings_of(before, before, noise, noise, residual, True))


def test_saturated_pixels_are_warned_of_but_not_white_ones_of_a_mask() -> None:
    saturated = noisy().clip(None, 900)
    assert ["saturated" in said for said in warned(saturated, clean().clip(None, 900))] == [True]
    mask = (ndimage.gaussian_filter(np.random.default_rng(0).random((200, 200)), 20) > 0.5).astype(float)
    assert warned(mask, mask) == ["no noise found"]


def test_an_image_without_a_value_is_said() -> None:
    none = np.full((64, 64), np.nan)
    assert warnings_of(none, none, None, None, look_at_residual(none, none, estimate_noise(noisy())), True) == [
        "no pixel with a value"
    ]


def test_odd_images_are_restored_without_warnings_of_numpy(tmp_path: Path, model: Path) -> None:
    infinite = noisy().astype(np.float32)
    infinite[20:30, 40:50], infinite[0, 0], infinite[1, 1] = np.inf, -np.inf, np.nan
    images = {"infinite": infinite, "constant": np.full((64, 64), 7, np.uint8)}
    images |= {"unknown": np.full((64, 64), np.nan, np.float32), "masked": np.where(np.arange(192) > 99, noisy(), 0)}
    for name, image in images.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", image)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        result = restore_files([tmp_path / "*.tif"], Outputs(tmp_path / "out"), model)
    assert not result.failures
    restored = tifffile.imread(tmp_path / "out" / "infinite_restored.tif")
    np.testing.assert_array_equal(np.isfinite(restored), np.isfinite(infinite))
    table = pd.read_csv(tmp_path / "out" / "images.csv").set_index("image")
    assert table.loc["masked", "noise_before"] == pytest.approx(50, rel=0.15)
    assert table.loc["unknown", "warnings"] == "no pixel with a value"


def test_the_picture_of_nothing_taken_away_is_grey() -> None:
    shown = picture(noisy(), noisy(), estimate_noise(noisy()))
    assert shown.shape == (384, 384, 3)
    assert set(np.unique(shown[192:, :192])) <= {127, 128}
