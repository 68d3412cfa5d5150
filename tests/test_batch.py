"""A batch loses nothing: not by a bad file, a full disk, Ctrl-C or a second run."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy import ndimage

from abbe import batch as batch_module
from abbe.batch import Batch, BatchResult, Found, Outputs
from abbe.data.image import Image
from abbe.data.inputs import find_images
from abbe.data.read import read
from abbe.data.select import Series, select
from abbe.data.write_zarr import write_image_zarr
from abbe.errors import AbbeError
from abbe.report.measure import measure_labels
from abbe.report.table import ObjectTable
from abbe.settings import ImageSettings

Draw = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.fixture(autouse=True)
def short_report(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Keep what the report is given in place of drawing it; tests of the report draw it."""
    given: list[dict[str, Any]] = []

    def write(path: Path, **contents: Any) -> None:
        given.append(contents)
        path.write_text("<html>", encoding="utf-8")

    monkeypatch.setattr(batch_module, "write_report", write)
    return given


@pytest.fixture
def plate(tmp_path: Path, discs: Draw) -> Path:
    """Four images with 3 to 6 discs and a pixel size."""
    folder = tmp_path / "plate"
    folder.mkdir()
    for i in range(4):
        image, _ = discs(number=3 + i, seed=i)
        tifffile.imwrite(folder / f"well {i}.tif", image, resolution=(2e4, 4e4), resolutionunit="CENTIMETER")
    return folder


def threshold(path: Path, work: Path) -> Found:
    series = select(path, ImageSettings())
    labels, _ = ndimage.label(series[0].region(0, series[0].height, 0, series[0].width)[0] > 500)
    labels = labels.astype(np.int32)
    return Found(series, labels, measured(labels, series), 0.1)


def measured(labels: np.ndarray, series: Series) -> ObjectTable:
    table = ObjectTable()
    table.add(measure_labels(labels, series[0]))
    return table


def run(
    inputs: Path,
    out: Path,
    find: Callable[[Path, Path], Found] = threshold,
    *,
    overwrite: bool = False,
    lines: list[str] | None = None,
    **settings: Any,
) -> BatchResult:
    batch = Batch(Outputs(out, overwrite=overwrite), {"level": 500} | settings, "Discs", ("abbe", "segment"))
    return batch.run(find_images([inputs]), find, (lines if lines is not None else []).append)


def visible(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".abbe" not in path.parts}


def content(folder: Path) -> dict[str, Any]:
    """All masks and tables, without times."""
    masks = {path.name: tifffile.imread(path).tolist() for path in sorted(folder.rglob("*_labels.tif"))}
    tables = {name: pd.read_csv(folder / name).fillna(-1) for name in ("images.csv", "objects.csv")}
    return masks | {name: table.drop(columns="seconds", errors="ignore").to_dict() for name, table in tables.items()}


# ------------------------------------------------------------------------------------------------ what is written


def test_masks_and_tables_agree(plate: Path, tmp_path: Path, discs: Draw) -> None:
    result = run(plate, tmp_path / "out")
    images, objects = (pd.read_csv(result.folder / name) for name in ("images.csv", "objects.csv"))
    assert images["image"].tolist() == [f"well {i}" for i in range(4)]
    assert (result.failures, result.skipped, result.interrupted) == ([], 0, False)
    for i, count in enumerate(images["count"]):
        with tifffile.TiffFile(result.folder / f"well {i}_labels.tif") as file:
            labels = file.asarray()
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, discs(number=3 + i, seed=i)[1])
        rows = objects[objects["image"] == f"well {i}"]
        assert count == labels.max() == len(rows)
        assert rows["area"].tolist() == np.bincount(labels.ravel())[1:].tolist()
        assert rows["area_um2"].sum() == pytest.approx((labels > 0).sum() * 0.5 * 0.25)
        assert read(result.folder / f"well {i}_labels.tif").pixel_size == pytest.approx({"y": 0.25, "x": 0.5})
        assert (result.folder / f"well {i}_overlay.png").exists()


@pytest.mark.parametrize(("side", "dtype"), [(15, np.uint8), (16, np.uint16), (255, np.uint16), (256, np.uint32)])
def test_labels_take_the_smallest_type_and_never_wrap(tmp_path: Path, side: int, dtype: type) -> None:
    """15² = 225 and 255² = 65,025 just fit; 16² = 256 and 256² = 65,536 need the next type."""
    labels = np.zeros((2 * side, 2 * side), np.int32)
    labels[::2, ::2] = np.arange(1, side**2 + 1).reshape(side, side)
    series = Series(read(labels.astype(np.float32)))
    np.save(tmp_path / "a.npy", labels)
    run(tmp_path / "a.npy", tmp_path / "out", lambda path, work: Found(series, labels, measured(labels, series)))
    written = tifffile.imread(tmp_path / "out" / "a_labels.tif")
    assert written.dtype == dtype
    assert np.array_equal(written, labels)
    assert pd.read_csv(tmp_path / "out" / "images.csv")["count"].item() == side**2


@pytest.mark.parametrize(("format", "names"), [("auto", "zt"), ("tiff", "tt"), ("zarr", "zz")])
def test_labels_are_of_the_kind_of_their_image_or_of_the_one_asked_for(
    tmp_path: Path, discs: Draw, format: Any, names: str
) -> None:
    image, truth = discs()
    write_image_zarr(tmp_path / "in" / "a.ome.zarr", Image(image, "YX", {"y": 0.5, "x": 0.5}))
    tifffile.imwrite(tmp_path / "in" / "b.tif", image)
    for chosen in (format, {"tiff": "zarr"}.get(format, "tiff"), format):
        batch = Batch(Outputs(tmp_path / "out", overwrite=True, format=chosen), {}, "Discs")
        result = batch.run(find_images([tmp_path / "in"]), threshold, lambda _: None)
    assert not result.failures
    endings = {"z": "_labels.ome.zarr", "t": "_labels.tif"}
    written = [f"{stem}{endings[kind]}" for stem, kind in zip("ab", names)]
    assert sorted(path.name for path in (tmp_path / "out").glob("*_labels*")) == written
    for name in written:
        assert np.array_equal(read(tmp_path / "out" / name).data[...], truth)
    assert find_images([tmp_path / "in"])[0].path == tmp_path / "in" / "a.ome.zarr"


def test_a_zarr_that_was_done_is_skipped_until_it_changes(tmp_path: Path, discs: Draw) -> None:
    for seed in (0, 1):
        write_image_zarr(tmp_path / "in" / "a.ome.zarr", Image(discs(seed=seed)[0], "YX"))
        for skipped in (0, 1):
            result = run(tmp_path / "in", tmp_path / "out")
            assert (len(result.images), result.skipped, result.failures) == (1, skipped, [])


def test_equal_stems_of_two_folders_are_apart(tmp_path: Path, discs: Draw) -> None:
    for i, name in enumerate(("one/a.tif", "two/a.tif", "two/a.png")):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".tif":
            tifffile.imwrite(path, discs(seed=i, number=3 + i)[0])
        else:
            batch_module.write_png(path, (discs(seed=i, number=3 + i, dtype="uint8")[0]))
    result = run(
        tmp_path / "in", tmp_path / "out", lambda path, work: threshold(tmp_path / "in" / "one" / "a.tif", work)
    )
    names = {"one/a", "two/a_png", "two/a_tif"}
    assert set(result.images["image"]) == names
    assert {f"{name}_labels.tif" for name in names} <= visible(tmp_path / "out")


@pytest.mark.parametrize("name", ["NA", "null", "1.0", "007", "Zelle größe µ 🔬", "a.b.c", "with 'quotes', and comma"])
def test_any_name_comes_back_from_the_tables(tmp_path: Path, discs: Draw, name: str) -> None:
    tifffile.imwrite(tmp_path / f"{name}.tif", discs()[0])
    run(tmp_path / f"{name}.tif", tmp_path / "out")
    for table in ("images.csv", "objects.csv"):
        assert set(pd.read_csv(tmp_path / "out" / table, dtype=str, keep_default_na=False)["image"]) == {name}
    assert {f"{name}_labels.tif", f"{name}_overlay.png"} <= visible(tmp_path / "out")


def test_outlines_are_written_when_asked_for(plate: Path, tmp_path: Path) -> None:
    Batch(Outputs(tmp_path / "out", rois=True), {}, "Discs").run(find_images([plate]), threshold, lambda line: None)
    assert {f"well {i}{end}" for i in range(4) for end in ("_rois.zip", ".geojson")} <= visible(tmp_path / "out")


def test_images_without_objects_leave_a_table_with_columns(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "dark.tif", np.zeros((30, 30), np.uint8))
    run(tmp_path / "dark.tif", tmp_path / "out")
    objects = pd.read_csv(tmp_path / "out" / "objects.csv")
    assert len(objects) == 0
    assert "area" in objects.columns
    assert tifffile.imread(tmp_path / "out" / "dark_labels.tif").dtype == np.uint8


def test_given_masks_are_not_written_again(plate: Path, tmp_path: Path) -> None:
    def given(path: Path, work: Path) -> Found:
        return dataclasses.replace(threshold(path, work), write_labels=False)

    run(plate, tmp_path / "out", given)
    assert not list((tmp_path / "out").glob("*_labels.tif"))
    assert len(pd.read_csv(tmp_path / "out" / "images.csv")) == 4


# ------------------------------------------------------------------------------------------------ failures


@pytest.mark.parametrize(
    "error", [AbbeError("well 1.tif: is odd"), OSError("the disk is gone"), ValueError("is odd"), MemoryError("is odd")]
)
def test_a_bad_image_does_not_stop_the_others(
    plate: Path, tmp_path: Path, error: Exception, short_report: list[dict[str, Any]]
) -> None:
    def find(path: Path, work: Path) -> Found:
        if path.stem == "well 1":
            raise error
        return threshold(path, work)

    lines: list[str] = []
    result = run(plate, tmp_path / "out", find, lines=lines)
    assert result.images["image"].tolist() == ["well 0", "well 2", "well 3"]
    ((name, reason),) = result.failures
    assert name == str(plate / "well 1.tif")
    assert "well 1.tif" in reason
    assert str(error) in reason
    assert lines[1].startswith("[2/4] failed: ")
    assert short_report[-1]["failures"] == result.failures
    assert run(plate, tmp_path / "out").skipped == 3  # and the failed one is tried again


def test_a_folder_of_nothing_but_failures_has_no_tables(plate: Path, tmp_path: Path) -> None:
    def find(path: Path, work: Path) -> Found:
        raise AbbeError(f"{path.name}: is odd")

    result = run(plate, tmp_path / "out", find)
    assert len(result.failures) == 4
    assert len(result.images) == 0
    assert visible(tmp_path / "out") == set()


def test_an_image_that_was_done_and_then_spoilt_is_in_no_table(plate: Path, tmp_path: Path) -> None:
    run(plate, tmp_path / "out")
    (plate / "well 2.tif").write_bytes(b"")
    result = run(plate, tmp_path / "out")
    assert len(result.failures) == 1
    assert "well 2" not in set(pd.read_csv(tmp_path / "out" / "images.csv")["image"])
    assert "well 2" not in set(pd.read_csv(tmp_path / "out" / "objects.csv")["image"])


def test_a_full_disk_leaves_no_half_files(plate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, n_writes = os.replace, [0]

    def full_for_a_while(source: Any, target: Any) -> None:
        n_writes[0] += 1
        if n_writes[0] in (6, 7):  # the first files of the second and third image
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full_for_a_while)
    result = run(plate, tmp_path / "out")
    assert result.images["image"].tolist() == ["well 0", "well 3"]
    assert len(result.failures) == 2
    assert all("no space left on the disk" in reason for _, reason in result.failures)
    assert not [name for name in visible(tmp_path / "out") if Path(name).name.startswith(".")]
    assert all(len(tifffile.imread(path)) for path in (tmp_path / "out").glob("*_labels.tif"))
    monkeypatch.undo()
    monkeypatch.setattr(batch_module, "write_report", lambda path, **_: None)
    run(plate, tmp_path / "out")
    run(plate, tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_a_disk_that_is_full_from_the_start_is_one_sentence(
    plate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(AbbeError, match="no space left on the disk"):
        run(plate, tmp_path / "out")
    assert visible(tmp_path / "out") == set()


def test_a_place_that_cannot_be_used_is_told_before_work_begins(plate: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out, words in ((tmp_path / "file", "a file; --out takes a folder"), (tmp_path / "file" / "x", "--out")):
        with pytest.raises(AbbeError, match=words) as told:
            run(plate, out, lambda path, work: pytest.fail("work began"))
        assert str(told.value).startswith(f"{out}: ")


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may write anywhere")
def test_a_folder_without_permission_is_told(plate: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(AbbeError, match="cannot be written to"):
        run(plate, tmp_path / "out")


# ------------------------------------------------------------------------------------------------ again


def test_a_second_run_skips_what_is_done(plate: Path, tmp_path: Path) -> None:
    run(plate, tmp_path / "out")
    before = content(tmp_path / "out")
    result = run(plate, tmp_path / "out", lambda path, work: pytest.fail("done already"))
    assert result.skipped == len(result.images) == 4
    assert content(tmp_path / "out") == before


def test_images_that_are_added_join_the_tables(plate: Path, tmp_path: Path, discs: Draw) -> None:
    run(plate, tmp_path / "out")
    before = content(tmp_path / "out")
    (tmp_path / "more").mkdir()
    tifffile.imwrite(tmp_path / "more" / "well 7.tif", discs(number=2, seed=7)[0])
    result = run(tmp_path / "more", tmp_path / "out")
    assert sorted(result.images["image"]) == [*(f"well {i}" for i in range(4)), "well 7"]
    objects = pd.read_csv(tmp_path / "out" / "objects.csv")
    assert len(objects) == result.images["count"].sum() == sum(pd.DataFrame(before["images.csv"])["count"]) + 2


def test_overwrite_does_all_again(plate: Path, tmp_path: Path) -> None:
    run(plate, tmp_path / "out")
    seen: list[Path] = []

    def watched(path: Path, work: Path) -> Found:
        seen.append(path)
        return threshold(path, work)

    result = run(plate, tmp_path / "out", watched, overwrite=True)
    assert len(seen) == 4
    assert result.skipped == 0


def test_an_image_that_changed_is_done_again(plate: Path, tmp_path: Path, discs: Draw) -> None:
    run(plate, tmp_path / "out")
    image, labels = discs(number=9, seed=9)
    tifffile.imwrite(plate / "well 3.tif", image)
    result = run(plate, tmp_path / "out")
    assert result.skipped == 3
    assert result.images["count"].tolist()[3] == labels.max()


def test_a_run_on_another_folder_does_not_replace_results_of_equal_names(
    plate: Path, tmp_path: Path, discs: Draw
) -> None:
    run(plate, tmp_path / "out")
    before = content(tmp_path / "out")
    (tmp_path / "second").mkdir()
    tifffile.imwrite(tmp_path / "second" / "well 1.tif", discs(seed=7)[0])
    result = run(tmp_path / "second", tmp_path / "out")
    ((_, reason),) = result.failures
    assert f"holds results of {plate / 'well 1.tif'} under this name; choose another folder with --out" in reason
    assert content(tmp_path / "out") == before
    assert not run(tmp_path / "second", tmp_path / "out", overwrite=True).failures


def test_results_of_other_settings_are_not_mixed_in(plate: Path, tmp_path: Path) -> None:
    run(plate, tmp_path / "out")
    with pytest.raises(AbbeError, match="holds results of another model or other options; .*--overwrite.*--out"):
        run(plate, tmp_path / "out", level=700)
    assert run(plate, tmp_path / "out", level=700, overwrite=True).skipped == 0
    assert run(plate, tmp_path / "out", level=700).skipped == 4


def stopping_at(number: int) -> Callable[[Path, Path], Found]:
    """Press Ctrl-C while an image is in hand."""

    def find(path: Path, work: Path) -> Found:
        if path.stem == f"well {number}":
            raise KeyboardInterrupt
        return threshold(path, work)

    return find


def test_ctrl_c_keeps_what_is_finished_and_a_second_run_completes(
    plate: Path, tmp_path: Path, short_report: list[dict[str, Any]]
) -> None:
    result = run(plate, tmp_path / "out", stopping_at(2))
    assert result.interrupted
    assert result.images["image"].tolist() == ["well 0", "well 1"]
    assert len(pd.read_csv(tmp_path / "out" / "images.csv")) == 2
    assert short_report[-1]["notes"]
    again = run(plate, tmp_path / "out")
    assert (again.skipped, again.interrupted) == (2, False)
    run(plate, tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_what_is_unfinished_is_of_the_image_as_it_is(plate: Path, tmp_path: Path, discs: Draw) -> None:
    """A killed run's tiles are found by the next one, unless the image has changed meanwhile."""
    seen: list[bool] = []

    def stopped(path: Path, work: Path) -> Found:
        seen.append((work / "tile").exists())
        (work / "tile").touch()
        raise KeyboardInterrupt

    run(plate, tmp_path / "out", stopped)
    run(plate, tmp_path / "out", stopped)
    tifffile.imwrite(plate / "well 0.tif", discs(number=9, seed=9)[0])
    run(plate, tmp_path / "out", stopped)
    assert seen == [False, True, False]
    run(plate, tmp_path / "out")
    assert not list((tmp_path / "out" / ".abbe").rglob("tile"))


def test_an_overwriting_run_that_was_stopped_does_not_pass_old_results_off_as_new(plate: Path, tmp_path: Path) -> None:
    run(plate, tmp_path / "out")
    stopped = run(plate, tmp_path / "out", stopping_at(2), overwrite=True, level=700)
    assert stopped.images["image"].tolist() == ["well 0", "well 1"]
    assert run(plate, tmp_path / "out", level=700).skipped == 2


def test_a_ledger_that_was_cut_counts_as_not_done(plate: Path, tmp_path: Path) -> None:
    run(plate, tmp_path / "out")
    for path in (tmp_path / "out" / ".abbe").rglob("well 1*.json"):
        path.write_text("{")
    assert run(plate, tmp_path / "out").skipped == 3


def test_the_record_says_how_it_was_done(plate: Path, tmp_path: Path) -> None:
    run(plate, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "provenance.json").read_text(encoding="utf-8"))
    assert "500" in json.dumps(record)
    assert "well 3.tif" in json.dumps(record)


def test_damaged_and_lying_files_are_listed_each_with_its_sentence(plate: Path, tmp_path: Path) -> None:
    whole = (plate / "well 0.tif").read_bytes()
    rng = np.random.default_rng(0)
    for number in range(12):
        data = bytearray(whole)
        data[4:60] = rng.bytes(56)
        (plate / f"overwritten {number}.tif").write_bytes(data)
        (plate / f"cut {number}.tif").write_bytes(whole[: int(rng.integers(1, len(whole)))])
    result = run(plate, tmp_path / "out")
    assert sorted(result.images["image"]) == [f"well {i}" for i in range(4)]
    assert len(result.failures) == 24
    for path, sentence in result.failures:
        assert sentence.startswith((path, Path(path).name))
        assert len(sentence.splitlines()) == 1
        assert "Error:" not in sentence
