"""Images for restoration found in every layout that the file promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from abbe.data.clean import WORDS, check_sizes, find_clean_images
from abbe.errors import AbbeError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


@pytest.mark.parametrize(("bad", "good"), WORDS)
def test_folders_with_equal_stems(tmp_path, bad, good) -> None:
    touch(
        tmp_path, f"train/{bad}/a.tif", f"train/{good}/a.png", f"val/{bad}/x/b.tif", f"val/{good}/x/b.tif", "notes.txt"
    )
    found = find_clean_images(tmp_path)
    assert [(one.name, one.split) for one in found] == [("train/a", "train"), ("val/x/b", "val")]
    assert {one.word for one in found} == {bad}
    assert [(one.worse.parent.name, one.clean.suffix) for one in found if one.worse] == [(bad, ".png"), ("x", ".tif")]


def test_endings(tmp_path) -> None:
    touch(tmp_path, "a_noisy.tif", "a_clean.tif", "deep/b_Noisy.tif", "deep/b_clean.tif")
    assert [one.name for one in find_clean_images(tmp_path)] == ["a", "deep/b"]


def test_good_images_alone(tmp_path) -> None:
    touch(tmp_path, "one.png", "train/two.tif", ".hidden/three.png")
    found = find_clean_images(tmp_path)
    assert [(one.name, one.worse, one.split) for one in found] == [("one", None, ""), ("train/two", None, "train")]


def test_the_folders_own_name_is_a_split(tmp_path) -> None:
    touch(tmp_path, "val/a.png")
    assert [one.split for one in find_clean_images(tmp_path / "val")] == ["val"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "no images"),
        (("noisy/a.tif", "clean/a.tif", "noisy/b.tif"), "b: not both"),
        (("a_noisy.tif", "b_clean.tif"), "a, b: not both"),
    ],
)
def test_what_cannot_be_learnt_from_is_told(tmp_path, names, said) -> None:
    with pytest.raises(AbbeError, match=said):
        find_clean_images(touch(tmp_path, *names))


def test_sizes_of_pairs_are_compared_by_their_pixels(tmp_path) -> None:
    """Axes of one do not count, but channels do."""
    for side in ("noisy", "clean"):
        (tmp_path / side).mkdir()
    tifffile.imwrite(tmp_path / "clean/a.tif", np.zeros((9, 8), np.uint8))
    tifffile.imwrite(tmp_path / "noisy/a.tif", np.zeros((1, 9, 8), np.uint8), metadata={"axes": "ZYX"}, ome=True)
    check_sizes(find_clean_images(tmp_path))
    tifffile.imwrite(tmp_path / "noisy/a.tif", np.zeros((3, 9, 8), np.uint8), metadata={"axes": "CYX"}, ome=True)
    with pytest.raises(AbbeError, match=r"noisy.a\.tif: 3 channels of 9 x 8 pixels, but .* has 9 x 8 pixels"):
        check_sizes(find_clean_images(tmp_path))
