"""Files appear whole or not at all, and labels come back as they were."""

from __future__ import annotations

import errno
import os
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data.read import read
from abbe.data.write import LabelWriter, atomic, atomic_folder, write_labels, write_png, write_table, write_text
from abbe.errors import AbbeError


def labels_of(shape: tuple[int, ...], largest: int, seed: int = 0) -> np.ndarray:
    labels = np.random.default_rng(seed).integers(0, largest, shape, endpoint=True).astype(np.int32)
    labels.flat[-1] = largest
    return labels


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- atomic -------------------------------------------------------------------------------------------------------


def test_the_file_appears_at_the_end(tmp_path):
    with atomic(tmp_path / "new" / "a b ü.txt") as temporary:
        temporary.write_text("whole")
        assert temporary.name.startswith(".")
        assert temporary.parent == tmp_path / "new"
        assert not (tmp_path / "new" / "a b ü.txt").exists()
    assert contents(tmp_path / "new") == ["a b ü.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_file_leaves_the_old_one_and_no_rest(tmp_path, error):
    write_text(tmp_path / "a.txt", "old")
    expected = AbbeError if isinstance(error, OSError) else error
    with pytest.raises(expected), atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise error
    assert (tmp_path / "a.txt").read_text() == "old"
    assert contents(tmp_path) == ["a.txt"]


def test_reasons_are_told(tmp_path):
    (tmp_path / "folder.txt").mkdir()
    (tmp_path / "file").touch()
    for path, reason in (
        (tmp_path / "folder.txt", "there is a folder of that name"),
        (tmp_path / "file" / "a.txt", "a part of the path is a file"),
        (tmp_path / "file" / "b" / "a.txt", "a part of the path is a file"),
        (tmp_path / ("n" * 300 + ".txt"), "the name is too long"),
    ):
        with pytest.raises(AbbeError, match=f"{path.name}: cannot be written, {reason}"):
            write_text(path, "x")
    with pytest.raises(AbbeError, match="no space left on the disk"), atomic(tmp_path / "a"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert contents(tmp_path) == ["file", "folder.txt"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(AbbeError, match="no permission to write there"):
        write_text(tmp_path / "a.txt", "x")


def test_an_error_about_an_input_is_not_blamed_on_the_output(tmp_path):
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "a.txt"):
        (tmp_path / "input.txt").read_text()
    assert contents(tmp_path) == []


def test_overwriting_can_be_forbidden(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(AbbeError, match="exists already"):
        write_text(tmp_path / "a.txt", "new", overwrite=False)
    assert (tmp_path / "a.txt").read_text() == "old"
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_new_files_have_the_usual_permissions(tmp_path):
    write_text(tmp_path / "a.txt", "x")
    (tmp_path / "b.txt").touch()
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


# --- text, tables, pictures ---------------------------------------------------------------------------------------


def test_text_keeps_its_bytes(tmp_path):
    write_text(tmp_path / "a.txt", "µm\nline\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "µm\nline\r\n".encode()


def test_tables_come_back(tmp_path):
    table = pd.DataFrame({"image": ["a, b", 'ü "c"'], "area_µm2": [0.1, 1 / 3], "label": [1, 70000]})
    write_table(tmp_path / "t.csv", table)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "t.csv"), table)


def test_pictures_come_back(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    write_png(tmp_path / "p.png", rgb)
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(tmp_path / "p.png")), rgb)
    for wrong in (rgb.astype(float), rgb[..., :2], rgb[0, 0]):
        with pytest.raises(ValueError, match="a picture is uint8"):
            write_png(tmp_path / "p.png", wrong)


# --- labels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("largest", "dtype"),
    [(0, "u1"), (1, "u1"), (255, "u1"), (256, "u2"), (65535, "u2"), (65536, "u4"), (2**31 - 1, "u4")],
)
@pytest.mark.parametrize("shape", [(300, 300), (3, 40, 50)])
def test_labels_never_wrap(tmp_path, largest, dtype, shape):
    labels = labels_of(shape, largest)
    write_labels(tmp_path / "a.tif", labels)
    back = tifffile.imread(tmp_path / "a.tif")
    assert back.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(back, labels)


@pytest.mark.parametrize("n", [300, 70_000])
def test_every_object_of_a_crowd_comes_back(tmp_path, n):
    labels = np.zeros(600 * 600, np.int32)
    labels[:n] = np.arange(1, n + 1)
    labels = labels.reshape(600, 600)
    back = read(write_labels(tmp_path / "a.tif", labels)).planar().region(0, 600, 0, 600)[0]
    np.testing.assert_array_equal(back, labels)


@given(
    st.tuples(st.integers(1, 1100), st.integers(1, 700)),
    st.lists(st.integers(0, 600), max_size=4),
    st.sampled_from(["u1", "u2", "u4"]),
)
@settings(deadline=None, max_examples=15)
def test_bands_of_any_height_make_one_image(tmp_path_factory, shape, cuts, dtype):
    path = tmp_path_factory.mktemp("bands") / "a.tif"
    labels = labels_of(shape, np.iinfo(dtype).max // 2)
    with LabelWriter(path, shape, dtype) as writer:
        for band in np.split(labels, np.clip(np.cumsum(cuts), 0, shape[0])):
            writer.write_rows(band)
    back = tifffile.imread(path)
    assert back.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(back.reshape(shape), labels)


STACKS = {"ZYX": 3, "TYX": 3, "TZYX": 4}


@settings(deadline=None, max_examples=20)
@given(
    axes=st.sampled_from(list(STACKS)),
    extents=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 600), st.integers(1, 40)),
    cuts=st.lists(st.integers(0, 900), max_size=5),
)
def test_stacks_come_back_plane_by_plane_with_their_axes(tmp_path_factory, axes, extents, cuts):
    folder = tmp_path_factory.mktemp("stacks")
    labels = labels_of(extents[-len(axes) :], 70_000)
    write_labels(folder / "a.tif", labels, {"z": 2.0, "y": 0.25, "x": 0.5}, axes=axes)
    with tifffile.TiffFile(folder / "a.tif") as tiff:
        (series,) = tiff.series
        np.testing.assert_array_equal(series.asarray().reshape(labels.shape), labels)
        sizes = {"T": 1, "Z": 1} | dict(zip(axes, labels.shape))
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        assert {axis: pixels[f"Size{axis}"] for axis in "TZYXC"} == sizes | {"C": 1}
        assert [pixels.get(f"PhysicalSize{axis}") for axis in "ZYX"] == [2.0 if "Z" in axes else None, 0.25, 0.5]
    image = read(folder / "a.tif")
    assert set(image.axes) <= set(axes)
    assert image.pixel_size["x"] == pytest.approx(0.5)
    rows = labels.reshape(-1, labels.shape[-1])
    (folder / "again").mkdir()
    with LabelWriter(folder / "again" / "a.tif", labels.shape, "u4", (2.0, 0.25, 0.5), axes=axes) as writer:
        for band in np.split(rows, np.clip(np.cumsum(cuts), 0, len(rows))):
            writer.write_rows(band)
    assert (folder / "again" / "a.tif").read_bytes() == (folder / "a.tif").read_bytes()


def test_axes_name_the_sizes_of_a_bare_sequence_from_the_last(tmp_path):
    for axes, size, expected in (
        ("TYX", (0.25, 0.5), {"y": 0.25, "x": 0.5}),
        ("TYX", (2.0, 0.25, 0.5), {"y": 0.25, "x": 0.5}),
        ("ZYX", (0.25, 0.5), {"y": 0.25, "x": 0.5}),
        ("TZYX", (2.0, 0.25, 0.5), {"z": 2.0, "y": 0.25, "x": 0.5}),
    ):
        labels = labels_of((3, 2, 20, 30)[-len(axes) :], 9)
        image = read(write_labels(tmp_path / "a.tif", labels, size, axes=axes))
        assert image.axes == axes
        assert image.pixel_size == pytest.approx(expected)


@pytest.mark.parametrize("axes", ["XY", "SYX", "YX", "TZYX", "ztyx"])
def test_other_axes_are_refused(tmp_path, axes):
    with pytest.raises(AbbeError, match=rf"labels of shape \(3, 4, 5\) and axes {axes}; expected \(Y, X\)"):
        write_labels(tmp_path / "a.tif", labels_of((3, 4, 5), 9), axes=axes)
    assert contents(tmp_path) == []


def test_large_labels_are_tiled_and_compressed_ome(tmp_path):
    write_labels(tmp_path / "a.tif", np.ones((1500, 1200), np.uint16), pixel_size=(0.25, 0.5))
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.is_ome
        assert tiff.pages[0].tile == (512, 512)
        assert tiff.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
    assert (tmp_path / "a.tif").stat().st_size < 20_000


@pytest.mark.parametrize("size", [(0.25, 0.5), {"y": 0.25, "x": 0.5}, {"z": 2.0, "y": 0.25, "x": 0.5}])
def test_pixel_size_is_kept(tmp_path, size):
    write_labels(tmp_path / "a.tif", labels_of((20, 30), 9), pixel_size=size)
    image = read(tmp_path / "a.tif")
    assert (image.axes, image.format) == ("YX", "OME-TIFF")
    assert image.pixel_size == pytest.approx({"y": 0.25, "x": 0.5})
    write_labels(tmp_path / "z.tif", labels_of((3, 20, 30), 9), pixel_size=(2.0, 0.25, 0.5))
    assert read(tmp_path / "z.tif").axes == "ZYX"
    assert read(tmp_path / "z.tif").pixel_size == pytest.approx({"z": 2.0, "y": 0.25, "x": 0.5})


@pytest.mark.parametrize("size", [None, {}, ()])
def test_an_unknown_pixel_size_stays_unknown(tmp_path, size):
    assert read(write_labels(tmp_path / "a.tif", labels_of((20, 30), 9), pixel_size=size)).pixel_size == {}


def test_what_does_not_fit_is_an_error(tmp_path):
    for labels, words in (
        (np.full((5, 5), -1), "-1"),
        (np.zeros((5, 5)), "float64"),
        (np.full((5, 5), 2**32), "up to 4294967295"),
        (np.zeros((1, 2, 3, 4, 5), int), r"shape \(1, 2, 3, 4, 5\); expected \(Y, X\), or T"),
        (np.zeros((0, 5), int), "shape"),
    ):
        with pytest.raises(AbbeError, match=rf"a\.tif: cannot be written.*{words}"):
            write_labels(tmp_path / "a.tif", labels)
    for rows, error, words in (
        (np.full((2, 8), 256), AbbeError, "label 256 does not fit in uint8"),
        (np.full((2, 8), -1), AbbeError, "-1"),
        (np.zeros((2, 7), int), ValueError, "width 8"),
        (np.zeros((9, 8), int), ValueError, "more than 8 rows"),
    ):
        with pytest.raises(error, match=words), LabelWriter(tmp_path / "a.tif", (8, 8), "u1") as writer:
            writer.write_rows(rows)
    with pytest.raises(AbbeError, match="an OME-TIFF holds up to"):
        LabelWriter(tmp_path / "a.tif", (8, 8), "i4")
    assert contents(tmp_path) == []


@pytest.mark.parametrize("n_rows", [0, 600, 1000])
def test_missing_rows_leave_no_file(tmp_path, n_rows):
    with (
        pytest.raises(ValueError, match=f"{n_rows} of 1100 rows"),
        LabelWriter(tmp_path / "a.tif", (1100, 50), "u1") as writer,
    ):
        writer.write_rows(np.zeros((n_rows, 50), int))
    assert contents(tmp_path) == []


@pytest.mark.parametrize("n_rows", [0, 600, 1100])
def test_an_interrupted_writer_leaves_nothing(tmp_path, n_rows):
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), LabelWriter(tmp_path / "a.tif", (1100, 50), "u1") as writer:
        writer.write_rows(np.zeros((n_rows, 50), int))
        raise KeyboardInterrupt
    assert contents(tmp_path) == []
    assert threading.active_count() == before


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tifffile.FileHandle, "write", full)
    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(PIL.Image.Image, "save", full)
    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    labels = labels_of((2000, 50), 9)
    for write in (
        lambda: write_labels(tmp_path / "a.tif", labels),
        lambda: write_labels(tmp_path / "a.tif", labels[None]),
        lambda: write_text(tmp_path / "a.tif", "x"),
        lambda: write_png(tmp_path / "a.tif", np.zeros((4, 4), "u1")),
        lambda: write_table(tmp_path / "a.tif", pd.DataFrame()),
    ):
        with pytest.raises(AbbeError, match=r"a\.tif: cannot be written, no space left on the disk"):
            write()
    assert contents(tmp_path) == []


def test_a_writer_holds_a_few_bands_and_not_the_image(tmp_path):
    shape = (16_384, 2048)  # 64 MiB as uint16; a band of 512 rows has 2 MiB
    band = np.zeros((700, shape[1]), np.uint16)
    tracemalloc.start()
    with LabelWriter(tmp_path / "a.tif", shape, "u2") as writer:
        for top in range(0, shape[0], len(band)):
            writer.write_rows(band[: shape[0] - top])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20


@pytest.mark.parametrize("shape", [(4097, 30), (33, 4200)])
def test_large_labels_are_pyramids_of_every_other_label(tmp_path, shape):
    labels = labels_of(shape, 70_000)
    write_labels(tmp_path / "a.tif", labels, {"y": 0.5, "x": 0.25})
    assert contents(tmp_path) == ["a.tif"]
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        (series,) = tiff.series
        assert tiff.is_ome
        assert [level.shape for level in series.levels] == [
            tuple(-(-extent // 2**number) for extent in shape) for number in range(4)
        ]
        for number, level in enumerate(series.levels):
            assert level.keyframe.is_tiled
            np.testing.assert_array_equal(level.asarray(), labels[:: 2**number, :: 2**number])
    image = read(tmp_path / "a.tif")
    assert image.pixel_size == pytest.approx({"y": 0.5, "x": 0.25})
    np.testing.assert_array_equal(image.data[...], labels)


def test_large_planes_of_a_stack_are_pyramids_too(tmp_path):
    labels = labels_of((2, 3, 30, 4100), 300)
    write_labels(tmp_path / "a.tif", labels, {"y": 0.5, "x": 0.25}, axes="TZYX")
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        (series,) = tiff.series
        assert [level.shape for level in series.levels] == [(2, 3, -(-30 // 2**n), -(-4100 // 2**n)) for n in range(4)]
        for number, level in enumerate(series.levels):
            assert level.keyframe.is_tiled
            np.testing.assert_array_equal(level.asarray(), labels[..., :: 2**number, :: 2**number])
    image = read(tmp_path / "a.tif")
    assert image.axes == "TZYX"
    np.testing.assert_array_equal(image.data[...], labels)
    assert contents(tmp_path) == ["a.tif"]


def test_a_memory_map_is_written_without_loading_a_plane(tmp_path):
    labels = np.memmap(tmp_path / "labels", np.int32, "w+", shape=(2, 8192, 2048))  # 64 MiB a plane
    tracemalloc.start()
    write_labels(tmp_path / "a.tif", labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20


def test_big_tiff_pyramids_read_in_full_resolution(tmp_path):
    labels = labels_of((70, 90), 9)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", bigtiff=True) as tiff:
        tiff.write(labels, subifds=1, tile=(32, 32), metadata={"axes": "YX"})
        tiff.write(labels[::2, ::2], subfiletype=1, tile=(32, 32))
    np.testing.assert_array_equal(read(tmp_path / "a.ome.tif").planar().region(5, 70, 9, 80)[0], labels[5:, 9:80])


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_folder_leaves_the_old_one_and_no_rest(tmp_path, error):
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "a" / "b") as folder:
            (folder / "file").write_text(text)
        assert (tmp_path / "a" / "b" / "file").read_text() == text
    with pytest.raises(error), atomic_folder(tmp_path / "a" / "b") as folder:
        (folder / "file").write_text("half")
        raise error
    assert (tmp_path / "a" / "b" / "file").read_text() == "new"
    assert contents(tmp_path / "a") == ["b"]


def test_big_images_are_big_tiff(tmp_path):
    with pytest.raises(KeyboardInterrupt), LabelWriter(tmp_path / "a.tif", (70_000, 20_000), "u2") as writer:
        writer.write_rows(np.zeros((512, 20_000), np.uint16))
        while not (files := list(tmp_path.iterdir())) or files[0].stat().st_size < 4:  # another thread writes
            time.sleep(0.01)
        (temporary,) = files
        assert temporary.read_bytes()[:4] in (b"II+\0", b"MM\0+")
        raise KeyboardInterrupt
    assert contents(tmp_path) == []


def test_equal_labels_are_equal_bytes(tmp_path: Path) -> None:
    labels = np.arange(600, dtype=np.int32).reshape(20, 30)
    files = [write_labels(tmp_path / folder / "a_labels.tif", labels).read_bytes() for folder in ("one", "two")]
    assert files[0] == files[1]
    assert write_labels(tmp_path / "b_labels.tif", labels).read_bytes() != files[0]  # another identifier
