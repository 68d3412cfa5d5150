"""Tiled equals whole: for any shape and tile, for padded and for unpadded networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from abbe.contract import Geometry
from abbe.methods.backbones.unet import UNet, UNetConfig
from abbe.methods.backbones.unet_falk import VARIANTS, build
from abbe.methods.segmentation.instances import InstanceSegmentation
from abbe.ops.boxes import Box, slices
from abbe.tiling.grid import Grid, Tile, fit, plan
from abbe.tiling.run import Region, batches, mirrored, read_window, run
from abbe.tiling.stitch import stitch

Maps = dict[str, np.ndarray]
SHAPES = st.tuples(st.integers(1, 90), st.integers(1, 90))


def picture(shape: tuple[int, ...], channels: int = 3) -> np.ndarray:
    return np.random.default_rng(shape).normal(size=(channels, *shape)).astype(np.float32)


def reader(image: np.ndarray) -> Region:
    """Read regions, and see that nothing outside the image is asked for."""

    def region(box: Box) -> np.ndarray:
        assert all(0 <= start < stop <= extent for (start, stop), extent in zip(box, image.shape[1:], strict=True))
        return image[:, *slices(box)]

    return region


def forward(predict: Callable[[torch.Tensor], dict[str, torch.Tensor]]) -> Callable[[np.ndarray], Maps]:
    @torch.inference_mode()
    def compute(windows: np.ndarray) -> Maps:
        return {name: maps.numpy() for name, maps in predict(torch.from_numpy(windows)).items()}

    return compute


def whole(image: np.ndarray, geometry: Geometry, predict: Callable[[np.ndarray], Maps]) -> Maps:
    """Compute the whole image at once, mirrored up to the extents that the network takes."""
    pads = []
    assert geometry.halo is not None
    for extent, halo, multiple, rest in zip(image.shape[1:], geometry.halo, geometry.multiple, geometry.remainder):
        before = halo if geometry.crops else 0
        pads.append((before, fit(extent + 2 * before, multiple, rest) - extent - before))
    maps = predict(np.pad(image, [(0, 0), *pads], mode="reflect")[None])
    return {name: values[0, :, *(slice(extent) for extent in image.shape[1:])] for name, values in maps.items()}


def assert_tiled_equals_whole(
    image: np.ndarray, geometry: Geometry, predict: Callable[[np.ndarray], Maps], tile: int, batch: int
) -> None:
    grid = plan(image.shape[1:], geometry, [tile] * (image.ndim - 1))
    tiled = stitch(run(reader(image), grid.shape, grid, predict, batch=batch), grid.shape)
    expected = whole(image, geometry, predict)
    assert tiled.keys() == expected.keys()
    for name in expected:
        scale = max(1.0, float(np.abs(expected[name]).max()))  # random logits reach 20
        np.testing.assert_allclose(tiled[name], expected[name], atol=1e-5 * scale, rtol=0)


@given(SHAPES, st.integers(56, 100), st.integers(1, 3))
@example((1, 1), 56, 1)
@example((3, 2000), 96, 2)
@settings(deadline=None, max_examples=25)
def test_residual_u_net_with_smoothing(
    tiny: InstanceSegmentation, shape: tuple[int, int], tile: int, batch: int
) -> None:
    assert_tiled_equals_whole(picture(shape), tiny.geometry, forward(tiny.predict), tile, batch)


@given(SHAPES, st.integers(64, 110), st.integers(1, 3))
@example((1, 1), 64, 1)
@example((3, 2000), 120, 2)
@settings(deadline=None, max_examples=20)
def test_unpadded_u_net_sees_a_mirrored_margin(
    randomised: Callable[..., Any], shape: tuple[int, int], tile: int, batch: int
) -> None:
    network = randomised(UNet(UNetConfig(width=2, depth=2, dropout=0.0)))
    predict = forward(lambda x: {"logits": network(x)})
    assert_tiled_equals_whole(picture(shape, 1), network.geometry, predict, tile, batch)


@given(SHAPES, st.integers(64, 110))
@settings(deadline=None, max_examples=15)
def test_padded_u_net_whose_halo_is_no_multiple(
    randomised: Callable[..., Any], shape: tuple[int, int], tile: int
) -> None:
    network = randomised(UNet(UNetConfig(width=2, depth=2, dropout=0.0, padding="same")))
    assert network.geometry.halo[0] % network.geometry.multiple[0]
    assert_tiled_equals_whole(picture(shape, 1), network.geometry, forward(lambda x: {"logits": network(x)}), tile, 1)


@given(st.tuples(st.integers(1, 12), st.integers(1, 40), st.integers(1, 40)), st.integers(48, 72))
@settings(deadline=None, max_examples=15)
def test_stacks_with_coarse_planes(randomised: Callable[..., Any], shape: tuple[int, ...], tile: int) -> None:
    """The first level of this 3-D network works within the plane, so its context differs from axis to axis."""
    config = VARIANTS["unet_falk_3d_tiny"]
    network = randomised(build(config))
    assert len(set(network.geometry.halo)) == 2
    predict = forward(lambda x: {"logits": network(x)})
    assert_tiled_equals_whole(picture(shape, config.in_channels), network.geometry, predict, tile, 1)


@given(SHAPES, st.integers(1, 7), st.integers(16, 40))
@settings(deadline=None, max_examples=25)
def test_a_tile_sees_the_real_pixels_of_its_neighbours(shape: tuple[int, int], halo: int, tile: int) -> None:
    """A map that is the image shifted by the halo can only be right where the neighbour's pixels were read."""
    image = picture(shape, 1)

    def shifted(windows: np.ndarray) -> Maps:
        return {"shifted": np.roll(windows, (-halo, halo), axis=(2, 3))}

    grid = plan(shape, Geometry((halo, halo), (1, 1)), (tile, tile))
    found = stitch(run(reader(image), shape, grid, shifted), shape)["shifted"]
    inside = np.s_[:, : max(shape[0] - halo, 0), halo:]
    assert np.array_equal(found[inside], np.roll(image, (-halo, halo), axis=(1, 2))[inside])


def test_patches_come_before_later_tiles_are_read() -> None:
    """At most the tile in hand, one that waits and one that is being read are in memory."""
    image, seen = picture((400, 30), 1), []

    def region(box: Box) -> np.ndarray:
        seen.append(box[0][1])
        return image[:, *slices(box)]

    grid = plan((400, 30), Geometry((0, 0), (1, 1)), (30, 30))
    patches = run(region, grid.shape, grid, lambda windows: {"same": windows})
    assert next(patches).core[0][1] == grid.core[0]
    assert max(seen) <= 4 * grid.core[0]
    patches.close()


def test_batches_hold_neighbours_of_one_shape() -> None:
    extents = [5, 5, 5, 7, 7, 5]
    windows = [
        (Tile(((0, 1), (i, i + 1)), ((0, 1), (i, i + 1)), ((0, 1), (0, e)), (0, 0)), np.zeros((1, 1, e)))
        for i, e in enumerate(extents)
    ]
    groups = [[window.shape[-1] for _, window in group] for group in batches(windows, 2)]
    assert groups == [[5, 5], [5], [7, 7], [5]]


@given(st.integers(-200, 200), st.integers(0, 300), st.integers(1, 60))
@settings(deadline=None, max_examples=40)
def test_mirroring_is_numpys(start: int, length: int, extent: int) -> None:
    margin = 600
    padded = np.pad(np.arange(extent), margin, mode="reflect")
    assert np.array_equal(mirrored(start, start + length, extent), padded[margin + start : margin + start + length])


def test_a_window_inside_the_image_is_read_as_it_is() -> None:
    image = picture((20, 30))
    assert np.array_equal(read_window(reader(image), ((2, 9), (0, 30)), (20, 30)), image[:, 2:9])


def test_an_error_while_reading_is_raised_where_the_patches_are_consumed() -> None:
    def broken(box: Box) -> np.ndarray:
        raise OSError("no such block")

    grid = Grid((4, 4), (4, 4), Geometry((0, 0), (1, 1)), (0, 0))
    with pytest.raises(OSError, match="no such block"):
        list(run(broken, grid.shape, grid, lambda windows: {"same": windows}))
