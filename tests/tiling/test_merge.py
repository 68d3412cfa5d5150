"""Objects that come out of tiles are those of the whole image, each once and whole."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn

from abbe.methods.segmentation.instances import InstanceSegmentation
from abbe.ops.boxes import slices
from abbe.tiling.merge import Finished, merge
from abbe.tiling.stitch import Patch

Maps = dict[str, np.ndarray]
decode = partial(InstanceSegmentation(nn.Identity()).decode, min_area=5)


def smooth_maps(shape: tuple[int, ...], seed: int, coarseness: float, level: float) -> Maps:
    """Random foreground and depth; the lower the level, the longer the regions."""
    rng = np.random.default_rng(seed)
    foreground, depth = (ndimage.gaussian_filter(rng.normal(size=shape), coarseness) for _ in range(2))
    foreground = foreground / max(foreground.std(), 1e-9) - level
    depth = 0.5 + 0.25 * depth / max(depth.std(), 1e-9)
    return {"foreground": foreground[None].astype(np.float32), "depth": depth[None].astype(np.float32)}


def cut(maps: Maps, *borders: list[int]) -> Iterator[Patch]:
    """Cut at the borders along each axis."""
    spans = [
        list(zip([0, *along], [*along, extent])) for along, extent in zip(borders, maps["depth"].shape[1:], strict=True)
    ]
    for box in itertools.product(*spans):
        yield Patch(box, box, {name: values[:, *slices(box)] for name, values in maps.items()})


def joined(finished: Iterator[Finished], shape: tuple[int, ...]) -> np.ndarray:
    """Put objects on a canvas; none may lie on another, and numbers go on from 1."""
    canvas = np.zeros(shape, np.int32)
    total = 0
    for part in finished:
        place = canvas[slices(part.box)]
        assert not ((place > 0) & (part.labels > 0)).any()
        numbers = np.unique(part.labels[part.labels > 0])
        assert numbers.tolist() == list(range(total + 1, total + len(numbers) + 1))
        place += part.labels
        total += len(numbers)
    return canvas


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Maps, list[list[int]]]:
    shape = draw(
        st.one_of(
            st.tuples(st.integers(1, 80), st.integers(1, 60)),
            st.tuples(st.integers(1, 12), st.integers(1, 30), st.integers(1, 24)),
        )
    )
    level = draw(st.sampled_from([-0.5, 0.0, 0.7]))
    maps = smooth_maps(shape, draw(st.integers(0, 999)), draw(st.sampled_from([1.0, 2.5, 5.0])), level)
    borders = [
        sorted(draw(st.sets(st.integers(1, extent - 1), max_size=8 if len(shape) == 2 else 3))) if extent > 1 else []
        for extent in shape
    ]
    return maps, borders


@given(scenes())
@settings(deadline=None, max_examples=40)
def test_objects_of_tiles_are_those_of_the_whole(
    same_objects: Callable[..., bool], scene: tuple[Maps, list[list[int]]]
) -> None:
    maps, borders = scene
    shape = maps["depth"].shape[1:]
    found = joined(merge(cut(maps, *borders), decode, shape), shape)
    assert same_objects(found, decode(maps)["labels"])


@given(scenes(), st.integers(0, 400), st.integers(0, 400))
@settings(deadline=None, max_examples=40)
def test_forced_finishing_keeps_to_the_foreground(
    scene: tuple[Maps, list[list[int]]], max_waiting: int, max_decoded: int
) -> None:
    maps, borders = scene
    shape = maps["depth"].shape[1:]
    patches = cut(maps, *borders)
    found = joined(merge(patches, decode, shape, max_waiting=max_waiting, max_decoded=max_decoded), shape)
    assert not (found[maps["foreground"][0] <= 0] > 0).any()
    assert (np.bincount(found[found > 0], minlength=1)[1:] >= 5).all()


def cells(shape: tuple[int, int], pitch: int = 12) -> Maps:
    """Tissue without a gap: cells on a jittered grid, each a hill in a sheet that is all foreground."""
    rng = np.random.default_rng(0)
    grid = np.mgrid[pitch // 2 : shape[0] : pitch, pitch // 2 : shape[1] : pitch].reshape(2, -1)
    middles = grid + rng.uniform(-2, 2, grid.shape)
    pixels = np.mgrid[: shape[0], : shape[1]].reshape(2, -1, 1)
    nearest = np.hypot(*(pixels - middles[:, None])).min(1).reshape(shape)
    depth = np.clip(1 - nearest / pitch * 1.5, 0, 1).astype(np.float32)
    return {"foreground": np.ones((1, *shape), np.float32), "depth": depth[None]}


def test_tissue_without_a_gap_is_decoded_in_bounded_parts_and_no_cell_is_cut() -> None:
    shape, limit = (240, 216), 6000
    maps, seen = cells(shape), []

    def watched(outputs: Maps, exclude: np.ndarray | None) -> Maps:
        seen.append(outputs["depth"].size)
        return decode(outputs, exclude=exclude)

    patches = cut(maps, list(range(48, 240, 48)), list(range(48, 216, 48)))
    found = joined(merge(patches, watched, shape, max_decoded=limit), shape)
    expected = decode(maps)["labels"]
    assert expected.max() == 20 * 18
    assert max(seen) <= limit
    areas = np.bincount(expected.ravel())
    for cell in range(1, expected.max() + 1):
        assert np.bincount(found[expected == cell]).max() > 0.95 * areas[cell]
    assert (found > 0).all()
    assert found.max() == expected.max()


def test_a_thin_region_counts_by_what_decoding_it_takes() -> None:
    """A hair from corner to corner: few pixels, but a box as large as the image."""
    foreground = np.where(np.abs(np.subtract.outer(np.arange(120), np.arange(120))) < 3, 1.0, -1.0)
    maps = {"foreground": foreground[None].astype(np.float32), "depth": np.zeros((1, 120, 120), np.float32)}
    seen = []

    def watched(outputs: Maps, exclude: np.ndarray | None) -> Maps:
        seen.append(outputs["depth"].size)
        return decode(outputs, exclude=exclude)

    borders = list(range(20, 120, 20))
    found = joined(merge(cut(maps, borders, borders), watched, (120, 120), max_decoded=40 * 40), (120, 120))
    assert max(seen) <= 40 * 40
    assert np.array_equal(found > 0, foreground > 0)


def test_a_region_through_all_tiles_is_one_object() -> None:
    """A meander from the first row to the last, in tiles of a single row and a few columns."""
    foreground = np.full((41, 30), -1.0, np.float32)
    foreground[::4] = 1
    foreground[:, 0][:] = np.where(np.arange(41) // 4 % 2, 1, foreground[:, 0])
    foreground[:, -1][:] = np.where(np.arange(41) // 4 % 2 == 0, 1, foreground[:, -1])
    maps = {"foreground": foreground[None], "depth": np.zeros((1, 41, 30), np.float32)}
    assert ndimage.label(foreground > 0)[1] == 1
    found = joined(merge(cut(maps, list(range(1, 41)), [7, 8, 20]), decode, (41, 30)), (41, 30))
    assert np.array_equal(found == 1, foreground > 0)


def test_only_cut_regions_wait() -> None:
    """Discs in tiles of 10 x 10: the decoder never sees more than a tile or one disc."""
    y, x = np.mgrid[:400, :40]
    foreground = (4.5 - np.hypot(y % 13 - 6, x % 13 - 6)).astype(np.float32)
    maps = {"foreground": foreground[None], "depth": np.ones((1, 400, 40), np.float32)}
    seen = []

    def watched(outputs: Maps, exclude: np.ndarray | None) -> Maps:
        seen.append(outputs["depth"].shape[1:])
        return decode(outputs, exclude=exclude)

    tiles = cut(maps, list(range(10, 400, 10)), [10, 20, 30])
    found = joined(merge(tiles, watched, (400, 40)), (400, 40))
    assert found.max() == decode(maps)["labels"].max() > 80
    assert max(max(shape) for shape in seen) <= 10


def test_forced_finishing_is_told(caplog: pytest.LogCaptureFixture) -> None:
    maps = {"foreground": np.ones((1, 40, 10), np.float32), "depth": np.zeros((1, 40, 10), np.float32)}
    maps["depth"][:, 2:4] = maps["depth"][:, 20:22] = maps["depth"][:, 36:38] = 1
    with caplog.at_level(logging.WARNING):
        found = joined(merge(cut(maps, [10, 20, 30], []), decode, (40, 10), max_waiting=150), (40, 10))
    assert "an object spans many tiles" in caplog.text
    assert (found > 0).all()


def test_an_image_without_objects_gives_none() -> None:
    maps = {"foreground": -np.ones((1, 30, 10), np.float32), "depth": np.ones((1, 30, 10), np.float32)}
    assert not joined(merge(cut(maps, [7, 21], [4]), decode, (30, 10)), (30, 10)).any()
