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
from abbe.errors import AbbeError
from abbe.folders import restore_files
from abbe.methods.restoration.dncnn import VARIANTS, build
from abbe.methods.restoration.restore import Restoration
from abbe.ops.noise import estimate_noise
from abbe.restore_batch import look_at, picture, warnings_of
from abbe.settings import RestoreSettings
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
    return warnings_of(look_at(before, after), denoises)


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
    for before, after in ((even, even + 3), (small, small + 1000)):
        (*_, said) = warned(before, after)
        assert "the mean has changed" in said
        assert not any("mean" in said for said in warned(before, before))


def test_saturated_pixels_are_warned_of_but_not_white_ones_of_a_mask() -> None:
    saturated = noisy().clip(None, 900)
    assert ["saturated" in said for said in warned(saturated, clean().clip(None, 900))] == [True]
    mask = (ndimage.gaussian_filter(np.random.default_rng(0).random((200, 200)), 20) > 0.5).astype(float)
    assert warned(mask, mask) == ["no noise found"]


@pytest.mark.parametrize("period", [4, 5, 7])
def test_lost_texture_is_warned_of_though_its_means_are_even(period) -> None:
    rows, columns = np.mgrid[:192, :192] * 2 * np.pi / period
    texture = 40 * np.sin(rows) * np.sin(columns)
    (said,) = warned(noisy() + texture, clean())
    assert "shows structure" in said
    assert warned(noisy() + texture, clean() + texture) == []


def test_what_was_asked_to_be_cut_off_is_not_missed() -> None:
    before, after = noisy(), clean()
    low, high = np.quantile(after, (0.3, 0.7))
    cut = np.clip(after, low, high)
    assert warned(before, cut)
    assert [said for said in warnings_of(look_at(before, cut, (low, high)), True) if "saturated" not in said] == []


def test_all_channels_are_looked_at(tmp_path: Path, model: Path) -> None:
    saturated = noisy(seed=2).clip(None, 900)
    tifffile.imwrite(tmp_path / "a.tif", np.stack([noisy(), saturated]).astype(np.uint16), photometric="minisblack")
    result = restore_files([tmp_path / "a.tif"], Outputs(tmp_path / "out"), model, RestoreSettings(axes="CYX"))
    (told,) = result.images["warnings"]
    assert "channel 1: " in told
    assert "saturated" in told
    assert "channel 0: " not in told or "saturated" not in told.split("channel 1: ")[0]


def test_images_that_were_given_are_not_written_over(tmp_path: Path, model: Path) -> None:
    for name in ("a", "a_restored"):
        tifffile.imwrite(tmp_path / f"{name}.tif", noisy().astype(np.uint16))
    before = (tmp_path / "a_restored.tif").read_bytes()
    with pytest.raises(AbbeError, match=r"a_restored\.tif: the result of .*a\.tif would be written over it"):
        restore_files([tmp_path], Outputs(tmp_path), model)
    assert (tmp_path / "a_restored.tif").read_bytes() == before
    assert len(restore_files([tmp_path], Outputs(tmp_path / "out"), model).images) == 2


def test_a_report_of_somebody_else_is_not_written_over(tmp_path: Path, model: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noisy().astype(np.uint16))
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(AbbeError, match=r"holds report\.html, but no notes"):
        restore_files([tmp_path / "a.tif"], Outputs(tmp_path), model)
    assert (tmp_path / "report.html").read_text() == "mine"
    restore_files([tmp_path / "a.tif"], Outputs(tmp_path, overwrite=True), model)
    assert (tmp_path / "report.html").read_text() != "mine"


def test_a_model_that_has_just_learnt_may_have_learnt_too_briefly() -> None:
    look = look_at(noisy(), noisy(500, seed=2))
    assert "too briefly" not in warnings_of(look, True)[0]
    assert "too briefly" in warnings_of(look, True, learnt=True)[0]


def test_an_image_without_a_value_is_said() -> None:
    none = np.full((64, 64), np.nan)
    assert warned(none, none) == ["no pixel with a value"]


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
