from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import gaussian_filter
from skimage.measure import label as connected_components
from skimage.measure import regionprops
from skimage.morphology import convex_hull_image

from abbe.ops import regions
from abbe.ops.hulls import convex_areas
from abbe.ops.regions import region_properties

wide = settings(deadline=None, max_examples=40)

# An axis of length 0 comes out as the root of a rounding error, here and in scikit-image.
TOLERANCES = {"axis_minor_length": 1e-6, "eccentricity": 1e-6}
DEFINED_ALIKE = ("label", "area", "centroid", "perimeter", "area_convex", "solidity")
DEFINED_ALIKE += ("axis_major_length", "axis_minor_length", "eccentricity")


def blobs(seed, shape=(60, 50), smooth=1.5, parts=True):
    """Touching objects with holes; of several parts, or one part each."""
    field = gaussian_filter(np.random.default_rng(seed).random(shape), smooth)
    if parts:
        return np.digitize(field, np.quantile(field, [0.3, 0.5, 0.8])) * 3
    return connected_components(np.digitize(field, np.quantile(field, [0.4, 0.7])))


def assert_equals_regionprops(labels):
    ours, theirs = region_properties(labels), regionprops(labels)
    assert len(ours["label"]) == len(theirs)
    for name in DEFINED_ALIKE:
        expected = np.array([getattr(region, name) for region in theirs]).reshape(ours[name].shape)
        np.testing.assert_allclose(ours[name], expected, rtol=1e-9, atol=TOLERANCES.get(name, 1e-9), err_msg=name)
    for index, region in enumerate(theirs):
        assert ours["equivalent_diameter"][index] == pytest.approx(region.equivalent_diameter_area)
        y0, x0, y1, x1 = region.bbox
        assert ours["bbox"][index].tolist() == [x0, y0, x1, y1]
        assert ours["touching_border"][index] == (y0 == 0 or x0 == 0 or y1 == labels.shape[0] or x1 == labels.shape[1])
        if region.eccentricity > 1e-3:
            turn = ours["orientation"][index] - region.orientation
            assert abs(turn - np.pi * round(turn / np.pi)) < 1e-6


@wide
@given(hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 3)))
@example(np.array([[5]]))
@example(np.array([[0, 2, 2, 2, 2]]))
@example(np.eye(7, dtype=int))
@example(np.array([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]))
def test_any_label_image_is_measured_as_by_regionprops(labels):
    assert_equals_regionprops(labels)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("parts", [True, False])
def test_larger_objects_are_measured_as_by_regionprops(seed, parts):
    assert_equals_regionprops(blobs(seed, smooth=0.7 * (seed % 3 + 1), parts=parts))


def test_bands_do_not_show(monkeypatch):
    labels, intensity = blobs(1, parts=False), np.random.default_rng(0).random((2, 60, 50))
    whole = region_properties(labels, intensity)
    for rows in (1, 2, 7):
        monkeypatch.setattr(regions, "BAND", rows)
        banded = region_properties(labels, intensity)
        for name, values in whole.items():
            np.testing.assert_array_equal(banded[name], values, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float64, np.uint16, np.int32, bool])
def test_intensities_equal_regionprops(dtype):
    labels = blobs(2)
    intensity = (np.random.default_rng(0).random((3, *labels.shape)) * 5000).astype(dtype)
    ours = region_properties(labels, intensity)
    theirs = regionprops(labels, np.moveaxis(intensity, 0, -1).astype(np.float64))
    for name in ("mean", "std", "min", "max"):
        expected = [getattr(region, f"intensity_{name}") for region in theirs]
        np.testing.assert_allclose(ours[f"intensity_{name}"], expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours["intensity_sum"], ours["intensity_mean"] * ours["area"][:, None])


def test_spread_survives_a_large_background():
    labels = blobs(3)
    noise = np.random.default_rng(0).normal(size=labels.shape)
    spread = region_properties(labels, noise[None] + 1e7)["intensity_std"]
    np.testing.assert_allclose(spread, region_properties(labels, noise[None])["intensity_std"], rtol=1e-7)


@pytest.mark.filterwarnings("error")
def test_nan_and_infinity_stay_with_their_object():
    labels = np.array([[1, 1, 0, 2, 3, 3]])
    ours = region_properties(labels, np.array([[[np.nan, 1.0, np.nan, 3.0, np.inf, 1.0]]]))
    np.testing.assert_array_equal(ours["intensity_mean"], [[np.nan], [3], [np.inf]])
    np.testing.assert_array_equal(ours["intensity_std"], [[np.nan], [0], [np.nan]])


def test_a_part_of_an_image_is_measured_in_the_coordinates_of_the_whole():
    whole = np.zeros((400, 300), np.int64)
    whole[210:250, 120:160] = np.where(blobs(4, (40, 40)) == 6, 2**40, 0)
    part = region_properties(whole[200:260, 100:170], offset=(200, 100))
    for name, values in region_properties(whole).items():
        np.testing.assert_allclose(part[name], values, err_msg=name)


def test_moments_are_exact_far_from_the_origin():
    labels = np.zeros((4, 40_000), np.uint8)
    labels[1:3, 39_000:39_002] = 1
    far = region_properties(labels, offset=(10**9, 10**9))
    assert far["axis_major_length"][0] == 2  # variance 1/4 along each axis
    assert far["eccentricity"][0] == 0


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (6, 7)])
def test_an_image_without_objects_has_every_column_empty(shape):
    ours = region_properties(np.zeros(shape, np.uint16), np.zeros((2, *shape)))
    assert all(len(values) == 0 for values in ours.values())
    full = region_properties(np.ones((2, 2), int), np.ones((2, 2, 2)))
    assert {name: v.shape[1:] for name, v in full.items()} == {name: v.shape[1:] for name, v in ours.items()}


def test_circularity_of_a_disc_is_near_one_and_of_a_pixel_undefined():
    y, x = np.mgrid[-30:31, -30:31]
    assert region_properties((y**2 + x**2 <= 900).astype(int))["circularity"][0] == pytest.approx(1, abs=0.1)
    assert np.isnan(region_properties(np.pad([[1]], 1))["circularity"][0])


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="Y, X"):
        region_properties(np.zeros((2, 3, 4), int))
    with pytest.raises(ValueError, match="intensity"):
        region_properties(np.zeros((3, 4), int), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="whole numbers"):
        region_properties(np.zeros((3, 4)))


@wide
@given(st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)), min_size=1, max_size=12, unique=True))
def test_hull_of_scattered_pixels_equals_skimage(pixels):
    mask = np.zeros((26, 26), bool)
    mask[tuple(np.transpose(pixels))] = True
    rows = np.flatnonzero(mask.any(axis=1))
    left, right = mask[rows].argmax(axis=1), 25 - mask[rows, ::-1].argmax(axis=1)
    assert convex_areas(np.array([0]), rows, left, right).tolist() == [convex_hull_image(mask).sum()]


def test_hull_of_an_outline_that_loses_its_points_one_by_one():
    # Convex as a parabola, and then one pixel that cuts it off.
    rows = np.arange(40)
    left = np.append(((rows - 39) ** 2)[:-1] // 4 + 1, 0)
    mask = np.zeros((40, 400), bool)
    mask[rows, left] = True
    mask[39, 0] = True
    assert convex_areas(np.array([0]), rows, left, left)[0] == convex_hull_image(mask).sum()
