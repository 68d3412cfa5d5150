"""Another pixel size, tile by tile: a region of the scaled image is a region of the scaled whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from abbe.contract import Geometry
from abbe.ops.boxes import slices
from abbe.ops.resampling import resample, weights
from abbe.tiling.grid import Grid
from abbe.tiling.rescale import margin_for, rescale, scaled_region, scaled_shape
from abbe.tiling.stitch import cut, stitch

EXTENTS = st.tuples(st.integers(1, 70), st.integers(1, 70))


def picture(shape: tuple[int, ...], channels: int = 2) -> np.ndarray:
    return np.random.default_rng(shape).normal(size=(channels, *shape)).astype(np.float32)


def scaled(image: np.ndarray, target: tuple[int, ...]) -> np.ndarray:
    """The whole image at once."""
    along = [weights(0, new, new, old) for new, old in zip(target, image.shape[1:], strict=True)]
    assert {first for first, _ in along} == {0}
    return resample(image, [matrix for _, matrix in along])


@given(EXTENTS | st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(1, 20)), EXTENTS, st.data())
@settings(deadline=None, max_examples=40)
def test_a_region_is_cut_from_the_scaled_whole(
    shape: tuple[int, ...], target: tuple[int, ...], data: st.DataObject
) -> None:
    image, target = picture(shape), (*target, 5)[: len(shape)]
    low = [data.draw(st.integers(0, extent - 1)) for extent in target]
    box = tuple((start, data.draw(st.integers(start + 1, extent))) for start, extent in zip(low, target))
    found = scaled_region(lambda source: image[:, *slices(source)], shape, target)(box)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, scaled(image, target)[:, *slices(box)], atol=1e-5)


@given(EXTENTS, st.floats(0.02, 7.5), st.integers(1, 40))
@settings(deadline=None, max_examples=40)
def test_patches_are_those_of_the_scaled_whole(shape: tuple[int, int], factor: float, core: int) -> None:
    maps = {"a": picture(shape), "b": picture(shape, 1)}
    target = scaled_shape(shape, (factor, factor))
    grid = Grid(shape, (core, core), Geometry((0, 0), (1, 1)), margin_for((1 / factor, 1 / factor)))
    patches = (cut(tile, {name: values[:, *slices(tile.window)] for name, values in maps.items()}) for tile in grid)
    made = list(rescale(patches, shape, target))
    covered = np.zeros(target, int)
    for patch in made:
        assert patch.kept == patch.core
        covered[slices(patch.core)] += 1
    assert (covered == 1).all()
    for name, values in stitch(made, target).items():
        np.testing.assert_allclose(values, scaled(maps[name], target), atol=1e-5)


@given(EXTENTS)
@settings(deadline=None, max_examples=20)
def test_scale_one_changes_nothing(shape: tuple[int, int]) -> None:
    assert np.array_equal(scaled(picture(shape), shape), picture(shape))


@given(EXTENTS, EXTENTS)
@settings(deadline=None, max_examples=20)
def test_a_constant_stays(shape: tuple[int, int], target: tuple[int, int]) -> None:
    np.testing.assert_allclose(scaled(np.full((1, *shape), 7.0, np.float32), target), 7.0, rtol=1e-6)


@pytest.mark.parametrize("target", [(41, 67), (20, 30), (33, 30)])
def test_enlarging_is_torchs_linear_interpolation(target: tuple[int, int]) -> None:
    image = picture((20, 30))
    expected = F.interpolate(torch.from_numpy(image)[None], target, mode="bilinear")[0].numpy()
    np.testing.assert_allclose(scaled(image, target), expected, atol=1e-5)


def test_shrinking_is_torchs_antialiased_interpolation_away_from_the_border() -> None:
    image, target = picture((60, 90)), (23, 31)
    expected = F.interpolate(torch.from_numpy(image)[None], target, mode="bilinear", antialias=True)[0].numpy()
    np.testing.assert_allclose(scaled(image, target)[:, 2:-2, 2:-2], expected[:, 2:-2, 2:-2], atol=1e-5)


def test_a_scaled_image_keeps_at_least_a_pixel() -> None:
    assert scaled_shape((1, 2000), (0.1, 0.1)) == (1, 200)
    assert scaled_shape((3, 5, 5), (1.0, 2.0, 0.5)) == (3, 10, 2)
