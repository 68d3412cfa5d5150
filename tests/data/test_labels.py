from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from abbe.data.labels import interpret_labels, read_labels
from abbe.errors import AbbeError


def three_squares() -> np.ndarray:
    labels = np.zeros((20, 30), np.uint16)
    labels[2:6, 2:6], labels[2:6, 10:14], labels[12:18, 20:28] = 1, 2, 300
    return labels


@given(
    labels=hnp.arrays(np.uint16, (7, 9), elements=st.integers(0, 70000 % 65536)),
    dtype=st.sampled_from(["uint16", "uint32", "int32", "int64", "uint64", "float32", "float64"]),
)
@settings(deadline=None, max_examples=40)
def test_label_numbers_are_kept_in_any_type(labels: np.ndarray, dtype: str) -> None:
    labels[0, :3] = (2, 3, 65535)
    found = interpret_labels(labels.astype(dtype), False, "a.tif")
    assert found.labels.dtype == np.int32
    np.testing.assert_array_equal(found.labels, labels)
    assert found.ignore is None
    assert found.warnings == []


@pytest.mark.parametrize("value", [1, 255, 65535, True])
def test_binary_masks_are_split_with_a_warning(value: int) -> None:
    mask = np.where(three_squares() > 0, np.array(value), 0)
    found = interpret_labels(mask.astype(bool) if value is True else mask, False, "a.png")
    np.testing.assert_array_equal(np.unique(found.labels), [0, 1, 2, 3])
    np.testing.assert_array_equal(found.labels > 0, mask > 0)
    assert "a.png: binary" in found.warnings[0]
    assert "3 connected components" in found.warnings[0]


def test_one_object_numbered_1_is_no_binary_mask() -> None:
    assert interpret_labels((three_squares() == 2).astype(np.uint8), False, "a.png").warnings == []


def test_a_diagonal_line_of_background_separates() -> None:
    mask = np.ones((6, 6), np.uint8) * 255
    mask[np.arange(6), np.arange(6)] = 0
    assert interpret_labels(mask, False, "a.png").labels.max() == 2


@pytest.mark.parametrize("bad", [np.full((3, 3), 0.5), np.full((3, 3), np.nan), np.zeros((3, 3), complex)])
def test_what_is_no_label_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(AbbeError, match=r"a.tif: labels that are not labels"):
        interpret_labels(bad, False, "a.tif")


def test_negative_pixels_are_not_annotated() -> None:
    labels = three_squares().astype(np.int32)
    labels[:, :2] = -1
    found = interpret_labels(labels, False, "a.tif")
    np.testing.assert_array_equal(found.ignore, labels == -1)
    assert found.labels.min() == 0


def test_numbers_beyond_int32_are_renumbered() -> None:
    labels = three_squares().astype(np.uint64)
    labels[labels == 300] = 2**40
    np.testing.assert_array_equal(np.unique(interpret_labels(labels, False, "a").labels), [0, 1, 2, 3])


def test_colours_are_objects_on_black_or_the_commonest() -> None:
    labels = three_squares()
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [9, 9, 200]], np.uint8)
    index = np.where(labels == 300, 3, labels)
    for palette in (colours, np.concatenate([[[255, 255, 255]], colours[1:]]).astype(np.uint8)):
        found = interpret_labels(palette[index].transpose(2, 0, 1), True, "a.png")
        np.testing.assert_array_equal(found.labels > 0, labels > 0)
        assert len(np.unique(found.labels)) == 4
        assert "3" in found.warnings[0]


def test_grey_saved_in_three_channels_is_plain_labels() -> None:
    labels = np.minimum(three_squares(), 9).astype(np.uint8)
    found = interpret_labels(np.stack([labels] * 3), True, "a.png")
    np.testing.assert_array_equal(found.labels, labels)


def test_files_of_every_kind_are_read(tmp_path: Path) -> None:
    labels = three_squares()
    tifffile.imwrite(tmp_path / "a.tif", labels)
    PIL.Image.fromarray(labels).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", labels)
    for suffix in ("tif", "png", "npy"):
        found = read_labels(tmp_path / f"a.{suffix}", labels.shape, "x")
        np.testing.assert_array_equal(found.labels, labels)
    PIL.Image.fromarray(np.stack([labels.astype(np.uint8)] * 3, -1)).save(tmp_path / "rgb.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "rgb.png", labels.shape, "x").labels, labels % 256)


def test_stacks_and_narrow_images_keep_their_axes(tmp_path: Path) -> None:
    stack = np.stack([three_squares()] * 3)
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, metadata={"axes": "ZYX"})
    np.testing.assert_array_equal(read_labels(tmp_path / "a.ome.tif", stack.shape, "x").labels, stack)
    tifffile.imwrite(tmp_path / "b.tif", stack[0, :1])
    assert read_labels(tmp_path / "b.tif", (1, 30), "x").labels.shape == (1, 30)


@pytest.mark.parametrize("value", [1e30, np.inf, np.nan, 0.5])
def test_floats_that_no_whole_number_holds_are_no_labels(value: float) -> None:
    with pytest.raises(
        AbbeError, match=r"a: labels that are not labels: float64 with fractions, NaN or numbers beyond"
    ):
        interpret_labels(np.array([[0.0, value]]), False, "a")


def test_errors_name_both_files_and_shapes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "m.tif", three_squares())
    with pytest.raises(AbbeError, match=r"m.tif: labels of 20 × 30 pixels, but a.tif has 20 × 31"):
        read_labels(tmp_path / "m.tif", (20, 31), "a.tif")
    with pytest.raises(AbbeError, match="JPEG"):
        read_labels(tmp_path / "m.jpg", (20, 30), "a.tif")
    with pytest.raises(AbbeError, match=r"a.png cannot be drawn"):
        read_labels(tmp_path / "c.json", (20, 30), "a.png", [{"id": 1}])


def test_imagej_regions_become_labels(tmp_path: Path) -> None:
    rois = pytest.importorskip("abbe.data.rois")
    labels = np.minimum(three_squares(), 3).astype(np.int32)
    rois.write_imagej_rois(tmp_path / "a.zip", labels)
    found = read_labels(tmp_path / "a.zip", labels.shape, "a.tif")
    np.testing.assert_array_equal(found.labels > 0, labels > 0)
    assert found.labels.max() == 3
