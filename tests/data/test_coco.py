from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.draw import polygon2mask

from abbe.data.coco import decode_runs, rasterize, read_coco, unpack_runs
from abbe.errors import AbbeError


def encode_runs(mask: np.ndarray) -> list[int]:
    """Count by walking down the columns, background first."""
    counts, current = [0], False
    for value in mask.T.ravel():
        if value != current:
            counts.append(0)
            current = bool(value)
        counts[-1] += 1
    return counts


def pack_runs(counts: list[int]) -> str:
    """Write signed numbers in digits of five bits, as the format's definition says."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            digit = value & 0x1F
            value >>= 5
            more = value != (-1 if digit & 0x10 else 0)
            text += chr((digit | 0x20 if more else digit) + 48)
    return text


@given(mask=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40)))
@settings(deadline=None, max_examples=40)
def test_run_lengths_come_back_as_the_mask(mask: np.ndarray) -> None:
    counts = encode_runs(mask)
    np.testing.assert_array_equal(decode_runs(counts, mask.shape), mask)
    assert unpack_runs(pack_runs(counts)) == counts


@given(st.lists(st.integers(0, 2**30), max_size=20))
@settings(deadline=None, max_examples=40)
def test_large_runs_are_unpacked(counts: list[int]) -> None:
    assert unpack_runs(pack_runs(counts)) == counts


def test_a_polygon_on_pixel_corners_is_the_rectangle() -> None:
    item = {"segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]]}  # x 2..6, y 1..4
    labels, ignore = rasterize([item], (6, 8))
    expected = np.zeros((6, 8), np.int32)
    expected[1:4, 2:6] = 1
    # Exactly on the outline either side is right; these corners leave no pixel centre on it.
    np.testing.assert_array_equal(labels, expected)
    assert not ignore.any()


def test_polygons_agree_with_an_independent_drawing() -> None:
    generator = np.random.default_rng(0)
    angle = np.sort(generator.uniform(0, 2 * np.pi, 30))
    y, x = 32.3 + 20 * np.sin(angle), 40.1 + 30 * np.cos(angle)
    labels, _ = rasterize([{"segmentation": [np.stack([x, y], 1).ravel().tolist()]}], (64, 80))
    expected = polygon2mask((64, 80), np.stack([y - 0.5, x - 0.5], 1))
    assert (labels.astype(bool) != expected).sum() <= 2


def test_several_polygons_are_one_object_and_the_smaller_is_in_front() -> None:
    small = {"segmentation": [[4, 4, 6, 4, 6, 6, 4, 6]]}
    large = {"segmentation": [[0, 0, 10, 0, 10, 10, 0, 10], [12, 0, 14, 0, 14, 2, 12, 2]]}
    for order in ([small, large], [large, small]):
        labels, _ = rasterize(order, (16, 16))
        front, back = order.index(small) + 1, order.index(large) + 1
        assert (labels[4:6, 4:6] == front).all()
        assert labels[0, 0] == labels[1, 13] == back


def test_crowds_are_ignored_where_no_object_is() -> None:
    crowd = {"segmentation": {"size": [4, 4], "counts": [0, 16]}, "iscrowd": 1}
    item = {"segmentation": [[0, 0, 2, 0, 2, 2, 0, 2]]}
    labels, ignore = rasterize([crowd, item], (4, 4))
    assert set(np.unique(labels)) == {0, 2}
    np.testing.assert_array_equal(ignore, labels == 0)


def test_runs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(AbbeError, match="cover 3 pixels"):
        decode_runs([1, 2], (2, 2))
    with pytest.raises(AbbeError, match="size"):
        rasterize([{"segmentation": {"size": [3, 3], "counts": [9]}}], (2, 2))


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_annotations_are_given_by_image(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}]
    annotations = [{"image_id": 7, "segmentation": [], "id": n} for n in range(2)]
    content = read_coco(write(tmp_path / "a.json", {"images": images, "annotations": annotations}))
    assert content == {"a.png": annotations, "b.png": []}


def test_other_json_is_left_alone_and_broken_json_told(tmp_path: Path) -> None:
    assert read_coco(write(tmp_path / "a.json", {"images": []})) is None
    assert read_coco(write(tmp_path / "a.json", [1])) is None
    (tmp_path / "cut.json").write_text('{"images": [')
    with pytest.raises(AbbeError, match=r"cut.json: not valid JSON"):
        read_coco(tmp_path / "cut.json")
    with pytest.raises(AbbeError, match="image id 3"):
        read_coco(write(tmp_path / "b.json", {"images": [], "annotations": [{"image_id": 3}]}))
