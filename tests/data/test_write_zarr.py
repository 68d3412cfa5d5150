"""What is written is OME-Zarr by the specification's models, other readers see it, and no label is lost or blended."""

from __future__ import annotations

import errno
import pickle
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import ome_zarr_models.v04
import ome_zarr_models.v05
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from abbe.data import write_zarr
from abbe.data.image import Image
from abbe.data.read import read
from abbe.data.write_zarr import ZarrLabels, write_image_zarr, write_labels_zarr, zarr_labels
from abbe.errors import AbbeError

SIDES = st.integers(1, 50)
MODELS: dict[str, Any] = {"0.4": ome_zarr_models.v04, "0.5": ome_zarr_models.v05}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small images then have several chunks, shards and levels."""
    monkeypatch.setattr(write_zarr, "CHUNK", 16)
    monkeypatch.setattr(write_zarr, "SHARD", 2)
    monkeypatch.setattr(write_zarr, "_SMALLEST_LEVEL", 20)


def labels_of(shape: tuple[int, ...], largest: int = 300, seed: int = 0) -> np.ndarray:
    labels = np.random.default_rng(seed).integers(0, largest, shape, endpoint=True).astype(np.int32)
    labels.flat[-1] = largest
    return labels


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ome(path: Path, version: str) -> dict[str, Any]:
    attributes: dict[str, Any] = dict(zarr.open_group(path, mode="r").attrs)
    return attributes["ome"] if version == "0.5" else attributes


# --- labels -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(
    shape=st.tuples(SIDES, SIDES) | st.tuples(st.integers(1, 4), SIDES, SIDES),
    layout=st.sampled_from([("0.4", False), ("0.5", False), ("0.5", True)]),
    largest=st.sampled_from([0, 1, 255, 256, 65_535, 65_536]),
)
def test_labels_come_back_and_fit_the_specification(tmp_path_factory, shape, layout, largest):
    version, shards = layout
    labels = labels_of(shape, largest)
    path = tmp_path_factory.mktemp("zarr") / "a_labels.ome.zarr"
    assert write_labels_zarr(path, labels, {"y": 0.5, "x": 0.25, "z": 2}, version=version, shards=shards) == path
    MODELS[version].ImageLabel.from_zarr(zarr.open_group(path, mode="r"))
    image = read(path)
    np.testing.assert_array_equal(image.data[...], labels)
    assert image.dtype == np.min_scalar_type(largest)
    assert image.format == f"OME-Zarr {version}"
    assert image.pixel_size == {"z": 2.0, "y": 0.5, "x": 0.25} if labels.ndim == 3 else {"y": 0.5, "x": 0.25}
    assert contents(path.parent) == ["a_labels.ome.zarr"]


@pytest.mark.parametrize(("version", "shards"), [("0.4", False), ("0.5", False), ("0.5", True)])
def test_lower_levels_hold_every_other_label(tmp_path, version, shards):
    labels = labels_of((75, 101))
    path = write_labels_zarr(tmp_path / "a.ome.zarr", labels, {"y": 0.5, "x": 0.5}, version=version, shards=shards)
    datasets = ome(path, version)["multiscales"][0]["datasets"]
    assert len(datasets) == 4
    for number, dataset in enumerate(datasets):
        level = np.asarray(zarr.open_array(path / dataset["path"], mode="r")[...])
        np.testing.assert_array_equal(level, labels[:: 2**number, :: 2**number])
        assert dataset["coordinateTransformations"] == [{"type": "scale", "scale": [0.5 * 2**number] * 2}]
    stored = zarr.open_array(path / "0", mode="r")
    assert stored.chunks == (16, 16)
    assert stored.shards == ((32, 32) if shards else None)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_shows_levels_and_a_colour_for_every_label(tmp_path, version):
    labels = labels_of((40, 50), 6)
    path = write_labels_zarr(tmp_path / "a.ome.zarr", labels, version=version)
    (node,) = Reader(parse_url(str(path)))()
    np.testing.assert_array_equal(np.asarray(node.data[0]), labels)
    assert [level.shape for level in node.data] == [(40, 50), (20, 25), (10, 13)]
    assert sorted(node.metadata["color"]) == list(range(7))
    assert len({tuple(colour) for colour in node.metadata["color"].values()}) == 7
    assert node.metadata["color"][0][3] == 0


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["TYX", "ZYX", "TZYX"])
def test_stacks_and_series_are_what_other_readers_expect(tmp_path, axes, version):
    labels = labels_of((2, 3, 30, 41)[-len(axes) :], 6)
    size = {"z": 2.0, "y": 0.5, "x": 0.25}
    path = write_labels_zarr(tmp_path / "a.ome.zarr", labels, size, axes=axes, version=version)
    MODELS[version].ImageLabel.from_zarr(zarr.open_group(path, mode="r"))
    (node,) = Reader(parse_url(str(path)))()
    assert [level.shape[-2:] for level in node.data] == [(30, 41), (15, 21), (8, 11)]
    np.testing.assert_array_equal(np.asarray(node.data[0]), labels)
    stated = ome(path, version)["multiscales"][0]["axes"]
    assert [axis["name"] for axis in stated] == list(axes.lower())
    assert {axis["name"]: axis.get("unit") for axis in stated if axis["type"] == "time"} in ({}, {"t": None})
    back = read(path)
    assert (back.axes, back.pixel_size) == (axes, {axis: size[axis] for axis in axes.lower() if axis in size})
    np.testing.assert_array_equal(back.data[...], labels)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ngff_zarr_reads_series_with_their_scale(tmp_path, version):
    ngff_zarr = pytest.importorskip("ngff_zarr")
    labels = labels_of((2, 3, 30, 41), 6)
    size = {"z": 2.0, "y": 0.5, "x": 0.25}
    path = write_labels_zarr(tmp_path / "a.ome.zarr", labels, size, version=version)
    for level, image in enumerate(ngff_zarr.from_ngff_zarr(str(path)).images):
        assert image.dims == ("t", "z", "y", "x")
        assert [image.scale[axis] for axis in "tzyx"] == [1.0, 2.0, 0.5 * 2**level, 0.25 * 2**level]
        np.testing.assert_array_equal(np.asarray(image.data), labels[..., :: 2**level, :: 2**level])


def test_too_many_colours_are_left_to_the_viewer(tmp_path):
    path = write_labels_zarr(tmp_path / "a.ome.zarr", labels_of((30, 30), 5000))
    assert "colors" not in ome(path, "0.5")["image-label"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_labels_join_an_image(tmp_path, version):
    pixels = np.arange(2 * 40 * 50, dtype="u2").reshape(2, 40, 50)
    path = write_image_zarr(tmp_path / "a.ome.zarr", Image(pixels, "CYX"), version=version)
    for name in ("nuclei", "cells", "nuclei"):
        write_labels_zarr(path / "labels" / name, labels_of((40, 50), 6), version=version)
    assert ome(path / "labels", version)["labels"] == ["cells", "nuclei"]
    MODELS[version].Labels.from_zarr(zarr.open_group(path / "labels", mode="r"))
    MODELS[version].ImageLabel.from_zarr(zarr.open_group(path / "labels" / "nuclei", mode="r"))
    assert {len(node.data[0].shape) for node in Reader(parse_url(str(path)))() if node.data} == {2, 3}


# --- block by block -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=10)
@given(
    cuts=st.tuples(*[st.lists(st.integers(1, 59), unique=True, max_size=3)] * 2),
    shards=st.booleans(),
    order=st.randoms(use_true_random=False),
)
def test_blocks_of_any_size_and_order_make_one_image(tmp_path_factory, cuts, shards, order):
    labels = labels_of((60, 70), 70_000)
    rows, columns = ([0, *sorted(cut), extent] for cut, extent in zip(cuts, labels.shape))
    blocks = [(slice(*y), slice(*x)) for y in pairwise(rows) for x in pairwise(columns)]
    order.shuffle(blocks)
    path = tmp_path_factory.mktemp("zarr") / "a.ome.zarr"
    with zarr_labels(path, labels.shape, shards=shards) as target:
        for y, x in blocks:
            target.write((y.start, x.start), labels[y, x])
        assert not path.exists()
    assert target.largest == 70_000
    np.testing.assert_array_equal(read(path).data[...], labels)


def test_a_series_is_written_plane_by_plane_and_tile_by_tile(tmp_path):
    labels = labels_of((2, 3, 40, 50), 70_000)
    with zarr_labels(tmp_path / "a.ome.zarr", labels.shape, axes="TZYX") as target:
        assert target.unit == (1, 1, 16, 16)
        for t, z in np.ndindex(2, 3):
            for y in (0, 17):
                target.write((t, z, y, 0), labels[t : t + 1, z : z + 1, y : y + 23])
    np.testing.assert_array_equal(read(tmp_path / "a.ome.zarr").data[...], labels)


def test_an_interrupted_store_is_continued_also_from_another_process(tmp_path):
    labels = labels_of((40, 50), 9)
    ZarrLabels(tmp_path / "a.zarr", labels.shape).write((0, 0), labels[:20])
    again = ZarrLabels(tmp_path / "a.zarr", labels.shape)
    pickle.loads(pickle.dumps(again)).write((20, 0), labels[20:])
    with pytest.raises(AbbeError, match=r"a Zarr group without OME metadata"):
        read(tmp_path / "a.zarr")
    again.finish(largest=9)
    again.finish(largest=9)
    np.testing.assert_array_equal(read(tmp_path / "a.zarr").data[...], labels)
    assert len(ome(tmp_path / "a.zarr", "0.5")["image-label"]["colors"]) == 10
    with pytest.raises(AbbeError, match=r"holds another image"):
        ZarrLabels(tmp_path / "a.zarr", (3, 3))


def test_memory_does_not_grow_with_the_image(tmp_path, monkeypatch):
    monkeypatch.setattr(write_zarr, "CHUNK", 512)
    shape = 4096, 4096  # 64 MiB as uint32
    block = np.ones((512, 512), np.uint32)
    with zarr_labels(tmp_path / "warm.zarr", (600, 600)) as target:
        target.write((0, 0), block)
    tracemalloc.start()
    with zarr_labels(tmp_path / "a.zarr", shape) as target:
        for y in range(0, shape[0], 512):
            for x in range(0, shape[1], 512):
                target.write((y, x), block)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 * 2**20


# --- whole or not at all ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(errno.ENOSPC, "No space left on device")])
def test_what_is_interrupted_leaves_the_old_folder_and_no_rest(tmp_path, error):
    old = labels_of((30, 30), 7)
    path = write_labels_zarr(tmp_path / "a.ome.zarr", old)
    expected = AbbeError if isinstance(error, OSError) else error
    with pytest.raises(expected), zarr_labels(path, (30, 30)) as target:
        target.write((0, 0), old[::-1])
        raise error
    np.testing.assert_array_equal(read(path).data[...], old)
    write_labels_zarr(path, old[::-1])
    np.testing.assert_array_equal(read(path).data[...], old[::-1])
    with pytest.raises(AbbeError, match="exists already"):
        write_labels_zarr(path, old, overwrite=False)
    assert contents(tmp_path) == ["a.ome.zarr"]


def test_what_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    labels = labels_of((30, 30), 7)
    for path, array, options, words in (
        ("file", labels, {}, "a part of the path is a file"),
        ("file/a.zarr", labels, {}, "a part of the path is a file"),
        ("a.zarr", labels - 1, {}, "cannot be written, labels reach -1"),
        ("a.zarr", labels / 2, {}, "cannot be written, labels are float64"),
        ("a.zarr", labels[0], {}, r"labels of shape \(30,\)"),
        ("a.zarr", labels, {"version": "0.6"}, "OME-Zarr 0.6 is not written"),
        ("a.zarr", labels, {"version": "0.4", "shards": True}, "0.4 has no shards"),
    ):
        with pytest.raises(AbbeError, match=words):
            write_labels_zarr(tmp_path / path, array, **options)
    with pytest.raises(AbbeError, match="label 300 does not fit in uint8"):
        ZarrLabels(tmp_path / "b", (30, 30), dtype="u1").write((0, 0), labels_of((2, 2), 300))
    for first, block in (((29, 29), labels[:2, :2]), ((-1, 0), labels[:2, :2]), ((0, 0, 0), labels[:2, :2])):
        with pytest.raises(ValueError, match="is outside of"):
            ZarrLabels(tmp_path / "b", (30, 30), dtype="u1").write(first, block)
    with pytest.raises(AbbeError, match=r"labels of shape \(3, 4, 5\) and axes SYX; expected \(Y, X\)"):
        write_labels_zarr(tmp_path / "c.zarr", np.zeros((3, 4, 5), int), axes="SYX")
    assert contents(tmp_path) == ["b", "file"]


# --- images -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_images_keep_axes_scale_and_channels_and_are_averaged(tmp_path, version):
    pixels = np.random.default_rng(0).integers(0, 60_000, (41, 50, 3, 2)).astype("u2")
    image = Image(pixels, "YXZC", {"z": 2.0, "y": 0.5, "x": 0.25}, ("DAPI", "Red"), name="array")
    path = write_image_zarr(tmp_path / "a.ome.zarr", image, version=version)
    MODELS[version].Image.from_zarr(zarr.open_group(path, mode="r"))
    back = read(path)
    assert (back.axes, back.pixel_size, back.channels) == ("CZYX", image.pixel_size, image.channels)
    np.testing.assert_array_equal(back.data[...], pixels.transpose(3, 2, 0, 1))
    first = ome(path, version)["multiscales"][0]["datasets"][1]
    assert first["coordinateTransformations"][1] == {"type": "translation", "translation": [0, 0, 0.25, 0.125]}
    half = np.asarray(zarr.open_array(path / "1", mode="r")[...])
    assert half.shape == (2, 3, 21, 25)
    mean = pixels[:40].astype(float).reshape(20, 2, 25, 2, 3, 2).mean((1, 3)).transpose(3, 2, 0, 1)
    np.testing.assert_allclose(half[:, :, :20], mean, atol=0.5)
    with pytest.raises(AbbeError, match="unnamed axes"):
        write_image_zarr(tmp_path / "b.ome.zarr", Image(pixels, "YXQC"))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("step", [0.25, 1.0, None])
def test_images_keep_the_time_between_frames(tmp_path, version, step):
    image = Image(np.zeros((3, 30, 40), np.uint8), "TYX", {"y": 0.5, "x": 0.5}, time_step=step)
    path = write_image_zarr(tmp_path / "a.ome.zarr", image, version=version)
    MODELS[version].Image.from_zarr(zarr.open_group(path, mode="r"))
    back = read(path)
    assert (back.axes, back.pixel_size, back.time_step) == ("TYX", image.pixel_size, step)
