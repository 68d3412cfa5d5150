"""Times as planes: letters change places, pixels stay."""

from __future__ import annotations

import numpy as np
import pytest

from abbe.data.image import Image
from abbe.data.times import exchanged, times_as_planes, with_times
from abbe.errors import AbbeError


def image(axes: str) -> Image:
    return Image(np.zeros(range(2, 2 + len(axes))), axes, name="a.tif")


def test_twice_exchanged_is_as_before() -> None:
    turned = times_as_planes(image("TCZYX"))
    assert turned.axes == "ZCTYX"
    assert exchanged(turned.axes) == "TCZYX"
    assert times_as_planes(image("TYX")).volume().extents == (2, 3, 4)


def test_one_unnamed_axis_is_time() -> None:
    assert with_times(image("QYX")).axes == "TYX"
    assert with_times(image("TZYX")).axes == "TZYX"
    for axes in ("ZYX", "QQYX"):
        with pytest.raises(AbbeError, match=f"a.tif: axes {axes} have no times"):
            with_times(image(axes))
