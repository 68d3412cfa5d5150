"""`abbe embed` as people type it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

import abbe
from abbe.cli.main import main
from abbe.embed_batch import EmbedBatch

Write = Callable[..., Path]
PLAIN: dict[str, Any] = {"device": "cpu", "precision": "exact"}


@pytest.fixture(scope="module")
def model(backbone_file: Write) -> Path:
    return backbone_file("resnet_tiny", 16, name="mirror")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of six pictures each, of stripes across and along."""
    root = tmp_path_factory.mktemp("cells")
    generator = np.random.default_rng(0)
    for folder in ("across", "along"):
        (root / folder).mkdir()
        for number in range(6):
            stripes = np.tile(np.repeat([40, 200], 4), 3)[:, None] + generator.integers(-20, 20, (24, 24))
            picture = (stripes if folder == "across" else stripes.T).astype(np.uint8)
            tifffile.imwrite(root / folder / f"p{number}.tif", picture)
    return root


@pytest.fixture
def embed(model: Path, capsys: Any, monkeypatch: Any) -> Callable[..., Any]:
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: Any) -> tuple[int, str, str]:
        given = [str(word) for word in words]
        with pytest.raises(SystemExit) as ended:
            main(["embed", *given, "--model", str(model), "--device", "cpu", "--precision", "exact"])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return int(ended.value.code or 0), printed.out, printed.err

    return call


def test_folders_become_vectors_and_a_report(embed: Any, cells: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, printed, _ = embed(cells, "--out", out, "--format", "npy")
    assert code == 0
    assert "12 images" in printed
    index, vectors = pd.read_csv(out / "vectors.csv"), np.load(out / "vectors.npy")
    assert list(index) == ["image"]
    assert index["image"].tolist() == sorted(index["image"])
    for image, row in zip(index["image"], vectors, strict=True):
        alone = abbe.embed(cells / f"{image}.tif", model, **PLAIN).to_numpy()[0]
        np.testing.assert_allclose(row, alone, atol=1e-5 * np.abs(alone).max())
    assert list(pd.read_csv(out / "images.csv")) == ["image", "seconds", "warnings"]
    report = (out / "report.html").read_text(encoding="utf-8")
    for part in ("Nearest neighbours", "Map (", "numbers per vector", "same folder", "vectors.npy", "across/p0"):
        assert part in report
    assert (out / "neighbours.png").stat().st_size > 1000
    assert not list((out / ".abbe").glob("*.npy"))


def test_a_second_run_does_only_what_is_missing_in_any_format(embed: Any, cells: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert embed(cells / "along", "--out", out, "--format", "npy")[0] == 0
    before = np.load(out / "vectors.npy")
    (tmp_path / "more").mkdir()
    tifffile.imwrite(tmp_path / "more" / "extra.tif", np.full((20, 20), 7, np.uint8))
    code, printed, told = embed(cells / "along", "--out", out, "--format", "csv")
    assert (code, told.count("done already")) == (0, 6)
    assert "6 of them by an earlier run" in printed
    assert not (out / "vectors.npy").exists()
    np.testing.assert_allclose(pd.read_csv(out / "vectors.csv").filter(regex="^v").to_numpy(), before, rtol=1e-6)
    assert embed(tmp_path / "more", "--out", out, "--format", "npy")[0] == 0
    assert len(np.load(out / "vectors.npy")) == 7
    code, _, told = embed(cells / "along", "--out", out, "--layer", "stages.0")
    assert code == 2
    assert "holds results of another model or other options" in told


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_few_images_have_a_report_too(number: int, embed: Any, cells: Path, tmp_path: Path) -> None:
    files = sorted((cells / "along").iterdir())[:number]
    code, printed, _ = embed(*files, "--out", tmp_path / "out", "--format", "csv")
    assert code == 0
    assert f"{number} image" in printed
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert ("A map needs 3 images" in report) == (number < 3)
    assert ("there is no other" in report) == (number == 1)


def test_an_empty_folder_is_told(embed: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, told = embed(tmp_path / "empty", "--out", tmp_path / "out")
    assert code == 2
    assert "no images in this folder" in told


def test_exact_duplicates_are_each_others_neighbours(embed: Any, cells: Path, tmp_path: Path) -> None:
    plate = tmp_path / "plate"
    plate.mkdir()
    for path in (cells / "along").iterdir():
        (plate / path.name).write_bytes(path.read_bytes())
    (plate / "copy_of_p3.tif").write_bytes((plate / "p3.tif").read_bytes())
    assert embed(plate, "--out", tmp_path / "out", "--format", "npy")[0] == 0
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "copy_of_p3: p3 (1.000)" in report
    assert "p3: copy_of_p3 (1.000)" in report


def test_classes_from_a_table_colour_the_map(embed: Any, cells: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("image,class\np0.tif,odd\np1,even\n", encoding="utf-8")
    out = tmp_path / "out"
    assert embed(cells / "along", "--out", out, "--labels", labels, "--format", "npy")[0] == 0
    known = pd.read_csv(out / "vectors.csv", keep_default_na=False).set_index("image")["class"]
    assert known.to_dict() == {"p0": "odd", "p1": "even"} | {f"p{number}": "" for number in range(2, 6)}
    assert "Of 2 images" in (out / "report.html").read_text(encoding="utf-8")
    code, _, told = embed(cells / "along", "--out", out, "--labels", tmp_path / "none.csv")
    assert code == 2
    assert "none.csv: cannot be read as a CSV table" in told


def test_a_bad_image_does_not_stop_the_others_and_dark_ones_are_told(embed: Any, cells: Path, tmp_path: Path) -> None:
    plate = tmp_path / "plate"
    plate.mkdir()
    (plate / "a.tif").write_bytes((cells / "along" / "p0.tif").read_bytes())
    (plate / "b.tif").write_bytes(b"II*\0 cut")
    tifffile.imwrite(plate / "dark.tif", np.random.default_rng(0).integers(0, 4096, (30, 30)).astype(np.uint16))
    code, _, told = embed(plate, "--out", tmp_path / "out", "--format", "csv")
    assert code == 1
    assert "1 failed" in told
    images = pd.read_csv(tmp_path / "out" / "images.csv", keep_default_na=False).set_index("image")
    assert images.index.tolist() == ["a", "dark"]
    assert "nearly black to these weights; try --contrast percentile" in images["warnings"]["dark"]
    assert images["warnings"]["a"] == ""
    code, _, told = embed(plate / "dark.tif", "--out", tmp_path / "other", "--contrast", "percentile")
    assert (code, "nearly black" in told) == (0, False)


def test_ctrl_c_keeps_what_is_finished(embed: Any, cells: Path, tmp_path: Path, monkeypatch: Any) -> None:
    whole, calls = EmbedBatch.write_one, []

    def stops(self: EmbedBatch, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(self, *arguments)

    monkeypatch.setattr(EmbedBatch, "write_one", stops)
    out = tmp_path / "out"
    assert embed(cells / "along", "--out", out, "--format", "npy")[0] == 130
    assert len(np.load(out / "vectors.npy")) == 3
    assert embed(cells / "along", "--out", out, "--format", "npy")[0] == 0
    assert len(np.load(out / "vectors.npy")) == 6


def test_objects_and_frames_have_rows_of_their_own(embed: Any, cells: Path, model: Path, tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    field = np.zeros((60, 90), np.uint8)
    labels = np.zeros((60, 90), np.uint16)
    for label, (top, left) in enumerate([(2, 2), (32, 5), (30, 60)], 4):
        field[top : top + 24, left : left + 24] = tifffile.imread(cells / "along" / f"p{label}.tif") if label < 6 else 9
        labels[top : top + 24, left : left + 24] = label
    for name, mask in (("a", labels), ("b", np.zeros_like(labels)), ("c", np.where(labels == 5, 1, 0))):
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", field)
        tifffile.imwrite(tmp_path / "masks" / f"{name}_labels.tif", mask.astype(np.uint16))
    out = tmp_path / "out"
    code, printed, _ = embed(
        tmp_path / "images", "--objects", tmp_path / "masks", "--out", out, "--format", "npy", "--object-margin", "0"
    )
    assert code == 0
    assert "4 objects in 3 images" in printed
    index, vectors = pd.read_csv(out / "vectors.csv"), np.load(out / "vectors.npy")
    assert list(index) == ["image", "label"]
    assert index.to_numpy().tolist() == [["a", 4], ["a", 5], ["a", 6], ["c", 1]]
    np.testing.assert_allclose(vectors[1], vectors[3], rtol=1e-4, atol=1e-5)
    alone = abbe.embed(cells / "along" / "p4.tif", model, **PLAIN).to_numpy()[0]
    np.testing.assert_allclose(vectors[0], alone, rtol=1e-4, atol=1e-5)
    assert pd.read_csv(out / "images.csv")["count"].tolist() == [3, 0, 1]
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "c label 1: a label 5 (1.000)" in report
    stack = tmp_path / "stack.tif"
    tifffile.imwrite(stack, np.stack([field[:, :60], field[:, 30:]]), metadata={"axes": "ZYX"})
    assert embed(stack, "--z", "all", "--out", tmp_path / "planes", "--format", "csv")[0] == 0
    assert pd.read_csv(tmp_path / "planes" / "vectors.csv")["z"].tolist() == [0, 1]
    assert pd.read_csv(tmp_path / "planes" / "images.csv")["frames"].tolist() == [2]


def test_masks_without_any_object_have_a_report(embed: Any, cells: Path, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    tifffile.imwrite(tmp_path / "masks" / "p0_labels.tif", np.zeros((24, 24), np.uint8))
    out = tmp_path / "out"
    given = (cells / "along" / "p0.tif", "--objects", tmp_path / "masks", "--out", out, "--format", "npy")
    assert embed(*given)[0] == 0
    assert np.load(out / "vectors.npy").shape == (0, 32)
    assert "no object was found" in (out / "report.html").read_text(encoding="utf-8")
