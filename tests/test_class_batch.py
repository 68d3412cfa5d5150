"""`abbe classify` as people type it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

from abbe.class_batch import ClassBatch
from abbe.cli.main import main


@pytest.fixture
def classify(texture_run: Path, textures: Any, tmp_path: Path, capsys: Any, monkeypatch: Any) -> Callable[..., Any]:
    monkeypatch.setenv("COLUMNS", "200")

    def call(*words: Any) -> tuple[int, str, str]:
        given = [str(word) for word in words]
        with pytest.raises(SystemExit) as ended:
            main(["classify", *given, "--model", str(texture_run), "--device", "cpu", "--precision", "exact"])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return int(ended.value.code or 0), printed.out, printed.err

    return call


def test_folders_of_classes_are_classified_and_compared(
    classify: Callable[..., Any], texture_folder: Path, textures: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, printed, _ = classify(texture_folder, "--out", out)
    assert code == 0
    assert "36 images" in printed
    table = pd.read_csv(out / "images.csv")
    assert list(table) == ["image", "truth", "class", "probability", "p_coarse", "p_fine", "p_smooth"]
    assert (table["truth"] == table["image"].str.split("/").str[0]).all()
    assert table.filter(like="p_").sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-4)
    report = (out / "report.html").read_text(encoding="utf-8")
    for part in ("Agreement with the known classes", "Reliability", "True class by row", "Least sure"):
        assert part in report
    assert (out / "contact_sheet.png").stat().st_size > 1000
    before = (out / "images.csv").read_bytes()
    code, printed, told = classify(texture_folder, "--out", out)
    assert code == 0
    assert told.count("done already") == 36
    assert (out / "images.csv").read_bytes() == before


def test_a_bad_image_is_told_and_does_not_stop_the_others(
    classify: Callable[..., Any], texture_folder: Path, tmp_path: Path
) -> None:
    data = tmp_path / "plate"
    data.mkdir()
    (data / "a.tif").write_bytes((texture_folder / "fine" / "g0_0.tif").read_bytes())
    (data / "b.tif").write_bytes(b"II*\0 cut")
    code, _, told = classify(data, "--out", tmp_path / "out")
    assert code == 1
    assert "1 failed" in told
    table = pd.read_csv(tmp_path / "out" / "images.csv")
    assert table["image"].tolist() == ["a"]
    assert "truth" not in table  # the folder is called like no class
    assert "Agreement" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_known_classes_come_from_a_table(classify: Callable[..., Any], texture_folder: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("image,class\ng0_0.tif,fine\ng0_1,smooth\n", encoding="utf-8")
    code, *_ = classify(texture_folder / "fine", "--out", tmp_path / "out", "--labels", labels)
    assert code == 0
    table = pd.read_csv(tmp_path / "out" / "images.csv", keep_default_na=False).set_index("image")
    assert table["truth"].to_dict() | {"g0_0": "fine", "g0_1": "smooth"} == table["truth"].to_dict()
    assert (table["truth"] == "").sum() == 10
    labels.write_text("image,class\ng0_0.tif,velvet\n", encoding="utf-8")
    code, _, told = classify(texture_folder / "fine", "--out", tmp_path / "other", "--labels", labels)
    assert code == 2
    assert "labels.csv: classes that the model lacks: velvet; it knows coarse, fine, smooth" in told


def test_ctrl_c_keeps_what_is_finished(
    classify: Callable[..., Any], texture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = ClassBatch.write_one, []

    def stops(self: ClassBatch, *arguments: Any) -> dict[str, Any]:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(self, *arguments)

    monkeypatch.setattr(ClassBatch, "write_one", stops)
    code, *_ = classify(texture_folder / "fine", "--out", tmp_path / "out")
    assert code == 130
    assert len(pd.read_csv(tmp_path / "out" / "images.csv")) == 3
    code, *_ = classify(texture_folder / "fine", "--out", tmp_path / "out")
    assert code == 0
    assert len(pd.read_csv(tmp_path / "out" / "images.csv")) == 12


def test_objects_of_masks_are_classified(classify: Callable[..., Any], textures: Any, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    image, labels = np.zeros((80, 120), np.uint8), np.zeros((80, 120), np.uint16)
    for n, (y, x) in enumerate(np.ndindex(2, 3)):
        place = slice(y * 40 + 8, y * 40 + 32), slice(x * 40 + 8, x * 40 + 32)
        image[place], labels[place] = textures.draw(textures.CLASSES[n % 3], generator), n + 1
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    tifffile.imwrite(tmp_path / "images" / "a.tif", image)
    tifffile.imwrite(tmp_path / "images" / "b.tif", image)
    tifffile.imwrite(tmp_path / "masks" / "a_labels.tif", labels)
    known = tmp_path / "known.csv"
    known.write_text("image,label,class\na.tif,1,coarse\na.tif,2,fine\n", encoding="utf-8")
    out = tmp_path / "out"
    code, printed, told = classify(
        tmp_path / "images", "--objects", tmp_path / "masks", "--labels", known, "--out", out, "--object-margin", "0"
    )
    assert code == 1  # b has no mask
    assert "b.tif: no mask in" in told
    assert "6 objects in 1 image" in printed
    table = pd.read_csv(out / "objects.csv")
    assert table["label"].tolist() == [1, 2, 3, 4, 5, 6]
    assert {"area", "mean_intensity", "class", "probability", "p_coarse"} <= set(table)
    assert (out / "a_classes.png").exists()
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "2 objects with a known class" in report
    assert "Objects by class" in report


def test_classes_without_names_are_told_first_and_in_the_report(
    backbone_file: Callable[..., Path], texture_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    model = backbone_file("resnet_tiny", 32, name="bare")
    words = ["classify", str(texture_folder / "fine"), "--model", str(model), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--device", "cpu", "--precision", "exact"])
    told = capsys.readouterr().err
    assert not ended.value.code
    assert " ".join(told.split()).startswith(
        "model 'bare' does not name its 3 classes; they are called by their numbers, from 'class 0' to 'class 2'"
    )
    assert "does not name its 3 classes" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert set(pd.read_csv(tmp_path / "out" / "images.csv")["class"]) <= {"class 0", "class 1", "class 2"}
