"""Where tiles lie: cores cover the image once, windows hold what their cores need."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.contract import Geometry
from abbe.errors import AbbeError
from abbe.ops.boxes import corner, extents, slices
from abbe.tiling.grid import Grid, fit, plan


@st.composite
def grids(draw: st.DrawFn) -> tuple[Grid, tuple[int, ...]]:
    """Any image, network, tile and margin: the grid and the tile."""
    axes = []
    crops = draw(st.booleans())
    n_axes = draw(st.sampled_from([2, 3]))
    for _ in range(n_axes):
        stride = draw(st.sampled_from([1, 2, 4, 16]))
        axes.append((draw(st.integers(0, 30)), stride, draw(st.integers(0, stride - 1)) if crops else 0))
    halo, multiple, remainder = (tuple(values) for values in zip(*axes))
    shape = tuple(draw(st.integers(1, 150 if n_axes == 2 else 60)) for _ in range(n_axes))
    margin = tuple(draw(st.sampled_from([0, 1, 2])) * stride for stride in multiple)
    tile = tuple(2 * h + 2 * m + 4 * stride + draw(st.integers(0, 60)) for h, m, stride in zip(halo, margin, multiple))
    return plan(shape, Geometry(halo, multiple, remainder, crops), tile, margin), tile


@given(grids())
@settings(deadline=None, max_examples=40)
def test_cores_partition_the_image_in_reading_order(planned: tuple[Grid, tuple[int, ...]]) -> None:
    grid, _ = planned
    covered = np.zeros(grid.shape, int)
    corners = []
    for tile in grid:
        assert min(extents(tile.core)) > 0
        covered[slices(tile.core)] += 1
        corners.append(corner(tile.core))
    assert (covered == 1).all()
    assert corners == sorted(corners)
    assert len(corners) == len(grid)


@given(grids())
@settings(deadline=None, max_examples=40)
def test_windows_hold_what_is_kept_and_its_halo_and_fit_the_network(planned: tuple[Grid, tuple[int, ...]]) -> None:
    grid, largest = planned
    geometry = grid.geometry
    assert geometry.halo is not None
    for tile in grid:
        for axis, (first, last) in enumerate(tile.core):
            start, end = tile.kept[axis]
            margin = grid.margin[axis]
            assert (start, end) == (max(first - margin, 0), min(last + margin, grid.shape[axis]))
            low, high = tile.window[axis]
            halo, multiple, extent = geometry.halo[axis], geometry.multiple[axis], grid.shape[axis]
            assert high - low <= largest[axis]
            assert (high - low - geometry.remainder[axis]) % multiple == 0
            assert start % multiple == 0  # pooling sees the same pixels together as in the whole image
            if geometry.crops:
                assert low == start - halo
                assert high >= end + halo
                assert tile.origin[axis] == start
            else:
                assert low % multiple == 0
                assert 0 <= low <= max(start - halo, 0)
                assert min(end + halo, extent) <= high <= fit(extent, multiple)
                assert tile.origin[axis] == low


@given(st.integers(1, 400), st.integers(1, 64), st.data())
@settings(deadline=None, max_examples=40)
def test_fit_is_the_smallest_extent_that_the_network_takes(extent: int, multiple: int, data: st.DataObject) -> None:
    remainder = data.draw(st.integers(0, multiple - 1))
    found = fit(extent, multiple, remainder)
    assert found == next(e for e in range(extent, extent + multiple) if e % multiple == remainder)


@pytest.mark.parametrize("geometry", [Geometry((92, 92), (16, 16), (12, 12), True), Geometry((22, 22), (4, 4))])
def test_a_tile_without_room_is_refused_with_one_that_has_some(geometry: Geometry) -> None:
    with pytest.raises(AbbeError, match="leaves nothing beside the halo") as told:
        plan((500, 500), geometry, (40, 40))
    suggested = int(str(told.value).split("--tile ")[1].split()[0])
    assert len(plan((500, 500), geometry, (suggested, suggested))) > 1


def test_a_network_that_needs_the_whole_gets_one_tile() -> None:
    grid = plan((50, 71), Geometry(None, (8, 8)), (16, 16))
    (tile,) = grid
    assert tile.core == ((0, 50), (0, 71))
    assert tile.window == ((0, 56), (0, 72))


def test_an_image_that_fits_into_the_window_is_one_tile() -> None:
    geometry = Geometry((20, 20), (16, 16))
    assert len(plan((96, 96), geometry, (100, 100))) == 1
    assert plan((96, 250), geometry, (100, 100)).counts == (1, 8)
