"""Properties of the choice of planes and stacks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data.read import read
from abbe.data.select import Series, select
from abbe.errors import AbbeError
from abbe.settings import ImageSettings

EXTENTS = {"T": 3, "C": 2, "Z": 4, "Y": 5, "X": 6}


def stack(axes: str) -> np.ndarray:
    shape = [EXTENTS[axis] for axis in axes]
    return np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)


@given(st.permutations("TCZYX"), st.sets(st.sampled_from("TCZ")), st.sampled_from(["all", 1]), st.sampled_from([2, 3]))
@settings(deadline=None, max_examples=60)
def test_frames_are_the_planes_and_stacks_of_any_order_of_axes(
    order: list[str], missing: set[str], time: Any, dimensions: int
) -> None:
    axes = "".join(axis for axis in order if axis not in missing)
    pixels = stack(axes)
    time = time if "T" in axes else None
    z = "all" if dimensions == 2 else None
    series = select(read(pixels, axes=axes), ImageSettings(time=time, z=z), dimensions)
    absent = tuple(i for i, axis in enumerate("TCZYX") if axis not in axes)
    expected = np.expand_dims(pixels.transpose([axes.index(axis) for axis in "TCZYX" if axis in axes]), absent)
    expected = expected if time in ("all", None) else expected[time : time + 1]
    looped = [axis for axis, asked in (("T", time), ("Z", z)) if asked == "all" and axis in axes]
    assert series.axes == "".join(looped)
    assert series.shape == tuple(EXTENTS[axis] for axis in looped)
    for number, frame in enumerate(series):
        at = dict(zip(series.axes, series.index(number)))
        wanted = expected[at.get("T", 0)]
        wanted = wanted[:, at.get("Z", 0)] if dimensions == 2 else wanted
        assert np.array_equal(frame.box(tuple((0, extent) for extent in frame.extents)), wanted)
    assert number == len(series) - 1


def test_a_frame_is_judged_by_its_stack_where_planes_are_looped() -> None:
    image = read(stack("TZYX"), axes="TZYX")
    both = select(image, ImageSettings(z="all", time="all"))
    assert both.around(5).axes == "CZYX"
    assert np.array_equal(both.around(5).box(((0, 4), (0, 5), (0, 6)))[0], stack("TZYX")[1])
    assert select(image, ImageSettings(z=1, time="all")).around(2).axes == "CYX"


def test_channels_are_looped_when_asked_for() -> None:
    image = read(stack("CZYX"), axes="CZYX")
    image.channels = ("DAPI", "GFP")
    series = select(image, ImageSettings(channel="all", z="all"))
    assert (series.axes, series.shape) == ("CZ", (2, 4))
    assert series.names(5) == {"C": "GFP", "Z": 1}
    assert np.array_equal(series[5].box(((0, 5), (0, 6)))[0], stack("CZYX")[1, 1])
    assert np.array_equal(series.around(5).box(((0, 4), (0, 5), (0, 6)))[0], stack("CZYX")[1])
    assert select(image, ImageSettings(channel="gfp", z=0)).axes == ""


def test_frames_that_do_not_exist_are_index_errors() -> None:
    series = Series(read(stack("YX")))
    assert len(series) == 1
    with pytest.raises(IndexError):
        series[1]


@pytest.mark.parametrize("field", ["pixel_size", "z_step"])
def test_sizes_have_to_be_positive(field: str) -> None:
    with pytest.raises(AbbeError, match="expected more than 0"):
        select(stack("YX"), ImageSettings(**{field: -1.0}))


def test_sizes_that_are_given_replace_those_of_the_file() -> None:
    frame = select(read(stack("ZYX"), axes="ZYX"), ImageSettings(pixel_size=0.2, z_step=0.5), 3)[0]
    assert frame.pixel_size == {"z": 0.5, "y": 0.2, "x": 0.2}
