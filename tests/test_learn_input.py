"""A training that starts from another model sees images as that one saw them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import abbe
from abbe.classification import Classifier
from abbe.data.normalize import Colours, Normalization
from abbe.data.sample import Sample
from abbe.errors import AbbeError
from abbe.learn import train_recipe
from abbe.learn_classes import class_samples, find_class_source, settle_options
from abbe.learn_input import Coloured, described_start, settle_input
from abbe.methods.backbones.classification import Classification, ClassificationOptions
from abbe.model import load_model
from abbe.train.recipe import Recipe, load_recipe
from abbe.weights.file import read_description

COLOURS = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3], "size": 32}
SHORT = {"train.epochs": "1", "train.steps_per_epoch": "1", "train.crop": "32", "data.in_channels": "3"}
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def published(backbone_file: Write) -> Path:
    return backbone_file("resnet_tiny", 32, colours=COLOURS)


@pytest.fixture
def recipe(textures: Any, tmp_path: Path) -> Path:
    """A recipe that says nothing of the normalisation."""
    path = tmp_path / "textures.toml"
    text = textures.RECIPE.replace('[data.normalization]\nkind = "minmax"\n', "")
    path.write_text(text.replace("toy_classifier", "resnet_tiny"), encoding="utf-8")
    return path


def loaded(recipe: Path, start: Path | str, **changes: Any) -> Recipe:
    return load_recipe(recipe, SHORT | {"start_from": str(start)} | changes)


def test_the_starts_normalisation_is_taken_and_said(recipe: Path, published: Path) -> None:
    told: list[str] = []
    chosen = loaded(recipe, published)
    assert settle_input(chosen, told.append) == {"mean": COLOURS["mean"], "std": COLOURS["std"]}
    assert chosen.data.normalization == {"kind": "range"}
    assert told == [
        f"grey values are scaled as for {published}: range, then less 0.5, 0.4, 0.3 and over 0.2, 0.25, 0.3 per channel"
    ]
    again: list[str] = []  # as the recipe in the run's folder says it
    assert settle_input(chosen, again.append) == {"mean": COLOURS["mean"], "std": COLOURS["std"]}
    assert again == []


def test_a_recipe_that_says_otherwise_is_kept_and_warned(recipe: Path, published: Path) -> None:
    told: list[str] = []
    chosen = loaded(recipe, published, **{"data.normalization.kind": "minmax"})
    assert settle_input(chosen, told.append) == {}
    assert chosen.data.normalization == {"kind": "minmax"}
    assert len(told) == 1
    assert told[0].startswith(f"warning: {published} saw grey values scaled by range, then less 0.5")
    assert "the recipe's data.normalization is minmax" in told[0]


def test_settings_that_change_nothing_are_no_difference(recipe: Path, backbone_file: Write) -> None:
    start = backbone_file("resnet_tiny", 32, normalization=asdict(Normalization("minmax", low=3.0)))
    told: list[str] = []
    settle_input(loaded(recipe, start, **{"data.normalization.kind": "minmax"}), told.append)
    assert told == []


def test_nothing_is_said_without_a_start_or_where_nothing_is_known(recipe: Path, backbone_file: Write) -> None:
    for start in ("", str(backbone_file("resnet_tiny", 32, normalization={}))):
        chosen = load_recipe(recipe, SHORT | ({"start_from": start} if start else {}))
        assert settle_input(chosen, pytest.fail) == {}
        assert chosen.data.normalization == {}


def test_published_files_are_known_by_their_names(recipe: Path, tmp_path: Path) -> None:
    start = tmp_path / "resnet18-f37072fd.pth"
    start.write_bytes(b"\x80")
    chosen = loaded(recipe, start, method="resnet18", **{"data.in_channels": "1"})
    found = described_start(chosen)
    assert found is not None
    assert found.colours["mean"] == [pytest.approx(np.mean([0.485, 0.456, 0.406]))]
    assert described_start(loaded(recipe, tmp_path / "unheard.pth")) is None


def test_starts_that_cannot_fit_are_told(recipe: Path, published: Path) -> None:
    with pytest.raises(AbbeError, match="a 'resnet_tiny', but recipe textures trains a 'convnext_tiny'"):
        settle_input(loaded(recipe, published, method="convnext_tiny"), pytest.fail)
    with pytest.raises(AbbeError, match="a 'resnet_tiny', but recipe textures trains a 'resnet18'"):
        settle_input(loaded(recipe, published, method="resnet18"), pytest.fail)
    with pytest.raises(AbbeError, match=r"takes 3 channels, but recipe textures gives 1; --data.in_channels 3"):
        settle_input(loaded(recipe, published, **{"data.in_channels": "1"}), pytest.fail)


def test_mean_and_deviation_come_after_the_changes_of_grey_values() -> None:
    colours = Colours((0.5, 0.4), (0.2, 0.1))
    image = np.random.default_rng(0).random((2, 4, 5), np.float32)
    prepare = Coloured(lambda sample, generator: {"image": sample.image}, colours)  # type: ignore[dict-item]
    found = prepare(Sample(image), np.random.default_rng(0))["image"]
    np.testing.assert_allclose(found[1], (image[1] - 0.4) / 0.1, rtol=1e-5)
    assert Colours().apply(image) is image


def test_the_trained_model_sees_what_the_training_saw(
    recipe: Path, published: Path, textures: Any, texture_folder: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    changes = SHORT | {"start_from": str(published)}
    run = train_recipe(recipe, [texture_folder], changes, out=tmp_path / "run", tell=told.append).run
    assert sum("grey values are scaled as for" in line for line in told) == 1
    description = read_description(run / "model.safetensors")
    assert description.normalization["kind"] == "range"
    assert description.colours == {"mean": COLOURS["mean"], "std": COLOURS["std"]}
    chosen = load_recipe(recipe, changes | {"data.paths": [str(texture_folder)]})
    source = find_class_source(chosen, None, lambda line: None)
    settle_options(chosen, source)
    settle_input(chosen, lambda line: None)
    options = ClassificationOptions(classes=source.classes, size=32)
    one = source.validation[0]
    samples = class_samples(chosen, Classification(load_model(run).method.network, options), [one])  # type: ignore[attr-defined]
    trained = Colours(tuple(COLOURS["mean"]), tuple(COLOURS["std"])).apply(samples[0].image)  # type: ignore[arg-type]
    seen = Classifier(load_model(run)).picture(abbe.read(one.image).planar())
    np.testing.assert_allclose(seen, trained[:, :32, :32], atol=1e-5)
    further = load_recipe(recipe, SHORT | {"start_from": str(run)})
    assert settle_input(further, told.append) == {"mean": COLOURS["mean"], "std": COLOURS["std"]}
