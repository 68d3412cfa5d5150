from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import gaussian_filter
from skimage.measure import regionprops

from abbe.ops import regions, volumes
from abbe.ops.volumes import DIRECTIONS, shapes, volume_properties

wide = settings(deadline=None, max_examples=40)
SPACINGS = [(1.0, 1.0, 1.0), (2.0, 0.5, 0.25), (0.3, 1.0, 1.0)]


def blobs(seed: int, shape: tuple[int, int, int] = (15, 22, 19)) -> np.ndarray:
    """Touching objects with holes, of several parts."""
    field = gaussian_filter(np.random.default_rng(seed).random(shape), 1.5)
    return np.digitize(field, np.quantile(field, [0.3, 0.5, 0.8])) * 3


def entries_of(mask: np.ndarray) -> list[int]:
    """Count the beginnings of stretches along every direction, by walking."""
    inside = np.pad(mask, 1)
    return [int((inside & ~np.roll(inside, tuple(step), (0, 1, 2))).sum()) for step in DIRECTIONS]


def assert_equals_regionprops(labels: np.ndarray, spacing: tuple[float, ...]) -> None:
    ours, theirs = volume_properties(labels, spacing=spacing), regionprops(labels, spacing=spacing)
    assert len(ours["label"]) == len(theirs)
    for index, region in enumerate(theirs):
        found = {name: values[index] for name, values in ours.items()}
        z0, y0, x0, z1, y1, x1 = region.bbox
        assert (found["label"], found["voxels"]) == (region.label, region.num_pixels)
        assert found["bbox"].tolist() == [x0, y0, z0, x1, y1, z1]
        assert found["touching_border"] == (0 in region.bbox[:3] or any(np.equal(region.bbox[3:], labels.shape)))
        assert found["entries"].tolist() == entries_of(labels == region.label)
        assert found["volume"] == pytest.approx(region.area)
        assert found["equivalent_diameter"] == pytest.approx(region.equivalent_diameter_area)
        np.testing.assert_allclose(found["centroid"] * spacing, region.centroid, atol=1e-9)
        inertia = np.array(region.inertia_tensor_eigvals)  # each the sum of two variances
        variances = inertia.sum() / 2 - inertia[::-1]
        expected = np.sqrt(20 * np.maximum(variances, 0))
        np.testing.assert_allclose(found["axis_lengths"], expected, rtol=1e-9, atol=1e-6)


@wide
@given(
    labels=hnp.arrays(np.int32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7), elements=st.integers(0, 3)),
    spacing=st.sampled_from(SPACINGS),
)
@example(np.array([[[5]]]), SPACINGS[1])
@example(np.array([[[0, 2, 2, 2, 2]]]), SPACINGS[1])
@example(np.zeros((2, 3, 4), np.uint8), SPACINGS[0])
def test_any_label_image_is_measured_as_by_regionprops(labels, spacing):
    assert_equals_regionprops(labels, spacing)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_larger_objects_are_measured_as_by_regionprops(spacing):
    assert_equals_regionprops(blobs(0), spacing)


def test_longest_axis_is_that_of_regionprops():
    """Whose own formula for it goes by the inertia tensor."""
    labels = blobs(1)
    theirs = regionprops(labels, spacing=(2, 1, 1))
    lengths = volume_properties(labels, spacing=(2, 1, 1))["axis_lengths"]
    np.testing.assert_allclose(lengths[:, 0], [region.axis_major_length for region in theirs])
    np.testing.assert_allclose(lengths[:, 2], [region.axis_minor_length for region in theirs])


@pytest.mark.parametrize("dtype", [np.float64, np.uint16, bool])
def test_intensities_equal_regionprops(dtype):
    labels = blobs(2)
    intensity = (np.random.default_rng(0).random((3, *labels.shape)) * 5000).astype(dtype)
    ours = volume_properties(labels, intensity)
    theirs = regionprops(labels, np.moveaxis(intensity, 0, -1).astype(np.float64))
    for name in ("mean", "std", "min", "max"):
        expected = [getattr(region, f"intensity_{name}") for region in theirs]
        np.testing.assert_allclose(ours[f"intensity_{name}"], expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours["intensity_sum"], ours["intensity_mean"] * ours["voxels"][:, None])


@wide
@given(offset=st.tuples(*[st.integers(0, 9)] * 3), spacing=st.sampled_from(SPACINGS))
def test_a_part_is_measured_as_the_whole(offset, spacing):
    part = np.pad(blobs(3, (6, 7, 8)), 1)
    whole = np.zeros((20, 20, 20), np.int64)
    z, y, x = offset
    whole[z : z + 8, y : y + 9, x : x + 10] = part
    ours, expected = volume_properties(part, None, spacing, offset), volume_properties(whole, None, spacing)
    for name, values in expected.items():
        if name != "touching_border":
            np.testing.assert_allclose(ours[name], values, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("budget", [1, 1000])
def test_slabs_do_not_show(budget, monkeypatch):
    labels, intensity = blobs(1), np.random.default_rng(0).random((2, 15, 22, 19))
    whole = volume_properties(labels, intensity)
    monkeypatch.setattr(volumes, "SLAB", budget)
    monkeypatch.setattr(regions, "BAND", 5)
    for name, values in volume_properties(labels, intensity).items():
        np.testing.assert_array_equal(values, whole[name], err_msg=name)


def ellipsoid(semi_axes: tuple[float, ...], spacing: tuple[float, ...], seed: int) -> np.ndarray:
    """A digital ellipsoid whose centre lies anywhere in its voxel."""
    extents = [int(2 * semi / side) + 5 for semi, side in zip(semi_axes, spacing)]
    shift = np.random.default_rng(seed).random(3)
    grids = [(np.arange(n) - n / 2 + s) * side / semi for n, s, side, semi in zip(extents, shift, spacing, semi_axes)]
    z, y, x = np.meshgrid(*grids, indexing="ij")
    return (z**2 + y**2 + x**2 <= 1).astype(int)


def surface_of(semi_axes: tuple[float, ...]) -> float:
    """Surface of an ellipsoid, by the mean of its support over many directions."""
    units = np.random.default_rng(0).normal(size=(200_000, 3))
    units /= np.linalg.norm(units, axis=1)[:, None]
    return float(4 * np.pi * np.prod(semi_axes) * np.linalg.norm(units / semi_axes, axis=1).mean())


@pytest.mark.parametrize("spacing", [(1, 1, 1), (2, 1, 1), (3, 1, 1), (0.5, 0.25, 0.25)])
@pytest.mark.parametrize("semi_axes", [(12, 12, 12), (10, 14, 12), (9, 15, 15), (15, 9, 9)])
@pytest.mark.parametrize("seed", range(2))
def test_sizes_of_ellipsoids(semi_axes, spacing, seed):
    found = volume_properties(ellipsoid(semi_axes, spacing, seed), spacing=spacing)
    assert found["surface_area"][0] == pytest.approx(surface_of(semi_axes), rel=0.06)
    assert found["volume"][0] == pytest.approx(4 / 3 * np.pi * np.prod(semi_axes), rel=0.05)
    np.testing.assert_allclose(found["axis_lengths"][0], 2 * np.sort(semi_axes)[::-1], rtol=0.1)


def test_surface_of_a_ball_is_better_still():
    found = volume_properties(ellipsoid((12, 12, 12), (1, 1, 1), 0))
    assert found["surface_area"][0] == pytest.approx(4 * np.pi * 144, rel=0.01)
    assert found["sphericity"][0] == pytest.approx(1, abs=0.01)


def test_directions_have_the_published_weights():
    """Table of Ohser and Schladitz, as in Lehmann and Legland: halves, for the two senses of a direction."""
    surface = volumes._areas_per_entry(np.ones(3)) * np.linalg.norm(DIRECTIONS, axis=1) / 8
    n_steps = np.abs(DIRECTIONS).sum(axis=1)
    np.testing.assert_allclose(surface, np.array([0, 0.045778, 0.036981, 0.035196])[n_steps], atol=1e-6)


@given(st.tuples(*[st.floats(0.1, 10)] * 3), st.floats(0.1, 10))
@wide
def test_shapes_scale_with_the_voxel(spacing, factor):
    measured = volume_properties(blobs(4, (6, 7, 8)))
    small, large = shapes(measured, spacing), shapes(measured, [side * factor for side in spacing])
    powers = {"volume": 3, "surface_area": 2, "sphericity": 0, "axis_lengths": 1, "equivalent_diameter": 1}
    for name, power in powers.items():
        np.testing.assert_allclose(large[name], small[name] * factor**power, rtol=1e-6, atol=1e-6)


def test_what_is_no_volume_is_refused():
    for labels in (np.zeros((3, 4), int), np.zeros((2, 3, 4)), np.full((2, 3, 4), -1)):
        with pytest.raises(ValueError, match="labels"):
            volume_properties(labels)
    with pytest.raises(ValueError, match=r"expected \(1, 2, 3, 4\)"):
        volume_properties(np.ones((2, 3, 4), int), np.ones((1, 2, 4, 3)))


def test_memory_is_that_of_a_slab(tmp_path, monkeypatch):
    monkeypatch.setattr(volumes, "SLAB", 2**16)
    labels = np.memmap(tmp_path / "labels", np.int32, "w+", shape=(512, 128, 128))  # 32 MiB
    labels[100:400, 20:100, 20:100] = 1
    tracemalloc.start()
    measured = volume_properties(labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert measured["voxels"].tolist() == [300 * 80 * 80]
    assert peak < 12 * 2**20
