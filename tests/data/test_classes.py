from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data.class_checks import check_classes, look_at, of_test
from abbe.data.class_samples import ClassSamples
from abbe.data.classes import (
    Labelled,
    class_indices,
    classes_of,
    divide,
    find_classes,
    folds_of,
    join_duplicates,
    name_of_class,
    names_of,
    with_groups,
)
from abbe.data.normalize import Normalization
from abbe.data.write import write_png
from abbe.errors import AbbeError

RECORDS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9)), min_size=2, max_size=60).map(
    lambda rows: [
        Labelled(Path(f"{kind}/{n}.png"), f"{kind}/{n}.png", kind, group=str(group))
        for n, (kind, group) in enumerate(rows)
    ]
)


def picture(path: Path, seed: int = 0, shape: tuple[int, ...] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8))
    return path


# ----------------------------------------------------------------------------------------------------- finding


def test_classes_are_folders_with_or_without_splits(tmp_path: Path) -> None:
    for n, name in enumerate(("train/a/1.png", "train/b/deep/2.png", "val/a/3.png", "test/b/4.png")):
        picture(tmp_path / name, n)
    (tmp_path / "train" / "empty").mkdir()
    picture(tmp_path / "train" / "beside.png")
    (tmp_path / "train" / "a" / "notes.txt").write_text("no image", encoding="utf-8")
    found = find_classes(tmp_path)
    assert [(one.name, one.kind, one.split) for one in found] == [
        ("test/b/4.png", "b", "test"),
        ("train/a/1.png", "a", "train"),
        ("train/b/deep/2.png", "b", "train"),
        ("val/a/3.png", "a", "val"),
    ]
    assert found.empty == ["train/empty"]
    assert [path.name for path in found.loose] == ["beside.png"]
    assert {one.split for one in find_classes(tmp_path / "train")} == {""}
    picture(tmp_path / "c" / "5.png")  # beside the splits it belongs to none
    assert [path.name for path in find_classes(tmp_path).loose] == ["5.png", "beside.png"]


def test_folders_without_classes_are_told(tmp_path: Path) -> None:
    with pytest.raises(AbbeError, match="no such folder; expected one with a folder of images for each class"):
        find_classes(tmp_path / "missing")
    picture(tmp_path / "a.png")
    with pytest.raises(AbbeError, match=r"no folders of classes with images \(1 images lie beside\)"):
        find_classes(tmp_path)


def test_numbers_are_sorted_by_value() -> None:
    images = [Labelled(Path(name), name, name) for name in ("10", "9", "0")]
    assert classes_of(images) == ("0", "9", "10")
    assert class_indices(images, ("9", "10", "0")).tolist() == [1, 0, 2]
    with pytest.raises(AbbeError, match="classes that the model lacks: 0, 9; it knows 10"):
        class_indices(images, ("10",))


def test_the_innermost_folder_called_like_a_class_counts() -> None:
    assert name_of_class("/data/round/oval/x/1.png", ["round", "oval"]) == "oval"
    assert name_of_class("/data/plate1/round.png", ["round", "oval"]) == ""


# ------------------------------------------------------------------------------------------------------ groups


def test_groups_come_from_names_or_a_table(tmp_path: Path) -> None:
    images = [Labelled(Path(f"x/{n}.tif"), f"x/{n}.tif", "x", group=n) for n in ("p1_a_01", "p1_a_02", "p2_b_01")]
    assert [one.group for one in with_groups(images, "_")] == ["p1_a", "p1_a", "p2_b"]
    assert with_groups(images, "") == images
    table = tmp_path / "groups.csv"
    table.write_text("image,group\nx/p1_a_01.tif,one\np1_a_02,one\np2_b_01.tif,two\n", encoding="utf-8")
    assert [one.group for one in with_groups(images, str(table))] == ["one", "one", "two"]
    table.write_text("image,group\nx/p1_a_01.tif,one\n", encoding="utf-8")
    with pytest.raises(AbbeError, match=r"groups\.csv: has no group for x/p1_a_02\.tif; expected a row for every"):
        with_groups(images, str(table))
    table.write_text("file,group\na,b\n", encoding="utf-8")
    with pytest.raises(AbbeError, match="has the columns file, group; expected image and group"):
        with_groups(images, str(table))
    table.write_text("image,group\na,b\na,c\n", encoding="utf-8")
    with pytest.raises(AbbeError, match="a is 'b' and 'c'; expected one group for each image"):
        with_groups(images, str(table))
    with pytest.raises(AbbeError, match="its name has no group before '-'"):
        with_groups(images, "-")


def test_a_table_may_call_an_image_by_any_part_of_its_path() -> None:
    assert list(names_of("a/b.png")) == ["a/b.png", "a/b", "b.png", "b"]


@settings(deadline=None, max_examples=40)
@given(RECORDS, st.integers(2, 4), st.integers(0, 5))
def test_folds_keep_groups_together_whatever_the_order(images: list[Labelled], folds: int, seed: int) -> None:
    groups = {one.group for one in images}
    if len(groups) < folds:
        with pytest.raises(AbbeError, match=f"{folds} folds of {len(groups)} groups"):
            folds_of(images, folds, seed)
        return
    dealt = folds_of(images, folds, seed)
    assert dealt.keys() == groups
    assert set(dealt.values()) == set(range(folds))  # none is empty
    assert dealt == folds_of(images[::-1], folds, seed)
    parts = [divide(images, 0.2, folds, fold, seed) for fold in range(folds)]
    assert sorted(one.name for _, part in parts for one in part) == sorted(one.name for one in images)
    for train, validation in parts:
        assert not {one.group for one in train} & {one.group for one in validation}
        assert len(train) + len(validation) == len(images)


def test_folds_have_equal_shares_of_every_class() -> None:
    images = [Labelled(Path(f"{n}"), f"{n}", "ab"[n % 10 == 0], group=str(n)) for n in range(200)]
    dealt = folds_of(images, 5)
    counts = Counter((dealt[one.group], one.kind) for one in images)
    assert {counts[fold, "b"] for fold in range(5)} == {4}
    assert {counts[fold, "a"] for fold in range(5)} == {36}


def test_a_fraction_is_met_as_groups_allow() -> None:
    images = [Labelled(Path(f"{n}"), f"{n}", "ab"[n % 2], group=str(n)) for n in range(100)]
    assert len(divide(images, 0.15)[1]) == pytest.approx(15, abs=1)
    assert divide(images, 0.0) == (images, [])
    with pytest.raises(AbbeError, match=r"data\.fold is 5 of 5 folds; expected 0 to 4"):
        divide(images, 0.2, 5, 5)


@settings(deadline=None, max_examples=40)
@given(RECORDS, st.integers(1, 20))
def test_equal_images_end_up_in_one_group(images: list[Labelled], kinds: int) -> None:
    digests = {one.name: str(n % kinds) for n, one in enumerate(images)}
    joined = join_duplicates(images, digests)
    for one, other in ((a, b) for a in range(len(images)) for b in range(a)):
        alike = digests[images[one].name] == digests[images[other].name] or images[one].group == images[other].group
        assert not alike or joined[one].group == joined[other].group
    assert join_duplicates(images, {}) == images


# ------------------------------------------------------------------------------------------------------ checks


def levels(findings: list[Any], words: str) -> list[str]:
    return [finding.level for finding in findings if words in finding.text]


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    for n, name in enumerate(("train/a/1.png", "train/a/2.png", "train/b/1.png", "val/b/2.png", "val/c/1.png")):
        picture(tmp_path / name, n)
    picture(tmp_path / "train/a/1.png", 7)
    tifffile.imwrite(tmp_path / "val/b/same.tif", tifffile_pixels(7))  # the same pixels in another kind of file
    picture(tmp_path / "train/b/again.png", 7)
    (tmp_path / "val/c/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    write_png(tmp_path / "train/a/blank.png", np.full((8, 8), 3, np.uint8))
    (tmp_path / "train/none").mkdir()
    folder = find_classes(tmp_path)
    look = look_at(folder)
    train = [one for one in folder if one.split == "train"]
    found = [
        *look.findings,
        *check_classes(train, [one for one in folder if one.split == "val"], look.digests, [folder]),
    ]
    assert levels(found, "the same image in train and val") == ["error"]
    assert levels(found, "the same image in two classes") == ["warning"]
    assert levels(found, "1 class folder without an image: train/none") == ["error"]
    assert levels(found, "no image to train on of c") == ["error"]
    assert levels(found, "broken.png") == ["error"]
    assert levels(found, "every pixel has the value 3") == ["warning"]
    assert levels(found, "no image to validate on of a") == ["warning"]
    assert levels(found, "very few images to train on of a (3), b (2)") == ["warning"]


def tifffile_pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (12, 10)).astype(np.uint8)


def test_one_class_and_shared_groups_are_errors() -> None:
    images = [Labelled(Path(f"a/{n}"), f"a/{n}", "a", group="g") for n in range(6)]
    found = check_classes(images[:3], images[3:], {})
    assert levels(found, "one class only, 'a'; expected images of two at least") == ["error"]
    assert levels(found, "1 group in train and in val: g") == ["error"]


def test_images_kept_for_testing_are_looked_at_too(tmp_path: Path) -> None:
    for number in range(12):
        picture(tmp_path / ("train", "val")[number % 2] / "ab"[number // 6] / f"{number}.png", number)
    picture(tmp_path / "test" / "a" / "copy.png", 1)  # of val/a/1.png
    picture(tmp_path / "test" / "oval" / "0.png", 20)
    (tmp_path / "test" / "a" / "broken.png").write_bytes(b"no image")
    folder = find_classes(tmp_path)
    train, validation, test = ([one for one in folder if one.split == part] for part in ("train", "val", "test"))
    look, look_test = look_at([*train, *validation]), look_at(test)
    found = [
        *of_test(look_test),
        *check_classes(train, validation, look.digests | look_test.digests, [folder], test),
    ]
    assert levels(found, "the same image in val and test: a score on test is too good") == ["warning"]
    assert levels(found, "a class in test only, which no model will know: oval") == ["warning"]
    assert levels(found, "in test: ") == ["warning"]
    assert levels(found, "broken.png") == ["warning"]
    assert levels(found, "the same image in train") == []


def test_channels_that_do_not_fit_are_told_before_training(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((5, 8, 8), np.uint16), imagej=True, metadata={"axes": "CYX"})
    (finding, *_) = look_at([Labelled(tmp_path / "x.tif", "x.tif", "a")], in_channels=3).findings
    assert finding.level == "error"
    assert "x.tif" in finding.text
    assert "5 channels" in finding.text


# ----------------------------------------------------------------------------------------------------- samples


@pytest.mark.parametrize(("dtype", "channels", "wanted"), [("uint8", 1, 3), ("uint16", 1, 1), ("uint16", 5, 5)])
def test_samples_of_any_type_and_channels_are_squares(
    textures: Any, tmp_path: Path, dtype: str, channels: int, wanted: int
) -> None:
    textures.write_folders(tmp_path, {"fine": 2, "coarse": 1}, dtype=dtype, channels=channels)
    images = find_classes(tmp_path)
    samples = ClassSamples(images, textures.CLASSES, Normalization("minmax").normalize, wanted, 16)
    assert [sample.extra["class"] for sample in map(samples.__getitem__, range(3))] == [0, 1, 1]
    for sample in map(samples.__getitem__, range(3)):
        assert sample.image.shape == (wanted, 16, 16)
        assert sample.image.dtype == np.float32
        assert 0 <= sample.image.min() < sample.image.max() <= 1
    assert samples[0] is samples[0]  # kept
