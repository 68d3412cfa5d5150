"""Cores that are cut out and joined give the maps back, whatever margin is kept around them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.contract import Geometry
from abbe.tiling.grid import plan
from abbe.tiling.stitch import cut, stitch


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 9), st.integers(0, 3), st.integers(32, 50))
@settings(deadline=None, max_examples=40)
def test_cut_and_joined_is_the_same(height: int, width: int, halo: int, margin: int, tile: int) -> None:
    maps = np.random.default_rng(0).normal(size=(3, height, width)).astype(np.float32)
    patches = []
    for one in plan((height, width), Geometry((halo, halo), (1, 1)), tile, margin):
        y0, y1, x0, x1 = one.window
        patches.append(cut(one, {"three": maps[:, y0:y1, x0:x1], "one": maps[:1, y0:y1, x0:x1].astype(np.float64)}))
    joined = stitch(patches, (height, width))
    assert np.array_equal(joined["three"], maps)
    assert np.array_equal(joined["one"], maps[:1])
    assert joined["one"].dtype == np.float64
    for patch in patches:
        y0, y1, x0, x1 = patch.kept
        assert np.array_equal(patch.maps["three"], maps[:, y0:y1, x0:x1])
