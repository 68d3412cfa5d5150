"""Many images at once: the results, failures and order of one after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile

import abbe
from abbe.batch import Outputs
from abbe.classification import Classifier
from abbe.folders import classify_files, embed_files
from abbe.model import load_model
from abbe.settings import ClassifySettings, EmbedSettings
from abbe.tiling.prepare import Predictor
from abbe.views import Views, views_of

PLAIN: dict[str, Any] = {"device": "cpu", "precision": "exact"}
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def model(backbone_file: Write) -> Path:
    return backbone_file("resnet_tiny", 32, name="mirror")


@pytest.fixture
def plate(tmp_path: Path) -> Path:
    """Seventy pictures of many sizes, one of them a stack, two that cannot be read."""
    folder, generator = tmp_path / "plate", np.random.default_rng(0)
    folder.mkdir()
    for number in range(70):
        shape = tuple(generator.integers(20, 60, 2))
        tifffile.imwrite(folder / f"p{number:02d}.tif", generator.integers(0, 255, shape).astype(np.uint8))
    stack = generator.integers(0, 255, (40, 24, 24)).astype(np.uint8)
    tifffile.imwrite(folder / "p33.tif", stack, imagej=True, metadata={"axes": "ZYX"})
    for name in ("p05.tif", "p69.tif"):
        (folder / name).write_bytes(b"II*\0 cut")
    return folder


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures went through the network at a time."""
    sizes: list[int] = []
    whole = Predictor.__call__

    def call(self: Predictor, windows: np.ndarray) -> Any:
        sizes.append(len(windows))
        return whole(self, windows)

    monkeypatch.setattr(Predictor, "__call__", call)
    return sizes


def test_classes_are_those_of_each_image_alone(plate: Path, model: Path, counted: list[int], tmp_path: Path) -> None:
    told: list[str] = []
    settings = ClassifySettings(z="all", **PLAIN)
    result = classify_files([plate], Outputs(tmp_path / "out"), model, settings, tell=told.append)
    assert sorted(Path(name).name for name, _ in result.failures) == ["p05.tif", "p69.tif"]
    lines = [line for line in told if line.startswith("[")]
    assert [int(line[1:].split("/")[0]) for line in lines] == list(range(1, 71))
    assert all(f"p{number:02d}.tif" in line for number, line in enumerate(lines))
    assert len(counted) < 8  # of 67 images and 40 planes
    assert max(counted) <= 2 * views_of(load_model(model)).together
    table = pd.read_csv(tmp_path / "out" / "images.csv")
    assert (table["image"] == "p33").sum() == 40
    for name, rows in table.groupby("image"):
        alone = abbe.classify(plate / f"{name}.tif", model, z="all", **PLAIN)
        assert rows["class"].tolist() == alone["class"].tolist()
        np.testing.assert_allclose(rows.filter(like="p_"), alone.filter(like="p_"), atol=1e-5)


def test_vectors_are_those_of_each_image_alone(plate: Path, model: Path, counted: list[int], tmp_path: Path) -> None:
    settings = EmbedSettings(z="all", **PLAIN)
    embed_files([plate], Outputs(tmp_path / "out"), model, settings, format="npy", tell=lambda line: None)
    assert len(counted) == 5  # of 67 images, and of 40 planes
    index, vectors = pd.read_csv(tmp_path / "out" / "vectors.csv"), np.load(tmp_path / "out" / "vectors.npy")
    assert len(index) == 107
    for name in ("p00", "p31", "p33", "p68"):
        alone = abbe.embed(plate / f"{name}.tif", model, z="all", **PLAIN).to_numpy()
        np.testing.assert_allclose(vectors[index["image"] == name], alone, atol=1e-5 * np.abs(alone).max())


def test_images_are_read_while_others_are_computed(
    plate: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: set[int] = set()
    whole = Views.picture

    def picture(self: Views, frame: Any) -> np.ndarray:
        readers.add(threading.get_ident())
        return whole(self, frame)

    monkeypatch.setattr(Views, "picture", picture)
    settings = ClassifySettings(z=0, **PLAIN)
    classify_files([plate], Outputs(tmp_path / "out"), model, settings, tell=lambda line: None)
    assert len(readers) == 1
    assert threading.get_ident() not in readers


def test_a_batch_that_fails_is_done_one_by_one(
    plate: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Classifier.told

    def told(self: Classifier, pictures: np.ndarray, settings: ClassifySettings) -> np.ndarray:
        if len(pictures) > 1:
            raise RuntimeError("too many")
        return whole(self, pictures, settings)

    monkeypatch.setattr(Classifier, "told", told)
    settings = ClassifySettings(z=0, **PLAIN)
    result = classify_files([plate], Outputs(tmp_path / "out"), model, settings, tell=lambda line: None)
    assert len(result.images) == 68
    assert len(result.failures) == 2


def test_large_pictures_are_fewer_at_a_time(model: Path) -> None:
    sizes = [views_of(load_model(model), ClassifySettings(size=side)).together for side in (32, 256, 512, 4096)]
    assert sizes == [32, 32, 8, 1]


def test_what_is_done_is_not_read_again(
    plate: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    whole = Views.picture

    def picture(self: Views, frame: Any) -> np.ndarray:
        read.append(frame.name)
        return whole(self, frame)

    monkeypatch.setattr(Views, "picture", picture)
    settings = ClassifySettings(z=0, **PLAIN)
    for expected, skipped in ((68, 0), (0, 68)):
        read.clear()
        result = classify_files([plate], Outputs(tmp_path / "out"), model, settings, tell=lambda line: None)
        assert (len(read), result.skipped) == (expected, skipped)
