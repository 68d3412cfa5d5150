"""Pieces of noisy images: all of little, some of much, none in two parts."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data.image import Image
from abbe.data.noisy import choose_places, grid_of, take_pieces
from abbe.data.select import Series
from abbe.errors import AbbeError
from abbe.ops.boxes import slices


def series(
    *shape: int, dtype=np.uint16, axes: str = "CYX", along: str = "", channels: int = 1, seed: int = 0
) -> Series:
    pixels = np.random.default_rng(seed).integers(0, 4000, shape).astype(dtype)
    return Series(Image(pixels, axes, name=f"{seed}.tif"), along)


@settings(deadline=None, max_examples=40)
@given(extents=st.lists(st.integers(1, 700), min_size=2, max_size=3), side=st.integers(16, 300))
def test_a_grid_covers_every_pixel_once_in_equal_pieces(extents, side) -> None:
    for extent, along in zip(extents, grid_of(extents, side), strict=True):
        assert along[0][0] == 0
        assert along[-1][1] == extent
        assert all(one[1] == other[0] for one, other in itertools.pairwise(along))
        lengths = [stop - start for start, stop in along]
        assert min(lengths) >= min(side, extent)
        assert max(lengths) < 2 * side
        assert max(lengths) - min(lengths) <= 1


@settings(deadline=None, max_examples=30)
@given(sides=st.lists(st.tuples(st.integers(20, 400), st.integers(20, 400)), min_size=1, max_size=4))
def test_all_of_little_is_taken_once(sides) -> None:
    images = [series(1, *extents, seed=seed) for seed, extents in enumerate(sides)]
    seen = [np.zeros(extents, int) for extents in sides]
    for place in choose_places(images, 10**9, np.random.default_rng(0)):
        seen[place.series][slices(place.box)] += 1
    assert all((one == 1).all() for one in seen)


@pytest.mark.parametrize(
    ("sides", "number"), [((1000, 1000), 16), ((200, 200), 9), ((130, 130), 4), ((100, 100), 4), ((60, 60), 1)]
)
def test_pieces_of_little_are_as_large_as_leaves_some_to_hold_out(sides, number) -> None:
    places = choose_places([series(1, *sides)], 10**9, np.random.default_rng(0))
    assert len(places) >= number
    assert min(stop - start for place in places for start, stop in place.box) >= 48


def test_some_of_much_is_taken_and_parts_are_apart() -> None:
    image = series(3, 6, 500, 500, axes="TZYX", along="TZ")
    pieces = take_pieces([image], most=10**6)
    values = sum(one.image.size for one in (*pieces.train, *pieces.validation))
    assert 0.5e6 < values <= 1.1e6
    train = {one.image.tobytes() for one in pieces.train}
    assert not any(one.image.tobytes() in train for one in pieces.validation)
    assert take_pieces([image], most=10**6).train[0].image.tobytes() == pieces.train[0].image.tobytes()


def test_one_normalisation_for_all_by_channel() -> None:
    bright = np.random.default_rng(0).normal(1000, 50, (2, 300, 300)).astype(np.float32)
    bright[1] += 5000
    bright[0, 3, 3] = np.nan
    pieces = take_pieces([Series(Image(bright, "CYX"))])
    assert pieces.normalization.kind == "fixed"
    np.testing.assert_allclose(pieces.normalization.offset, (1000, 6000), rtol=0.01)
    np.testing.assert_allclose(pieces.normalization.scale, (50, 50), rtol=0.02)
    together = np.concatenate([one.image.reshape(2, -1) for one in (*pieces.train, *pieces.validation)], axis=1)
    np.testing.assert_allclose(together.mean(axis=1), 0, atol=1e-3)
    np.testing.assert_allclose(together.std(axis=1), 1, atol=1e-2)
    marked = [one for one in (*pieces.train, *pieces.validation) if one.ignore is not None]
    assert len(marked) == 1
    assert marked[0].ignore.sum() == 1


@pytest.mark.parametrize(("times", "told"), [(3, False), (50, True)])
def test_images_of_very_different_contrast_are_warned_of(times, told) -> None:
    dim = np.random.default_rng(0).normal(100, 9, (1, 300, 300)).astype(np.float32)
    images = [Series(Image(pixels, "CYX", name=name)) for name, pixels in (("dim", dim), ("bright", dim * times))]
    lines: list[str] = []
    take_pieces(images, tell=lines.append)
    assert [line.startswith("warning: bright has 5") for line in lines] == [True] * told


def test_a_damaged_place_is_left_out_and_told() -> None:
    class Damaged:
        shape, dtype = (1, 300, 300), np.dtype(np.uint16)

        def __getitem__(self, index):
            if index[1].start == 0:
                raise OSError("strip 0 is cut short")
            return np.random.default_rng(0).integers(0, 99, self.shape).astype(np.uint16)[index]

    told: list[str] = []
    pieces = take_pieces([Series(Image(Damaged(), "CYX", name="bad.tif"))], tell=told.append)
    assert len(told) == 1
    assert "bad.tif" in told[0]
    assert "strip 0" in told[0]
    assert pieces.train


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([series(1, 64, 64), series(2, 64, 64, seed=1)], "different numbers of channels"),
        ([Series(Image(np.full((1, 64, 64), np.nan, np.float32), "CYX"))], "no pixel with a finite value"),
        ([], "no images"),
    ],
)
def test_what_cannot_be_learnt_from_is_said(images, words) -> None:
    with pytest.raises(AbbeError, match=words):
        take_pieces(images)
