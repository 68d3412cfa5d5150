"""Grey values to network input: by the whole image's statistics, whatever they are measured on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data import normalize
from abbe.data.normalize import Normalization, sample_pixels
from abbe.ops.boxes import Box, slices

DTYPES = ["bool", "uint8", "int16", "uint16", "int32", "uint32", "float16", "float32", "float64"]


def picture(shape: tuple[int, ...] = (2, 30, 40), dtype: str = "uint16", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.random(shape) > 0.5
    kind = np.dtype(dtype)
    return rng.normal(size=shape).astype(kind) if kind.kind == "f" else rng.integers(0, 120, shape).astype(kind)


@given(st.sampled_from(DTYPES), st.booleans(), st.floats(0, 40), st.floats(60, 100), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_percentiles_become_zero_and_one(dtype: str, joint: bool, low: float, high: float, seed: int) -> None:
    image = picture(dtype=dtype, seed=seed)
    found = Normalization(low=low, high=high, joint=joint).normalize(image)
    assert found.dtype == np.float32
    for part, values in [(found, image)] if joint else zip(found, image):
        ends = np.percentile(values.astype(np.float64), [low, high])
        ends = ends if ends[0] < ends[1] else (values.min(), values.max())
        expected = (values.astype(np.float64) - ends[0]) / (ends[1] - ends[0])
        np.testing.assert_allclose(part, expected, atol=2e-3 if dtype == "float16" else 1e-4)


def test_extremes_and_deviations() -> None:
    image = picture(dtype="float32")
    minmax = Normalization("minmax").normalize(image)
    assert (minmax.min(), minmax.max()) == (0, 1)
    zscore = Normalization("zscore", joint=False).normalize(image)
    np.testing.assert_allclose(zscore.mean(axis=(1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(zscore.std(axis=(1, 2)), 1, atol=1e-5)
    assert np.array_equal(Normalization("none").normalize(image), image)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int16", "uint16"])
def test_the_range_of_a_type_does_not_depend_on_the_image(dtype: str) -> None:
    rule = Normalization("range")
    low, high = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    ends = np.array([[[low, high]]], dtype)
    np.testing.assert_allclose(rule.normalize(ends)[0, 0], [0, 1], atol=1e-6)
    np.testing.assert_array_equal(rule.normalize(ends[..., 1:]), rule.normalize(ends)[..., 1:])


def test_values_without_a_range_are_fractions_or_scaled_by_percentiles() -> None:
    fractions = np.random.default_rng(0).random((2, 9, 9)).astype(np.float32)
    np.testing.assert_array_equal(Normalization("range").normalize(fractions), fractions)
    holes = np.where(fractions > 0.9, np.nan, fractions)
    np.testing.assert_array_equal(Normalization("range").normalize(holes), np.nan_to_num(holes))
    for image in (fractions * 900, picture(dtype="int32"), picture(dtype="uint32")):
        np.testing.assert_array_equal(Normalization("range").normalize(image), Normalization().normalize(image))


@pytest.mark.parametrize("kind", ["percentile", "minmax", "zscore"])
@pytest.mark.parametrize("joint", [True, False])
def test_scale_and_offset_of_the_camera_do_not_matter(kind: str, joint: bool) -> None:
    rule = Normalization(kind, joint=joint)
    image = picture(dtype="float64")
    np.testing.assert_allclose(rule.normalize(37.5 * image + 1200), rule.normalize(image), atol=1e-4)


@pytest.mark.parametrize("kind", ["percentile", "minmax", "zscore", "none"])
@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_constant_image_becomes_finite_and_constant(kind: str, value: int) -> None:
    found = Normalization(kind).normalize(np.full((1, 9, 9), value, np.uint16))
    assert np.isfinite(found).all()
    assert (found == (value if kind == "none" else 0)).all()


def test_few_bright_pixels_on_black_keep_their_contrast() -> None:
    image = np.zeros((1, 100, 100), np.uint16)
    image[0, 3, 3] = 500
    assert Normalization().normalize(image).max() == 1


@pytest.mark.parametrize("kind", ["percentile", "minmax", "zscore"])
def test_nan_and_infinity_are_left_out_and_become_zero(kind: str) -> None:
    rule = Normalization(kind)
    image = picture((1, 30, 40), "float32")
    spoilt = image.copy()
    spoilt[0, :3, :3] = [np.nan, np.inf, -np.inf]
    found = rule.normalize(spoilt)
    assert np.isfinite(found).all()
    assert (found[0, :3, :3] == 0).all()
    finite = image.ravel()[np.isfinite(spoilt).ravel()].reshape(1, 1, -1)
    np.testing.assert_allclose(found[np.isfinite(spoilt)], rule.normalize(finite).ravel(), atol=1e-6)


def test_an_image_of_nothing_but_nan_is_zero() -> None:
    assert (Normalization().normalize(np.full((2, 5, 5), np.nan, np.float32)) == 0).all()


def test_joint_keeps_the_relation_of_colours() -> None:
    image = np.stack([np.full((8, 8), 10.0), np.full((8, 8), 20.0), np.linspace(0, 100, 64).reshape(8, 8)])
    joint, apart = Normalization("minmax").normalize(image), Normalization("minmax", joint=False).normalize(image)
    assert (joint[0] < joint[1]).all()
    assert (apart[0] == apart[1]).all()


def test_a_volume_is_normalised_as_a_whole() -> None:
    volume = picture((2, 5, 12, 14))
    found = Normalization().normalize(volume)
    assert np.array_equal(found.reshape(2, 60, 14), Normalization().normalize(volume.reshape(2, 60, 14)))


@given(st.integers(0, 29), st.integers(0, 39), st.data())
@settings(deadline=None, max_examples=20)
def test_a_tile_never_differs(y0: int, x0: int, data: st.DataObject) -> None:
    y1, x1 = data.draw(st.integers(y0 + 1, 30)), data.draw(st.integers(x0 + 1, 40))
    image = picture(dtype="float32")
    statistics = Normalization().statistics(lambda box: image[:, *slices(box)], image.shape[1:])
    whole = statistics.apply(image)
    assert np.array_equal(statistics.apply(image[:, y0:y1, x0:x1]), whole[:, y0:y1, x0:x1])


def test_a_large_image_is_sampled_evenly_and_always_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalize, "MAX_PIXELS", 10_000)
    monkeypatch.setattr(normalize, "BLOCK", 16)
    image = np.linspace(0, 1, 400)[:, None] * np.ones((2, 1, 500))  # a gradient from top to bottom
    reads: list[Box] = []

    def region(box: Box) -> np.ndarray:
        reads.append(box)
        return image[:, *slices(box)]

    first = sample_pixels(region, image.shape[1:])
    assert np.array_equal(sample_pixels(region, image.shape[1:]), first)
    assert reads[: len(reads) // 2] == reads[len(reads) // 2 :]
    assert first.shape == (2, 144 * 16 * 16)
    for axis, extent in enumerate((400, 500)):
        assert (min(box[axis][0] for box in reads), max(box[axis][1] for box in reads)) == (0, extent)
    np.testing.assert_allclose(np.percentile(first, [1, 50, 99.8]), [0.01, 0.5, 0.998], atol=0.02)


def test_a_large_image_that_is_thinner_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalize, "MAX_PIXELS", 1000)
    image = picture((1, 3, 5000))
    pixels = sample_pixels(lambda box: image[:, *slices(box)], image.shape[1:])
    assert pixels.shape == (1, 12 * 3 * normalize.BLOCK)


@pytest.mark.parametrize("kind", ["percentile", "minmax", "zscore"])
@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize(
    ("dtype", "offset"),
    [
        *[("uint32", 2**32 - 300), ("int32", 2**31 - 300), ("int32", -(2**31)), ("uint64", 2**64 - 300)],
        *[("int64", 2**63 - 300), ("int64", -(2**63)), ("int64", -100), ("float64", 1e9)],
    ],
)
def test_small_numbers_on_a_high_offset_keep_their_contrast(kind: str, joint: bool, dtype: str, offset: int) -> None:
    small = np.random.default_rng(0).integers(0, 256, (2, 30, 40))
    image = np.array([int(offset) + int(value) for value in small.ravel()], dtype).reshape(small.shape)
    rule = Normalization(kind, joint=joint)
    expected = rule.normalize(small.astype(np.float64))
    np.testing.assert_allclose(rule.normalize(image), expected, atol=1e-6)
    swapped = image.astype(image.dtype.newbyteorder())
    np.testing.assert_allclose(rule.normalize(swapped), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint64", "int64"])
def test_values_below_all_that_were_sampled_are_negative(dtype: str) -> None:
    limits = np.iinfo(dtype)
    image = np.array([[[limits.max - 4, limits.max]]], dtype)
    statistics = Normalization("minmax").measure(image)
    below = np.array([[[limits.max - 8, limits.min]]], dtype)
    found = statistics.apply(below)
    assert found[0, 0, 0] == -1
    assert found[0, 0, 1] == pytest.approx(-(int(limits.max) - int(limits.min)) / 4)


@pytest.mark.parametrize("kind", ["percentile", "minmax", "zscore"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint64", "int32", "uint32"])
def test_the_ends_of_a_type_stay_finite(kind: str, dtype: str) -> None:
    limits = np.finfo(dtype) if dtype.startswith("float") else np.iinfo(dtype)
    image = np.array([[[limits.min, 0, limits.max] * 4]], dtype)
    assert np.isfinite(Normalization(kind).normalize(image)).all()
