"""What a tile gave comes back as it was, or not at all."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn

from abbe.errors import AbbeError
from abbe.methods.segmentation.instances import InstanceSegmentation
from abbe.ops.boxes import slices
from abbe.tiling.merge import Part, separate
from abbe.tiling.stitch import Patch
from abbe.tiling.store import TileStore

decode = partial(InstanceSegmentation(nn.Identity()).decode, min_area=3)


def parts(shape: tuple[int, ...], seed: int) -> list[Part]:
    """Tiles of a random scene, cut in the middle of every axis."""
    rng = np.random.default_rng(seed)
    foreground, depth = (ndimage.gaussian_filter(rng.normal(size=shape), 1.5) * 3 for _ in range(2))
    maps = {"foreground": foreground[None].astype(np.float32), "depth": depth[None].astype(np.float32)}
    spans = [[(0, n // 2), (n // 2, n)] for n in shape]
    boxes = list(itertools.product(*spans))
    patches = [Patch(box, box, {name: values[:, *slices(box)] for name, values in maps.items()}) for box in boxes]
    return [separate(patch, decode, shape) for patch in patches]


def same(one: Part | None, other: Part) -> bool:
    assert one is not None
    assert (one.core, len(one.pieces), one.faces.keys()) == (other.core, len(other.pieces), other.faces.keys())
    np.testing.assert_array_equal(one.labels, other.labels)
    for face, values in other.faces.items():
        np.testing.assert_array_equal(one.faces[face], values)
    for found, piece in zip(one.pieces, other.pieces, strict=True):
        assert found.box == piece.box
        np.testing.assert_array_equal(found.mask, piece.mask)
        assert found.maps.keys() == piece.maps.keys()
        for name, values in piece.maps.items():
            np.testing.assert_array_equal(found.maps[name], values)
            assert found.maps[name].dtype == values.dtype
    return one.labels.dtype == other.labels.dtype


@given(st.sampled_from([(2, 2), (30, 40), (6, 20, 24)]), st.integers(0, 99))
@settings(deadline=None, max_examples=15)
def test_a_part_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], seed: int
) -> None:
    store = TileStore(tmp_path_factory.mktemp("store"), {})
    written = parts(shape, seed)
    for number, part in enumerate(written):
        assert not store.has(number)
        store.save(number, part)
    assert all(same(store.load(number), part) for number, part in enumerate(written))
    assert store.load(len(written)) is None


@given(st.floats(0, 1), st.sampled_from(["flipped", "cut", "emptied"]))
@settings(deadline=None, max_examples=30)
def test_a_damaged_file_is_found_out(tmp_path_factory: pytest.TempPathFactory, where: float, how: str) -> None:
    store = TileStore(tmp_path_factory.mktemp("store"), {})
    store.save(0, parts((30, 40), 0)[0])
    (path,) = store.folder.glob("*.tile")
    content = bytearray(path.read_bytes())
    place = min(int(where * len(content)), len(content) - 1)
    if how == "flipped":
        content[place] ^= 0x10
    else:
        del content[place if how == "cut" else 0 :]
    path.write_bytes(content)
    assert store.load(0) is None


def test_tiles_of_other_settings_are_thrown_away(tmp_path: Path) -> None:
    part = parts((30, 40), 0)[0]
    TileStore(tmp_path / "store", {"min_area": 3}).save(0, part)
    assert TileStore(tmp_path / "store", {"min_area": 3}).has(0)
    assert not TileStore(tmp_path / "store", {"min_area": 4}).has(0)


def test_a_folder_that_is_no_store_is_cleared(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "00000000.tile").write_bytes(b"?")
    assert not TileStore(tmp_path / "store", {}).has(0)


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TileStore(tmp_path, {})

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(AbbeError, match="a tile cannot be kept .No space left on device.; is the disk full"):
        store.save(0, parts((30, 40), 0)[0])
    assert not list(tmp_path.glob("*.unfinished"))
