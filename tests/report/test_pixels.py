from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data.image import Image
from abbe.data.read import read
from abbe.errors import AbbeError
from abbe.report import pixels
from abbe.report.pixels import ArrayPixels, as_pixels, bands, slabs, survey


@settings(deadline=None, max_examples=30)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 20)),
    multiple=st.integers(1, 5),
    budget=st.integers(1, 200),
)
def test_bands_tile_the_image(shape: tuple[int, int, int], multiple: int, budget: int) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "BAND_VALUES", budget)
        found = list(bands(ArrayPixels(array), multiple))
    assert all(y0 % multiple == 0 for y0, _ in found)
    assert all(band.size <= max(budget, shape[0] * shape[2] * multiple) for _, band in found)
    np.testing.assert_array_equal(np.concatenate([band for _, band in found], axis=1), array)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64, bool])
def test_survey_equals_numpy_however_it_is_cut(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "BAND_VALUES", 100)
    image: np.ndarray = np.random.default_rng(0).uniform(0, 200, (2, 37, 23)).astype(dtype)
    found = survey(image)
    values = image.astype(np.float64)
    assert found.mean == pytest.approx(values.mean())
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    assert found.shape == image.shape
    for channel, limits in zip(values, found.limits):
        assert limits == pytest.approx(tuple(np.percentile(channel, (1, 99.8))))


def test_percentiles_of_a_large_image_come_from_a_sample_in_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "SAMPLE_PIXELS", 10_000)
    image = np.random.default_rng(0).normal(100, 10, (1, 900, 900))
    assert survey(image).limits[0] == pytest.approx(np.percentile(image, (1, 99.8)), abs=3)


def test_saturation_is_seen_at_a_cameras_full_scale() -> None:
    image = np.full((10, 100), 17, np.uint16)
    image[0, :50] = 4095
    assert survey(image).saturated == pytest.approx(0.05)
    image[image == 4095] = 4000
    assert survey(image).saturated == 0
    assert survey(np.where(image > 17, 255.0, 0.0)).saturated == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", ["uint64", "int64", "float16", "float64"])
def test_the_top_of_a_type_is_the_maximum(dtype: str) -> None:
    top = np.finfo(dtype).max if dtype.startswith("float") else np.iinfo(dtype).max
    assert survey(np.array([[0, top], [top, 0]], dtype)).maximum == float(top)


def test_values_that_are_not_finite_are_counted_and_left_out() -> None:
    image = np.full((10, 10), 3.0, np.float32)
    image[0, :3] = np.nan, np.inf, -np.inf
    found = survey(image)
    assert found.not_finite == pytest.approx(0.03)
    assert (found.mean, found.minimum, found.maximum) == (3.0, 3.0, 3.0)
    empty = survey(np.full((4, 4), np.nan))
    assert math.isnan(empty.mean)
    assert empty.not_finite == 1


def test_readers_and_arrays_have_one_face() -> None:
    array = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    image = as_pixels(read(array, axes="CYX").planar(), (4, 5))
    for face in (image, as_pixels(array, (4, 5)), as_pixels(np.moveaxis(array, 0, -1), (4, 5))):
        np.testing.assert_array_equal(face.region(1, 3, 2, 5), array[:, 1:3, 2:5])
        assert (face.n_channels, face.height, face.width, face.dtype) == (3, 4, 5, np.uint16)


def test_an_image_of_another_size_is_refused() -> None:
    with pytest.raises(AbbeError, match="3 × 4 pixels"):
        as_pixels(np.zeros((3, 4)), (4, 3))
    with pytest.raises(AbbeError, match="4 axes"):
        as_pixels(np.zeros((1, 1, 3, 4)))


@pytest.mark.parametrize("budget", [60, 1000, 10_000])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, bool])
def test_survey_of_a_volume_equals_numpy_however_it_is_cut(
    dtype: type, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "SLAB_VALUES", budget)
    array: np.ndarray = np.random.default_rng(0).uniform(0, 200, (2, 5, 17, 23)).astype(dtype)
    for image in (array, Image(array, "CZYX")):
        found = survey(image)
        values = array.astype(np.float64)
        assert (found.shape, found.frames) == (array.shape, 1)
        assert found.mean == pytest.approx(values.mean())
        assert (found.minimum, found.maximum) == (values.min(), values.max())
        for channel, limits in zip(values, found.limits):
            assert limits == pytest.approx(tuple(np.percentile(channel, (1, 99.8))))


@settings(deadline=None, max_examples=30)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 20), st.integers(1, 9)),
    multiple=st.integers(1, 5),
    budget=st.integers(1, 400),
)
def test_slabs_tile_the_volume(shape: tuple[int, int, int, int], multiple: int, budget: int) -> None:
    array = np.arange(np.prod(shape)).reshape(shape)
    joined = np.zeros_like(array)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "SLAB_VALUES", budget)
        for z, y, slab in slabs(Image(array, "CZYX"), multiple):
            assert slab.size <= max(budget, shape[0] * shape[3] * multiple)
            assert y % multiple == 0
            joined[:, z : z + slab.shape[1], y : y + slab.shape[2]] += slab
    np.testing.assert_array_equal(joined, array)


@pytest.mark.parametrize("axes", ["CYX", "CZYX"])
def test_survey_of_a_series_is_that_of_all_its_frames(axes: str) -> None:
    arrays = np.random.default_rng(0).integers(0, 999, (6, 2, 3, 15, 20)).astype(np.uint16)
    arrays = arrays if axes == "CZYX" else arrays[:, :, 0]
    found = survey([Image(array, axes) for array in arrays])
    assert (found.shape, found.frames) == (arrays.shape[1:], 6)
    assert found.mean == pytest.approx(arrays.mean())
    for channel, limits in zip(np.moveaxis(arrays, 1, 0), found.limits):
        assert limits == pytest.approx(tuple(np.percentile(channel, (1, 99.8))))


def test_a_large_volume_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "SAMPLE_PIXELS", 10_000)
    array = np.random.default_rng(0).normal(100, 10, (1, 40, 150, 150)).astype(np.float32)
    assert survey(array).limits[0] == pytest.approx(np.percentile(array, (1, 99.8)), abs=3)
