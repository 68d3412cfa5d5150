"""Letters, lazy views and scales."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data.axes import (
    Deferred,
    Palette,
    View,
    ambiguous,
    imagej_scale,
    letters_of,
    micrometres,
    ome_scale,
    ome_time_step,
    parse_axes,
    readings,
    seconds,
    split_key,
    tag_scale,
)
from abbe.errors import AbbeError


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape)


slices = st.builds(
    slice,
    st.none() | st.integers(-6, 6),
    st.none() | st.integers(-6, 6),
    st.none() | st.integers(-3, 3).filter(bool),
)


@given(
    st.lists(slices | st.integers(-2, 1), max_size=3),
    st.integers(0, 3),
    st.lists(st.integers(2, 5), min_size=3, max_size=3),
)
@settings(deadline=None, max_examples=40)
def test_a_lazy_array_is_indexed_like_an_array(keys, at, shape):
    array = numbered(tuple(shape))
    key = (*keys[:at], Ellipsis, *keys[at:])
    np.testing.assert_array_equal(View(array, range(3))[key], array[key])
    np.testing.assert_array_equal(View(array, range(3))[tuple(keys)], array[tuple(keys)])


def test_a_view_asks_its_source_for_the_block_only():
    class Source:
        shape, dtype, asked = (5, 100, 100), np.dtype("u1"), 0

        def __getitem__(self, key):
            block = np.zeros(self.shape, "u1")[key]
            self.asked += block.size
            return block

    source = Source()
    view = View(source, (1, 2), [(3, 4), (0, 100), (0, 100)])
    assert view[10:20, 5:8].shape == (10, 3)
    assert source.asked == 30


@given(st.permutations([0, 1, 2, None]))
@settings(deadline=None, max_examples=24)
def test_views_reorder_and_add_axes(order):
    array = numbered((2, 3, 4))
    kept = [axis for axis in order if axis is not None]
    expected = np.expand_dims(array.transpose(kept), order.index(None))
    np.testing.assert_array_equal(View(array, order)[...], expected)
    assert View(array, order).shape == expected.shape


def test_views_of_views_and_foreign_byte_order():
    array = numbered((4, 5, 6)).astype(">u2")
    inner = View(array, (0, 1, 2), [(1, 4), (0, 5), (2, 6)])
    outer = View(inner, (2, 1), [(1, 2), (0, 5), (0, 4)])
    np.testing.assert_array_equal(outer[...], array[2, :, 2:].T)
    assert outer.dtype.isnative
    assert outer[...].dtype.isnative


def test_indices_beyond_the_axes_are_errors():
    with pytest.raises(IndexError):
        split_key((0, 0, 0), (2, 2))
    with pytest.raises(IndexError):
        View(np.zeros((2, 2)), (0, 1))[2]


def test_a_deferred_array_loads_once_and_only_when_looked_at():
    calls = []
    deferred = Deferred((2, 3), np.dtype("i8"), lambda: calls.append(1) or numbered((2, 3)))
    assert deferred.shape == (2, 3)
    assert not calls
    assert deferred[1, 2] == 5
    assert np.asarray(deferred).sum() == 15
    assert len(calls) == 1


def test_a_palette_looks_up_colours():
    indices, table = np.array([[0, 2], [1, 1]]), np.array([[0, 0, 0], [9, 8, 7], [3, 2, 1]], np.uint8)
    np.testing.assert_array_equal(Palette(indices, table)[...], table[indices])
    np.testing.assert_array_equal(Palette(indices, table)[:, 1, 1:], table[indices][:, 1, 1:])
    np.testing.assert_array_equal(Palette(indices, table[:, 0])[0], [0, 3])


def test_axes_are_checked_against_the_shape():
    assert parse_axes(" yxs", (4, 5, 3), "a") == "YXC"
    for text, shape in (("YX", (1, 2, 3)), ("YYX", (1, 2, 3)), ("QYX", (1, 2, 3)), ("TC", (1, 2)), ("CYXS", (1,) * 4)):
        with pytest.raises(AbbeError, match=r"a\.tif: axes"):
            parse_axes(text, shape, "a.tif")


def test_an_ambiguous_stack_lists_its_readings():
    assert readings("QYX") == ["ZYX", "TYX", "CYX"]
    assert readings("CQYX") == ["CZYX", "CTYX"]
    assert "TCYX" in readings("QQYX")
    message = str(ambiguous("a.tif", "QYX", (7, 20, 30)))
    assert message == "a.tif: 7 pages without axes (shape (7, 20, 30)); say --axes ZYX, TYX or CYX"
    assert "YXC" in str(ambiguous("a.npy", "QYX", (20, 30, 3)))
    assert "more than" in str(ambiguous("a.npy", "QQQQYX", (2,) * 6))
    assert letters_of("IYXS") == "QYXC"


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.5, "\\u00B5m", 0.5),
        (0.5, "µm", 0.5),
        (0.5, "μm", 0.5),
        (0.5, "micron", 0.5),
        (0.5, "microns", 0.5),
        (0.5, "um", 0.5),
        (0.5, None, 0.5),
        (250, "nm", 0.25),
        (0.001, "mm", 1.0),
        (0.001, "cm", 10.0),
        (1, "inch", 25400.0),
        (2, "Å", 2e-4),
        (1, "pixel", None),
        (1, "seconds", None),
        (0, "um", None),
        (-1, "um", None),
        ("x", "um", None),
        (float("nan"), "um", None),
        (None, "um", None),
    ],
)
def test_lengths_become_micrometres(value, unit, expected):
    assert micrometres(value, unit) == (pytest.approx(expected) if expected else None)


def test_scale_from_ome_xml_of_any_version():
    for space in ("", ' xmlns="http://www.openmicroscopy.org/Schemas/OME/2013-06"'):
        xml = (
            f'<OME{space}><Image><Pixels PhysicalSizeX="650" PhysicalSizeXUnit="nm" PhysicalSizeY="0.65">'
            '<Channel Name="DAPI"/><Channel Name="GFP"/></Pixels></Image></OME>'
        )
        sizes, names = ome_scale(xml)
        assert sizes == pytest.approx({"x": 0.65, "y": 0.65})
        assert names == ("DAPI", "GFP")
    assert ome_scale("<OME><broken") == ({}, ())
    assert ome_scale('<OME><Pixels><Channel Name="a"/><Channel/></Pixels></OME>') == ({}, ())


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        *[(2.5, None, 2.5), ("500", "ms", 0.5), (2, "min", 120), (1, "hours", 3600), (3, "sec", 3), (7, "µs", 7e-6)],
        *[(0, "s", None), (-1, "s", None), ("nan", "s", None), ("", "s", None), (None, None, None), (1, "µm", None)],
    ],
)
def test_times_become_seconds(value, unit, expected):
    assert seconds(value, unit) == (pytest.approx(expected) if expected else None)


def test_time_step_from_ome_xml():
    assert ome_time_step('<OME><Pixels TimeIncrement="250" TimeIncrementUnit="ms"/></OME>') == pytest.approx(0.25)
    assert ome_time_step("<OME><Pixels/></OME>") is None
    assert ome_time_step("<OME><broken") is None


def test_scale_from_imagej_needs_a_unit_of_length():
    density = {"x": 4.0, "y": 2.0}
    found = imagej_scale({"unit": "micron", "spacing": 1.5}, density)
    assert found == pytest.approx({"z": 1.5, "y": 0.5, "x": 0.25})
    assert imagej_scale({"unit": "pixel"}, density) == {}
    assert imagej_scale({"spacing": 2.0}, density) == {}
    assert imagej_scale({"unit": "inch"}, {"x": 72.0, "y": 72.0}) == {}


@pytest.mark.parametrize("dpi", [72, 96, 150, 300, 600, 1200])
def test_resolutions_of_screens_and_printers_are_no_pixel_size(dpi):
    assert tag_scale(2, {"x": dpi, "y": dpi}) == {}
    assert tag_scale(3, {"x": dpi / 2.54, "y": dpi / 2.54}) == {}


def test_resolutions_of_microscopes_are():
    assert tag_scale(3, {"x": 2e4, "y": 2e4}) == pytest.approx({"x": 0.5, "y": 0.5})
    assert tag_scale(2, {"x": 25400.0, "y": 25400.0}) == pytest.approx({"x": 1.0, "y": 1.0})
    assert tag_scale(1, {"x": 2e4, "y": 2e4}) == {}
    assert tag_scale(3, {}) == {}
