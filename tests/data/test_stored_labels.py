"""Labels on the disk are those that were added, whatever the order and however few chunks are held open."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data import stored_labels, write_zarr
from abbe.data.stored_labels import LabelStore, StoredLabels
from abbe.data.write import write_labels
from abbe.data.write_zarr import write_labels_zarr
from abbe.errors import AbbeError
from abbe.ops.boxes import slices

SIDES = st.integers(1, 45)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small images then have several chunks, of which few are held in memory."""
    monkeypatch.setattr(stored_labels, "CHUNK", 16)
    monkeypatch.setattr(stored_labels, "BLOCK", (2, 8, 8))
    monkeypatch.setattr(stored_labels, "OPEN_BYTES", 2500)
    monkeypatch.setattr(write_zarr, "CHUNK", 16)
    monkeypatch.setattr(write_zarr, "_SMALLEST_LEVEL", 20)


def filled(folder: Path, labels: np.ndarray, *, dimensions: int = 2, seed: int = 0) -> StoredLabels:
    """Store labels a quarter of the objects at a time, each time in boxes that meet in the middle of chunks."""
    generator = np.random.default_rng(seed)
    store = LabelStore(folder, labels.shape, dimensions)
    for quarter in generator.permutation(4):
        middle = [int(generator.integers(extent + 1)) for extent in labels.shape]
        for corner in np.ndindex((2,) * labels.ndim):
            box = tuple((m, n) if far else (0, m) for far, m, n in zip(corner, middle, labels.shape))
            store.add(box, np.where(labels % 4 == quarter, labels, 0)[slices(box)])
    return store.finish()


def labels_of(shape: tuple[int, ...], largest: int = 300, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    labels = generator.integers(1, largest, shape, endpoint=True) * (generator.random(shape) > 0.5)
    labels.flat[-1] = largest
    return labels.astype(np.int32)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@given(
    shape=st.tuples(SIDES, SIDES) | st.tuples(st.integers(1, 5), SIDES, SIDES),
    largest=st.sampled_from([1, 300, 70_000, 2**31 - 1]),
    seed=st.integers(0, 99),
    solid=st.booleans(),
)
@settings(deadline=None, max_examples=20)
def test_what_was_added_is_read(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[int, ...], largest: int, seed: int, solid: bool
) -> None:
    labels = labels_of(shape, largest, seed)
    folder = tmp_path_factory.mktemp("labels") / "labels.zarr"
    stored = filled(folder, labels, dimensions=3 if solid and labels.ndim == 3 else 2, seed=seed)
    assert (stored.shape, stored.ndim, stored.size, len(stored)) == (shape, len(shape), labels.size, shape[0])
    np.testing.assert_array_equal(np.asarray(stored), labels)
    assert stored.max() == largest
    part = tuple(slice(seed % extent, None) for extent in shape)
    np.testing.assert_array_equal(stored[part], labels[part])
    assert stored[()].shape == shape
    if labels.ndim == 3:
        assert [frame.max() for frame in stored] == [frame.max() for frame in labels]
        np.testing.assert_array_equal(stored[-1][3:9], labels[-1][3:9])
        with pytest.raises(IndexError):
            stored[shape[0]]


def test_memory_holds_a_few_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_labels, "CHUNK", 128)
    monkeypatch.setattr(stored_labels, "OPEN_BYTES", 2**18)
    store = LabelStore(tmp_path / "labels.zarr", (1500, 1500))
    tile = np.ones((300, 300), np.int32)
    store.add(((0, 300), (0, 300)), tile)  # what is loaded once is loaded now
    tracemalloc.start()
    for y in range(300, 1500, 300):
        for x in range(0, 1500, 300):
            store.add(((y, y + 300), (x, x + 300)), tile)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**21 < 4 * 1500 * 1500
    assert np.asarray(store.finish()).sum() == 1500 * 1500 - 1200 * 300


def test_a_store_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "labels.zarr", (40, 40))
    (tmp_path / "labels.zarr" / "c").write_text("in the way of the folder of chunks")
    with pytest.raises(AbbeError, match=r"labels\.zarr: labels cannot be kept \(.*\); is the disk full\?"):
        store.add(((0, 40), (0, 40)), np.ones((40, 40), np.int32))


def test_what_an_earlier_run_left_is_removed(tmp_path: Path) -> None:
    filled(tmp_path / "labels.zarr", labels_of((40, 40)))
    assert not np.asarray(LabelStore(tmp_path / "labels.zarr", (40, 40)).finish()).any()


# --- written as results -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(50, 37), (3, 40, 33)])
@pytest.mark.parametrize("largest", [200, 300, 70_000])
def test_results_are_byte_for_byte_those_of_arrays(tmp_path: Path, shape: tuple[int, ...], largest: int) -> None:
    labels = labels_of(shape, largest)
    stored = filled(tmp_path / "labels.zarr", labels, dimensions=labels.ndim)
    for name, image in (("array", labels), ("stored", stored)):
        write_labels_zarr(tmp_path / name / "a.ome.zarr", image)
        write_labels(tmp_path / name / "a.tif", image)
    assert files_of(tmp_path / "stored") == files_of(tmp_path / "array")
    np.testing.assert_array_equal(np.asarray(stored), labels)


@pytest.mark.parametrize("links", [True, False])
def test_files_of_a_finished_image_become_the_result(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = labels_of((50, 37), 70_000)
    stored = filled(tmp_path / "labels.zarr", labels)
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    result = write_labels_zarr(tmp_path / "a.ome.zarr", stored) / "0" / "c"
    own = files_of(tmp_path / "labels.zarr" / "c")
    assert files_of(result) == own
    assert {(result / name).stat().st_nlink for name in own} == {2 if links else 1}
    filled(tmp_path / "labels.zarr", 3 * labels)  # a later run in that place leaves the result alone
    assert files_of(result) == own


LINK = os.link


def refuse(file: Path, place: Path) -> None:
    """Refuse links as some disks do; Zarr's own go on."""
    if "labels.zarr" in str(file):
        raise OSError("no links here")
    LINK(file, place)
