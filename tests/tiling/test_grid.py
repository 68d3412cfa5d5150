"""Where tiles lie: cores cover the image once, windows hold what their cores need."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.contract import Geometry
from abbe.errors import AbbeError
from abbe.tiling.grid import Grid, fit, plan


@st.composite
def grids(draw: st.DrawFn) -> tuple[Grid, int]:
    """Any image, network, tile and margin: the grid and the tile."""
    axes = []
    crops = draw(st.booleans())
    for _ in range(2):
        stride = draw(st.sampled_from([1, 2, 4, 16]))
        axes.append((draw(st.integers(0, 30)), stride, draw(st.integers(0, stride - 1)) if crops else 0))
    halo, multiple, remainder = (tuple(values) for values in zip(*axes))
    shape = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    margin = draw(st.sampled_from([0, 1, 2])) * max(multiple)
    tile = 2 * max(halo) + 2 * margin + 4 * max(multiple) + draw(st.integers(0, 60))
    return plan(shape, Geometry(halo, multiple, remainder, crops), tile, margin), tile


@given(grids())
@settings(deadline=None, max_examples=40)
def test_cores_partition_the_image_in_reading_order(planned: tuple[Grid, int]) -> None:
    grid, _ = planned
    covered = np.zeros(grid.shape, int)
    corners = []
    for tile in grid:
        y0, y1, x0, x1 = tile.core
        assert y1 > y0
        assert x1 > x0
        covered[y0:y1, x0:x1] += 1
        corners.append((y0, x0))
    assert (covered == 1).all()
    assert corners == sorted(corners)
    assert len(corners) == len(grid)


@given(grids())
@settings(deadline=None, max_examples=40)
def test_windows_hold_what_is_kept_and_its_halo_and_fit_the_network(planned: tuple[Grid, int]) -> None:
    grid, largest = planned
    geometry = grid.geometry
    assert geometry.halo is not None
    for tile in grid:
        for axis in range(2):
            first, last = tile.core[2 * axis : 2 * axis + 2]
            start, end = tile.kept[2 * axis : 2 * axis + 2]
            assert (start, end) == (max(first - grid.margin, 0), min(last + grid.margin, grid.shape[axis]))
            low, high = tile.window[2 * axis : 2 * axis + 2]
            halo, multiple, extent = geometry.halo[axis], geometry.multiple[axis], grid.shape[axis]
            assert high - low <= largest
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
        plan((500, 500), geometry, 40)
    suggested = int(str(told.value).split("--tile ")[1].split()[0])
    assert len(plan((500, 500), geometry, suggested)) > 1


def test_a_network_that_needs_the_whole_gets_one_tile() -> None:
    grid = plan((50, 71), Geometry(None, (8, 8)), 16)
    (tile,) = grid
    assert tile.core == (0, 50, 0, 71)
    assert tile.window == (0, 56, 0, 72)
