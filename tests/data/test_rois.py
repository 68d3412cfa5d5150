"""Outlines hold exactly the pixels of their objects."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import roifile
import skimage.draw
import skimage.measure
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from abbe.data.rois import fill, outlines, read_imagej_rois, write_geojson, write_imagej_rois
from abbe.errors import AbbeError
from abbe.ops.labels import relabel

small_labels = hnp.arrays(np.int32, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 3))


def area(ring: np.ndarray) -> float:
    x, y = ring.T
    return abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def save(path, *rois: roifile.ImagejRoi) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number, roi in enumerate(rois):
            archive.writestr(f"{number}.roi", roi.tobytes())


@given(small_labels)
@settings(deadline=None, max_examples=40)
def test_imagej_rois_come_back_exactly(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("rois") / "a.zip"
    write_imagej_rois(path, labels)
    np.testing.assert_array_equal(read_imagej_rois(path, labels.shape), relabel(labels)[0])


@given(small_labels)
@settings(deadline=None, max_examples=40)
def test_rings_are_simple_nested_and_of_the_right_area(labels):
    for label, parts in outlines(labels):
        mask = labels == label
        assert len(parts) == skimage.measure.label(mask, connectivity=1).max()
        assert sum(area(outer) - sum(map(area, holes)) for outer, holes in parts) == mask.sum()
        for ring in (ring for outer, holes in parts for ring in (outer, *holes)):
            assert len(set(map(tuple, ring.tolist()))) == len(ring)
            steps = np.diff(ring, axis=0, append=ring[:1])
            assert ((steps == 0).sum(axis=1) == 1).all()
            assert (steps[:, 0] != 0).tolist() in ([True, False] * (len(ring) // 2), [False, True] * (len(ring) // 2))


def test_objects_at_the_border_are_closed():
    labels = np.ones((4, 6), np.uint8)
    ((label, ((outer, holes),)),) = outlines(labels)
    assert (label, holes) == (1, [])
    assert sorted(outer.tolist()) == [[0, 0], [0, 4], [6, 0], [6, 4]]


def test_labels_keep_their_numbers(tmp_path):
    labels = np.zeros((20, 20), np.uint32)
    labels[2:5, 2:5], labels[10:15, 3:9] = 7, 70_000
    write_imagej_rois(tmp_path / "a.zip", labels)
    assert [roi.name for roi in roifile.roiread(tmp_path / "a.zip")] == ["00007", "70000"]
    write_geojson(tmp_path / "a.geojson", labels)
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    assert [feature["properties"]["measurements"]["Label"] for feature in features] == [7, 70_000]


def test_rois_lie_where_imagej_expects_them(tmp_path):
    labels = np.zeros((20, 30), np.uint8)
    labels[5:8, 10:14] = 1
    write_imagej_rois(tmp_path / "a.zip", labels)
    (roi,) = roifile.roiread(tmp_path / "a.zip")
    assert (roi.roitype, roi.left, roi.top, roi.right, roi.bottom) == (roifile.ROI_TYPE.TRACED, 10, 5, 14, 8)
    assert not roi.subpixelresolution
    assert sorted(roi.coordinates().tolist()) == [[10, 5], [10, 8], [14, 5], [14, 8]]


@given(small_labels)
@settings(deadline=None, max_examples=40)
def test_geojson_holds_the_pixels(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("geojson") / "a.geojson"
    write_geojson(path, labels)
    collection = json.loads(path.read_text())
    assert collection["type"] == "FeatureCollection"
    drawn = np.zeros_like(labels)
    for feature in collection["features"]:
        geometry = feature["geometry"]
        polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        for outer, *holes in polygons:
            for ring, sign in ((outer, 1), *((hole, -1) for hole in holes)):
                assert ring[0] == ring[-1]
                x, y = np.array(ring).T
                assert np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) * sign > 0
            window, mask = fill([np.array(ring) for ring in (outer, *holes)], labels.shape)
            drawn[window][mask] = feature["properties"]["measurements"]["Label"]
    np.testing.assert_array_equal(drawn, labels)


@given(
    hnp.arrays(np.int32, st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(1, 8)] * 2), elements=st.integers(0, 3)),
    st.sampled_from(["TZYX", "ZYX", "TYX"]),
)
@settings(deadline=None, max_examples=40)
def test_outlines_of_stacks_lie_on_their_planes(tmp_path_factory, labels, axes):
    folder = tmp_path_factory.mktemp("stack")
    labels = labels if axes == "TZYX" else labels[0]
    write_imagej_rois(folder / "a.zip", labels, axes=axes)
    write_geojson(folder / "a.geojson", labels, axes=axes)
    from_rois, from_geojson = np.zeros((2, *labels.shape), np.int32)
    names = set()
    with zipfile.ZipFile(folder / "a.zip") as archive:
        names = {name.removesuffix(".roi") for name in archive.namelist()}
        assert len(names) == len(archive.namelist())
    for roi in roifile.roiread(folder / "a.zip") if names else []:
        assert roi.name in names
        assert roi.c_position == 0
        assert roi.position == (0 if axes == "TZYX" else roi.z_position + roi.t_position)
        place = tuple({"T": roi.t_position, "Z": roi.z_position}[axis] - 1 for axis in axes[:-2])
        save(folder / "one.zip", roi)
        from_rois[place][read_imagej_rois(folder / "one.zip", labels.shape[-2:]) > 0] = int(roi.name.split("-")[0])
    for feature in json.loads((folder / "a.geojson").read_text())["features"]:
        geometry = feature["geometry"]
        place = tuple(geometry["plane"][axis] for axis in axes[:-2].lower())
        assert set(geometry["plane"]) == {"z", "t"}
        polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        for rings in polygons:
            window, mask = fill([np.array(ring) for ring in rings], labels.shape[-2:])
            from_geojson[place][window][mask] = feature["properties"]["measurements"]["Label"]
    np.testing.assert_array_equal(from_rois, labels)
    np.testing.assert_array_equal(from_geojson, labels)


@given(st.integers(0, 2**32 - 1), st.integers(3, 12))
@settings(deadline=None, max_examples=40)
def test_filling_agrees_with_scikit_image(seed, n):
    # skimage.draw puts pixel centres on whole coordinates, ImageJ on halves.
    corners = np.random.default_rng(seed).uniform(-5, 35, (n, 2))
    expected = np.zeros((30, 25), bool)
    expected[skimage.draw.polygon(corners[:, 1] - 0.5, corners[:, 0] - 0.5, expected.shape)] = True
    drawn = np.zeros_like(expected)
    window, mask = fill([corners], drawn.shape)
    drawn[window] = mask
    np.testing.assert_array_equal(drawn, expected)


def test_rectangles_ovals_and_freehand_outlines_are_areas(tmp_path):
    corners = np.array([(20.2, 3.1), (27.8, 3.4), (24.0, 9.9)])
    rectangle = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, left=2, top=3, right=6, bottom=5)
    oval = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.OVAL, left=10, top=10, right=24, bottom=18)
    save(tmp_path / "a.zip", rectangle, oval, roifile.ImagejRoi.frompoints(corners))
    labels = read_imagej_rois(tmp_path / "a.zip", (30, 30))
    assert labels.dtype == np.int32
    expected = np.zeros((30, 30), bool)
    expected[3:5, 2:6] = True
    np.testing.assert_array_equal(labels == 1, expected)
    expected[:] = False
    expected[skimage.draw.ellipse(14 - 0.5, 17 - 0.5, 4, 7)] = True
    np.testing.assert_array_equal(labels == 2, expected)
    expected[:] = False
    expected[skimage.draw.polygon(corners[:, 1] - 0.5, corners[:, 0] - 0.5)] = True
    np.testing.assert_array_equal(labels == 3, expected)


def test_rois_are_cut_off_at_the_image_and_later_ones_lie_above(tmp_path):
    def rectangle(left, top, right, bottom):
        return roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, left=left, top=top, right=right, bottom=bottom)

    save(tmp_path / "a.zip", rectangle(-3, -3, 4, 4), rectangle(2, 2, 99, 99), rectangle(50, 50, 60, 60))
    expected = np.zeros((10, 10), int)
    expected[:4, :4] = 1
    expected[2:, 2:] = 2
    np.testing.assert_array_equal(read_imagej_rois(tmp_path / "a.zip", (10, 10)), expected)


def test_a_single_roi_file_and_a_zip_of_a_mac(tmp_path):
    roi = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, left=2, top=3, right=6, bottom=5)
    (tmp_path / "a.roi").write_bytes(roi.tobytes())
    save(tmp_path / "a.zip", roi)
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("__MACOSX/._0.roi", b"something else")
    for name in ("a.roi", "a.zip"):
        assert read_imagej_rois(tmp_path / name, (10, 10)).sum() == 8


def test_no_objects_make_an_empty_but_readable_file(tmp_path):
    empty = np.zeros((5, 5), int)
    write_imagej_rois(tmp_path / "a.zip", empty)
    assert not read_imagej_rois(tmp_path / "a.zip", (5, 5)).any()
    write_geojson(tmp_path / "a.geojson", empty)
    assert json.loads((tmp_path / "a.geojson").read_text()) == {"type": "FeatureCollection", "features": []}


def test_what_cannot_be_said_is_an_error(tmp_path):
    for write in (write_imagej_rois, write_geojson):
        with pytest.raises(AbbeError, match="outlines are drawn of whole numbers, not of float64"):
            write(tmp_path / "a", np.zeros((3, 4)))
        with pytest.raises(AbbeError, match=r"labels of shape \(2, 3, 4\) and axes SYX; expected \(Y, X\)"):
            write(tmp_path / "a", np.zeros((2, 3, 4), int), axes="SYX")
    with pytest.raises(AbbeError, match="ImageJ ROIs reach 32767 pixels"):
        write_imagej_rois(tmp_path / "a.zip", np.zeros((1, 40_000), np.uint8))
    (tmp_path / "bad.zip").write_text("no zip")
    with pytest.raises(AbbeError, match=r"bad\.zip: is not a file of ImageJ ROIs"):
        read_imagej_rois(tmp_path / "bad.zip", (5, 5))
    with pytest.raises(AbbeError, match="cannot be read"):
        read_imagej_rois(tmp_path / "none.zip", (5, 5))
    save(tmp_path / "line.zip", roifile.ImagejRoi(roitype=roifile.ROI_TYPE.LINE, name="ruler"))
    with pytest.raises(AbbeError, match=r"line\.zip: ROI ruler is a line, which has no area"):
        read_imagej_rois(tmp_path / "line.zip", (5, 5))
