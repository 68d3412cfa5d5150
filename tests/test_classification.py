"""A classifier on images and on the objects in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import abbe
from abbe.classification import Classifier
from abbe.data.class_samples import read_picture
from abbe.data.image import Image
from abbe.data.squares import square
from abbe.errors import AbbeError
from abbe.model import Model, load_model
from abbe.settings import ClassifySettings

PLAIN: dict[str, Any] = {"device": "cpu", "precision": "exact"}


@pytest.fixture(scope="module")
def classifier(texture_run: Path, textures: Any) -> Classifier:
    return Classifier(load_model(texture_run))


@pytest.fixture(scope="module")
def tiled(textures: Any) -> tuple[np.ndarray, np.ndarray]:
    """A picture of 12 squares, each of a texture on dark ground, and their labels."""
    generator = np.random.default_rng(5)
    image, labels = np.zeros((120, 160), np.uint8), np.zeros((120, 160), np.int32)
    for n, (y, x) in enumerate(np.ndindex(3, 4)):
        place = slice(y * 40 + 8, y * 40 + 32), slice(x * 40 + 8, x * 40 + 32)
        image[place] = textures.draw(textures.CLASSES[n % 3], generator, 24)
        labels[place] = n + 1
    return image, labels


def test_pictures_are_seen_as_in_training(classifier: Classifier, texture_folder: Path) -> None:
    path = texture_folder / "fine" / "g0_1.tif"
    seen = classifier.picture(abbe.read(path).planar())
    trained = square(read_picture(path, classifier.views().normalization.normalize, 1), 24, "crop")
    assert np.allclose(seen, trained, atol=1e-6)


def test_the_class_of_an_image_and_of_every_frame(texture_run: Path, texture_folder: Path, textures: Any) -> None:
    table = abbe.classify(texture_folder / "smooth" / "g1_0.tif", texture_run, **PLAIN)
    assert list(table) == ["class", "probability", "p_coarse", "p_fine", "p_smooth"]
    assert len(table) == 1
    stack = np.stack([textures.draw("fine", np.random.default_rng(n)) for n in range(3)])
    frames = abbe.classify(stack, texture_run, axes="ZYX", z="all", **PLAIN)
    assert frames["z"].tolist() == [0, 1, 2]
    with pytest.raises(AbbeError, match="--z"):
        abbe.classify(stack, texture_run, axes="ZYX")


def test_objects_are_told_as_their_pictures_alone_would_be(
    classifier: Classifier, tiled: tuple[np.ndarray, np.ndarray]
) -> None:
    image, labels = tiled
    frame = Image(image[None], "CYX", name="tiled")
    tight = ClassifySettings(**PLAIN, object_margin=0.0)
    numbers, table = classifier.objects(frame, labels, tight)
    assert numbers.tolist() == list(range(1, 13))
    for number, row in zip(numbers, table.to_dict("records"), strict=True):
        rows, columns = np.nonzero(labels == number)
        alone = Image(image[None, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1], "CYX")
        (expected,) = classifier.probabilities([classifier.picture(alone)], tight)
        assert [row[f"p_{name}"] for name in classifier.classes] == pytest.approx(expected.tolist(), abs=1e-5)


def test_classes_join_the_measurements(texture_run: Path, tiled: tuple[np.ndarray, np.ndarray]) -> None:
    image, labels = tiled
    labels = np.where(labels == 4, 0, labels)  # numbers with a gap
    table = abbe.classify(image, texture_run, objects=labels, **PLAIN, object_margin=0.0)
    assert table["label"].tolist() == [n for n in range(1, 13) if n != 4]
    assert {"area", "class", "probability", "p_fine"} <= set(table)
    assert (table["area"] == 24 * 24).all()
    fixed = abbe.classify(image, texture_run, objects=labels, **PLAIN, object_side=24)
    assert fixed["p_fine"].tolist() == pytest.approx(table["p_fine"].tolist(), abs=1e-5)
    nothing = abbe.classify(image, texture_run, objects=np.zeros_like(labels), **PLAIN)
    assert len(nothing) == 0
    assert "class" in nothing
    with pytest.raises(AbbeError, match="squares of side 0"):
        abbe.classify(image, texture_run, objects=labels, object_side=0)
    with pytest.raises(AbbeError, match="classes are told of planes; choose with --z"):
        solid = np.stack([labels, labels])
        abbe.classify(np.stack([image, image]), texture_run, objects=abbe.read(solid, axes="ZYX"), axes="ZYX", **PLAIN)


def test_models_of_the_other_kind_are_refused(bright: Model, classifier: Classifier, texture_folder: Path) -> None:
    with pytest.raises(
        AbbeError, match="model 'bright' finds objects and tells no classes; use it with `abbe segment`"
    ):
        Classifier(bright)
    with pytest.raises(
        AbbeError, match="model 'textures' tells classes and finds no objects; use it with `abbe classify`"
    ):
        abbe.segment(texture_folder / "fine" / "g0_0.tif", classifier.model)


def test_channels_that_do_not_fit_are_told(classifier: Classifier, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((5, 30, 30), np.uint16), imagej=True, metadata={"axes": "CYX"})
    with pytest.raises(AbbeError, match=r"5 channels, but the model takes 1 or 3 channels; choose one with --channel"):
        abbe.classify(tmp_path / "x.tif", classifier.model)
    assert len(abbe.classify(tmp_path / "x.tif", classifier.model, channel=2, **PLAIN)) == 1
