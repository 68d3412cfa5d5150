"""Photographs: what is held out is of other pictures, squares do not overlap, and nothing is downloaded."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data.write import write_png
from abbe.errors import AbbeError
from abbe.reproduce.photographs import HELD_OUT, TRAIN, bundled, load_photographs, squares


def refuse(*_: object) -> None:
    raise AssertionError("a connection was opened")


def test_the_bundled_pictures_need_no_network_and_are_grey(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(socket, "socket", refuse)
    photographs = load_photographs(None, 128, 12, seed=0)
    assert len(photographs.train) == len(TRAIN)
    assert photographs.held_out.shape == (12, 1, 128, 128)
    for picture in (*photographs.train, photographs.held_out):
        assert picture.dtype == np.float32
        assert 0 <= picture.min() < picture.max() <= 1
    assert not set(TRAIN) & set(HELD_OUT)
    assert min(min(picture.shape[1:]) for picture in photographs.train) >= 128


def test_a_colour_picture_becomes_its_luminance():
    colour = skimage.data.astronaut() / 255
    expected = colour @ [0.2125, 0.7154, 0.0721]  # ITU-R BT.709
    np.testing.assert_allclose(bundled("astronaut")[0], expected, atol=1e-5)


@given(
    rows=st.integers(8, 40), columns=st.integers(8, 40), side=st.integers(1, 8), number=st.integers(1, 50),
    seed=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_squares_do_not_overlap_and_are_windows_of_the_pictures(
    rows: int, columns: int, side: int, number: int, seed: int
):
    pictures = [(10000 * i + np.arange(rows * columns)).reshape(1, rows, columns) for i in range(2)]
    found = squares(pictures, side, number, seed)
    assert len(found) == min(number, 2 * (rows // side) * (columns // side))
    assert len(np.unique(found)) == found.size  # every pixel of a picture has a value of its own
    inside = np.arange(side)[:, None] * columns + np.arange(side)
    assert (found - found[:, :, :1, :1] == inside).all()


def test_squares_are_of_all_pictures_in_turn():
    pictures = [np.full((1, 40, 40), float(i)) for i in range(4)]
    assert sorted(squares(pictures, 8, 4, seed=1)[:, 0, 0, 0]) == [0, 1, 2, 3]


def a_folder(root: Path, number: int, side: int = 40) -> Path:
    """Pictures whose grey value is their number."""
    root.mkdir(parents=True)
    for i in range(number):
        write_png(root / f"{i}.png", np.full((side, side), len(list(root.parent.rglob("*.png"))), np.uint8))
    return root


def values_of(pictures: object) -> set[int]:
    return {round(255 * float(picture.mean())) for picture in pictures}  # type: ignore[attr-defined]


def test_a_fifth_of_a_folder_is_held_out_and_the_rest_is_trained_on(tmp_path: Path):
    photographs = load_photographs(a_folder(tmp_path / "all", 10), 40, 100, seed=0)
    train, held_out = values_of(photographs.train), values_of(photographs.held_out)
    assert len(held_out) == 2
    assert train | held_out == set(range(10))
    assert not train & held_out
    assert photographs.source == "all"


@pytest.mark.parametrize(("train", "held_out"), [("train", "val"), ("train400", "test_bsd68"), ("Training", "Test")])
def test_folders_whose_names_begin_like_parts_are_kept_apart(tmp_path: Path, train: str, held_out: str):
    a_folder(tmp_path / train, 4)
    a_folder(tmp_path / held_out, 3)
    photographs = load_photographs(tmp_path, 40, 100, seed=0)
    assert values_of(photographs.train) == {0, 1, 2, 3}
    assert values_of(photographs.held_out) == {4, 5, 6}


def test_the_seed_decides_what_is_held_out(tmp_path: Path):
    a_folder(tmp_path / "all", 10)
    chosen = [values_of(load_photographs(tmp_path, 40, 100, seed).held_out) for seed in (0, 0, 1, 2, 3)]
    assert chosen[0] == chosen[1]
    assert len({tuple(sorted(values)) for values in chosen}) > 1


def test_one_picture_and_small_ones_are_refused_by_name(tmp_path: Path):
    with pytest.raises(AbbeError, match="one image; expected two or more"):
        load_photographs(a_folder(tmp_path / "one", 1), 16, 4, seed=0)
    a_folder(tmp_path / "small", 3)
    with pytest.raises(AbbeError, match=r"\.png: 40 x 40 pixels; expected 64 or more"):
        load_photographs(tmp_path / "small", 64, 4, seed=0)
    with pytest.raises(AbbeError, match="no images"):
        (tmp_path / "empty").mkdir()
        load_photographs(tmp_path / "empty", 64, 4, seed=0)
