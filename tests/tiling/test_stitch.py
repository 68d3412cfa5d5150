"""Cores that are cut out and joined give the maps back, whatever margin is kept around them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.contract import Geometry
from abbe.ops.boxes import slices
from abbe.tiling.grid import plan
from abbe.tiling.stitch import cut, stitch

SHAPES = st.lists(st.integers(1, 40), min_size=2, max_size=3)


@given(SHAPES, st.integers(0, 9), st.integers(0, 3), st.integers(32, 50))
@settings(deadline=None, max_examples=40)
def test_cut_and_joined_is_the_same(shape: list[int], halo: int, margin: int, tile: int) -> None:
    maps = np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32)
    n_axes, patches = len(shape), []
    geometry = Geometry((halo,) * n_axes, (1,) * n_axes, (0,) * n_axes)
    for one in plan(shape, geometry, [tile] * n_axes, [margin] * n_axes):
        window = slices(one.window)
        patches.append(cut(one, {"three": maps[:, *window], "one": maps[:1, *window].astype(np.float64)}))
    joined = stitch(patches, shape)
    assert np.array_equal(joined["three"], maps)
    assert np.array_equal(joined["one"], maps[:1])
    assert joined["one"].dtype == np.float64
    for patch in patches:
        assert np.array_equal(patch.maps["three"], maps[:, *slices(patch.kept)])
