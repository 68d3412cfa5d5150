"""From folders of classes to a calibrated classifier."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import abbe
from abbe.errors import AbbeError
from abbe.learn import train_recipe
from abbe.learn_classes import find_class_source
from abbe.methods.backbones import resnet
from abbe.model import load_model
from abbe.train.recipe import load_recipe
from abbe.weights.file import read_description
from abbe.weights.tables import resnet as resnet_tables

SHORT = {"train.epochs": "1", "train.steps_per_epoch": "2"}


@pytest.fixture
def recipe(textures: Any, tmp_path: Path) -> Path:
    path = tmp_path / "textures.toml"
    path.write_text(textures.RECIPE, encoding="utf-8")
    return path


def test_a_training_leaves_a_classifier_that_knows_its_classes(texture_run: Path, textures: Any) -> None:
    description = read_description(texture_run / "model.safetensors")
    options = description.options
    assert tuple(options["classes"]) == textures.CLASSES
    assert options["size"] == 24
    assert options["class_weights"] == [1.0, 1.0, 1.0]
    assert options["temperature"] != 1.0
    measured = description.metrics["validation"]
    assert measured["balanced_accuracy"] > 0.6
    assert set(measured) == {"top1", "balanced_accuracy", "calibration_error", "calibration_error_before", "nll"}
    assert load_model(texture_run).method.options.temperature == options["temperature"]


def test_evaluation_scores_folders_and_refuses_classes_that_the_model_lacks(
    texture_run: Path, texture_folder: Path, textures: Any, tmp_path: Path
) -> None:
    result = abbe.evaluate(texture_run, texture_folder, device="cpu", precision="exact")
    assert len(result.images) == 36
    assert result.images["p_truth"].is_monotonic_increasing
    low, high = result.intervals["balanced_accuracy"]
    assert low <= result.scores["balanced_accuracy"] <= high
    wide = abbe.evaluate(texture_run, texture_folder, groups="_", device="cpu", precision="exact")
    assert wide.scores == result.scores
    assert wide.intervals != result.intervals  # four groups are drawn, not 36 images
    textures.write_folders(tmp_path / "other", {"fine": 2})
    (tmp_path / "other" / "fine").rename(tmp_path / "other" / "rough")
    with pytest.raises(AbbeError, match="classes that the model lacks: rough; it knows coarse, fine, smooth"):
        abbe.evaluate(texture_run, tmp_path / "other")


def test_every_way_to_change_and_mix_pictures_trains(recipe: Path, texture_folder: Path, tmp_path: Path) -> None:
    changes = {
        "options.mixup": "0.2",
        "options.cutmix": "1.0",
        "options.mix_probability": "0.5",
        "data.augment.randaugment_operations": "2",
        "data.augment.erase_probability": "0.5",
        "data.class_balance": "0.5",
        "train.layer_decay": "0.8",
        "options.fit": "pad",
        "data.folds": "4",
        "data.fold": "3",
    }
    told: list[str] = []
    result = train_recipe(recipe, [texture_folder], SHORT | changes, out=tmp_path / "run", tell=told.append)
    assert result.verb == "classify"
    assert "training on 27 images, validating on 9" in told
    assert read_description(result.model).options["fit"] == "pad"
    again = train_recipe(recipe, [texture_folder], SHORT | changes, out=tmp_path / "again")
    one, other = (load_model(run.run).method.state_dict() for run in (result, again))  # type: ignore[attr-defined]
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("dtype", "channels"), [("uint16", 1), ("uint16", 5)])
def test_grey_of_16_bits_and_many_channels_train(
    recipe: Path, textures: Any, tmp_path: Path, dtype: str, channels: int
) -> None:
    data = textures.write_folders(tmp_path / "data", dict.fromkeys(textures.CLASSES, 6), 1, dtype, channels)
    changes = SHORT | {"data.in_channels": str(channels), "network.width": "4"}
    result = train_recipe(recipe, [data], changes, out=tmp_path / "run")
    table = abbe.classify(data / "fine" / "g0_0.tif", result.run, device="cpu", precision="exact")
    assert table.filter(like="p_").to_numpy().sum() == pytest.approx(1, abs=1e-4)


def test_training_goes_on_from_a_classifier_of_other_classes(
    texture_run: Path, texture_folder: Path, recipe: Path, textures: Any, tmp_path: Path
) -> None:
    still = SHORT | {"train.learning_rate": "0", "train.weight_decay": "0", "start_from": str(texture_run)}
    before = load_model(texture_run).method.state_dict()  # type: ignore[attr-defined]
    same = train_recipe(recipe, [texture_folder], still, out=tmp_path / "same")
    after = load_model(same.run).method.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(before[name], after[name]) for name in before)
    two = textures.write_folders(tmp_path / "two", {"coarse": 6, "fine": 6})
    (two / "smooth").rmdir()
    told: list[str] = []
    other = train_recipe(recipe, [two], still, out=tmp_path / "other", tell=told.append)
    assert any("has 3 classes, the folders 2 others" in line for line in told)
    after = load_model(other.run).method.state_dict()  # type: ignore[attr-defined]
    assert torch.equal(before["network.stem.weight"], after["network.stem.weight"])
    assert after["network.head.weight"].shape == (2, 8)


def test_mistakes_are_told_before_training_begins(recipe: Path, textures: Any, tmp_path: Path) -> None:
    good = textures.write_folders(tmp_path / "good", dict.fromkeys(textures.CLASSES, 6))
    hollow = textures.write_folders(tmp_path / "hollow", {"fine": 6, "smooth": 6})
    single = textures.write_folders(tmp_path / "single", {"fine": 6})
    (single / "coarse").rmdir(), (single / "smooth").rmdir()
    leaky = tmp_path / "leaky"
    for split in ("train", "val"):
        textures.write_folders(leaky / split, dict.fromkeys(textures.CLASSES, 3))
    (tmp_path / "nothing").mkdir()
    cases: list[tuple[str, list[Path], dict[str, str]]] = [
        ("names no data; say where the folders of classes are", [], {}),
        ("no such folder", [tmp_path / "missing"], {}),
        ("no folders of classes with images", [tmp_path / "nothing"], {}),
        ("1 class folder without an image: coarse", [hollow], {}),
        ("one class only, 'fine'", [single], {}),
        ("the same image in train and val, so the score would be too good", [leaky], {"data.groups": ""}),
        (
            "options.classes is a, b, but the folders are coarse, fine, smooth",
            [good],
            {"options.classes": "['a', 'b']"},
        ),
        (r"data.fold is 4 of 4 folds", [good], {"data.folds": "4", "data.fold": "4", "data.groups": ""}),
        ("9 folds of 2 groups", [good], {"data.folds": "9"}),
        ("expected one side, the square that the classifier takes", [good], {"train.crop": "24,20"}),
        ("expected above 0 and at most 1", [good], {"train.layer_decay": "0"}),
    ]
    for words, data, changes in cases:
        with pytest.raises(AbbeError, match=words):
            train_recipe(recipe, data, changes, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("method", "crop", "why"),
    [
        ("convnext_test_tiny", 16, "below the last stage's stride of 32"),
        ("vit_patch4_tiny", 18, "not multiples of the patch"),
        ("alexnet_tiny", 56, "below 67"),
    ],
)
def test_a_picture_that_the_network_cannot_take_is_told_before_training(
    method: str, crop: int, why: str, recipe: Path, textures: Any, tmp_path: Path
) -> None:
    data = textures.write_folders(tmp_path / "data", dict.fromkeys(textures.CLASSES, 6))
    changes = SHORT | {"method": method, "train.crop": str(crop)}
    words = rf"{method} takes no pictures of {crop} px \(.*{why}.*\); choose another side with --train.crop"
    with pytest.raises(AbbeError, match=words):
        train_recipe(recipe, [data], changes, out=tmp_path / "run")
    with pytest.raises(AbbeError, match=r"no vit_patch4_tiny can be built .*18 pixels is not a whole number"):
        train_recipe(recipe, [data], SHORT | {"method": "vit_patch4_tiny", "network.image_size": "18"})
    assert not (tmp_path / "run").exists()


def test_an_image_to_train_on_that_is_in_test_too_is_told(recipe: Path, textures: Any, tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "test")):
        textures.write_folders(tmp_path / split, dict.fromkeys(textures.CLASSES, 6), seed)
    told: list[str] = []
    source = load_recipe(recipe, {"data.paths": [str(tmp_path)]})
    find_class_source(source, None, told.append)
    assert not any("the same image" in line for line in told)
    copied = (tmp_path / "train" / "fine" / "g0_0.tif").read_bytes()
    (tmp_path / "test" / "fine" / "copy.tif").write_bytes(copied)
    find_class_source(source, None, told.append)
    assert any(line.startswith("warning: the same image in train and test") and "copy.tif" in line for line in told)


def test_what_is_odd_about_test_is_told_and_trained_all_the_same(recipe: Path, textures: Any, tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "test")):
        textures.write_folders(tmp_path / split, dict.fromkeys(textures.CLASSES, 6), seed)
    (tmp_path / "test" / "fine" / "bad.png").write_bytes(b"no image")
    (tmp_path / "test" / "smooth").rename(tmp_path / "test" / "rough")
    told: list[str] = []
    find_class_source(load_recipe(recipe, {"data.paths": [str(tmp_path)]}), None, told.append)
    assert any(line.startswith("warning: in test: ") and "bad.png" in line for line in told)
    assert "warning: a class in test only, which no model will know: rough" in told


def test_equal_images_are_kept_together_where_we_divide(recipe: Path, textures: Any, tmp_path: Path) -> None:
    for place in ("one", "two"):
        textures.write_folders(tmp_path / place, dict.fromkeys(textures.CLASSES, 9))  # the same images twice
    both = load_recipe(recipe, {"data.groups": "", "data.paths": [str(tmp_path / "one"), str(tmp_path / "two")]})
    told: list[str] = []
    source = find_class_source(both, None, told.append)
    assert source.classes == textures.CLASSES
    assert {one.image.name for one in source.train} | {one.image.name for one in source.validation}
    seen = [{(one.kind, one.image.name) for one in part} for part in (source.train, source.validation)]
    assert not seen[0] & seen[1]
    assert any(line.startswith("warning: the same image more than once") for line in told)
    assert np.isclose(len(source.validation) / 54, 0.34, atol=0.1)


def test_training_starts_from_published_weights(recipe: Path, textures: Any, tmp_path: Path) -> None:
    tiny = resnet.VARIANTS["resnet_tiny"]
    torch.manual_seed(3)
    published = resnet.build(tiny)
    torch.save(resnet_tables.LAYOUTS[0].to_theirs(published.state_dict(), asdict(tiny)), tmp_path / "theirs.pth")
    data = textures.write_folders(tmp_path / "data", dict.fromkeys(textures.CLASSES, 6))
    still = {"train.learning_rate": "0", "train.weight_decay": "0", "train.ema_decay": "0", "train.layer_decay": "0.9"}
    changes = SHORT | still | {"method": "resnet_tiny", "data.in_channels": "3", "train.crop": "32"}
    result = train_recipe(recipe, [data], changes | {"start_from": str(tmp_path / "theirs.pth")}, out=tmp_path / "run")
    trained = load_model(result.run).method.network.state_dict()  # type: ignore[attr-defined]
    kernels = {name: weight for name, weight in published.state_dict().items() if weight.ndim == 4}
    assert all(torch.equal(trained[name], weight) for name, weight in kernels.items())
    assert {len(weight) for name, weight in trained.items() if weight.ndim == 2} == {3}  # a last layer of our classes
    with pytest.raises(AbbeError, match=r"nowhere\.pth"):
        train_recipe(recipe, [data], changes | {"start_from": "nowhere.pth"}, out=tmp_path / "other")
