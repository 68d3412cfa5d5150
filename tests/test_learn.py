"""From annotated images to a model file, by a recipe; and from a model to its scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from abbe.data.datasets import find_pairs
from abbe.data.volumes import varied_volumes, write_volumes
from abbe.errors import AbbeError
from abbe.evaluation import evaluate_model
from abbe.learn import describe, find_sources, simulate, starting_method, train_recipe, training_data
from abbe.model import Model, load_model
from abbe.settings import SegmentSettings
from abbe.train.recipe import load_recipe
from abbe.weights.file import read_description, read_model

Draw = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Path) -> Path:
    return tiny_recipe


@pytest.fixture(scope="module")
def trained(recipe: Path, annotated: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A training of a few steps: its run folder, and what it told."""
    told: list[str] = []
    run = tmp_path_factory.mktemp("runs") / "tiny"
    result = train_recipe(recipe, [annotated], out=run, tell=told.append)
    assert result.run == run
    assert result.model == run / "model.safetensors"
    assert len(result.fit.history) == 2
    return run, told


def test_a_training_leaves_a_model_that_describes_itself(trained: tuple[Path, list[str]], annotated: Path) -> None:
    run, told = trained
    description = read_description(run / "model.safetensors")
    assert (description.name, description.network, description.objective) == ("toy", "unet_residual_tiny", "instances")
    assert description.config["in_channels"] == 1
    assert description.options["prominence"] == 0.2
    assert description.normalization["kind"] == "minmax"
    assert description.diameter == (4.0, 60.0)
    assert description.licence == "CC0"
    assert description.data == ["discs (CC0)"]
    assert "map50_90" in description.metrics["validation"]
    assert str(annotated) in description.recipe
    assert any("training on 6 images, validating on 2" in line for line in told)


def test_the_model_file_holds_the_best_weights_and_works(trained: tuple[Path, list[str]], discs: Draw) -> None:
    run, _ = trained
    model = load_model(run)
    image, _ = discs(dtype="uint8")
    assert model.predict(image, SegmentSettings(device="cpu", precision="exact")).labels.shape == image.shape
    assert {"curves.png", "log.jsonl", "recipe.toml"} <= {path.name for path in run.iterdir()}


def test_training_can_start_from_a_model_and_refuses_one_that_does_not_fit(
    trained: tuple[Path, list[str]], recipe: Path, annotated: Path, tmp_path: Path
) -> None:
    run, _ = trained
    nothing = {"train.steps": "1", "train.learning_rate": "0", "train.weight_decay": "0", "train.ema_decay": "0"}
    again = train_recipe(recipe, [annotated], nothing | {"start_from": str(run)}, out=tmp_path / "again")
    before, after = (read_model(path)[0] for path in (run / "model.safetensors", again.model))
    weights = [name for name in before if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(before[name], after[name]) for name in weights)
    with pytest.raises(AbbeError, match="does not fit InstanceSegmentation"):
        changes = {"start_from": str(run), "network.widths": "[4, 4]"}
        train_recipe(recipe, [annotated], changes, out=tmp_path / "other")


@pytest.mark.parametrize("weights", ["[1, 2, 3]", "[1]", "[1, -1]", "[0, 0]"])
def test_weights_that_do_not_fit_the_folders_are_told(
    recipe: Path, annotated: Path, tmp_path: Path, weights: str
) -> None:
    with pytest.raises(
        AbbeError, match=r"recipe toy: data\.weights is \[.*\] for 2 folders; expected one number for each"
    ):
        train_recipe(recipe, [annotated, annotated], {"data.weights": weights}, out=tmp_path / "run")


def test_weights_of_a_recipe_are_of_its_own_folders(recipe: Path, annotated: Path, tmp_path: Path) -> None:
    path = tmp_path / "weighted.toml"
    path.write_text(
        recipe.read_text(encoding="utf-8").replace("[data]", "[data]\nweights = [1.0, 2.0]"), encoding="utf-8"
    )
    changes = {"train.steps": "1", "train.learning_rate": "0"}
    assert train_recipe(path, [annotated], changes, out=tmp_path / "run").model.exists()


def test_a_single_image_trains_without_validation(recipe: Path, discs: Draw, tmp_path: Path) -> None:
    image, labels = discs(dtype="uint8")
    tifffile.imwrite(tmp_path / "a.tif", image)
    tifffile.imwrite(tmp_path / "a_mask.tif", labels.astype(np.uint8))
    result = train_recipe(recipe, [tmp_path], {"train.steps": "1"}, out=tmp_path / "run")
    assert result.model.exists()


def test_mistakes_are_told_before_training_begins(recipe: Path, annotated: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    cases = {
        "names no data; say where the annotated images are with --data": ([], {}),
        "no such folder; --data takes a folder": ([tmp_path / "missing"], {}),
        "no pairs of image and labels": ([tmp_path / "empty"], {}),
        "no setting named 'epoch'; did you mean 'epochs'": ([annotated], {"train.epoch": "3"}),
        "no setting named 'prominance'; did you mean 'prominence'": ([annotated], {"options.prominance": "0.5"}),
        "no objective is called 'instance'": ([annotated], {"objective": "instance"}),
        "no network is called 'unet_residual_tini'; did you mean": ([annotated], {"method": "unet_residual_tini"}),
    }
    for words, (data, changes) in cases.items():
        with pytest.raises(AbbeError, match=words):
            train_recipe(recipe, data, changes, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_labels_that_are_not_labels_are_refused(recipe: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / f"{name}.tif", rng.integers(0, 255, (100, 100)).astype(np.uint8))
        tifffile.imwrite(tmp_path / f"{name}_mask.tif", rng.integers(0, 255, (100, 100)).astype(np.uint8))
    told: list[str] = []
    with pytest.raises(AbbeError, match="errors in the data, the first: .*labels that are not labels"):
        train_recipe(recipe, [tmp_path], out=tmp_path / "run", tell=told.append)
    assert any(line.startswith("error: ") for line in told)


def test_splits_of_the_folder_are_kept_and_otherwise_stable(recipe: Path, annotated: Path, tmp_path: Path) -> None:
    (source,) = find_sources(load_recipe(recipe, {"data.paths": [str(annotated)]}))
    assert {pair.split for pair in source.train} == {"train"}
    assert {pair.split for pair in source.validation} == {"val"}
    flat = load_recipe(recipe, {"data.paths": [str(annotated / "train")], "data.validation_fraction": "0.3"})
    first, again = (find_sources(flat)[0] for _ in range(2))
    assert first == again
    assert {pair.name for pair in first.train} & {pair.name for pair in first.validation} == set()
    assert len(first.train) + len(first.validation) == 6
    assert first.validation


def test_a_description_is_complete_before_training(recipe: Path) -> None:
    description = describe(load_recipe(recipe))
    assert set(description.config) == {"in_channels", "out_channels", "widths", "blocks", "detail"}
    assert description.config["out_channels"] == 2
    assert set(description.normalization) == {"kind", "low", "high", "joint", "offset", "scale"}


def test_a_model_in_memory_and_its_file_agree(trained: tuple[Path, list[str]], discs: Draw) -> None:
    model = load_model(trained[0])
    unsaved = Model(model.method, dataclasses.replace(model.description))
    assert unsaved.sha256 == ""
    chosen = SegmentSettings(device="cpu", precision="exact")
    image, _ = discs(dtype="uint8")
    assert np.array_equal(unsaved.predict(image, chosen).labels, model.predict(image, chosen).labels)


# ---------------------------------------------------------------------------------------------------------- stacks


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of simulated stacks with voxels of several proportions: train (3) and val (1)."""
    root = tmp_path_factory.mktemp("stacks")
    for seed, (split, number) in enumerate([("train", 3), ("val", 1)]):
        configs = varied_volumes(number, 20 + seed)
        write_volumes(root / split, {name: replace(c, shape=(10, 40, 44)) for name, c in configs.items()})
    return root


STACKS = {
    "train.epochs": "1",
    "train.steps_per_epoch": "2",
    "train.batch_size": "2",
    "train.crop": "8,16,16",
    "train.workers": "0",
    "method": "unet_3d_tiny",
    "train.accelerator": "cpu",
}


def test_stacks_train_a_model_that_takes_stacks(stacks: Path, tmp_path: Path) -> None:
    result = train_recipe("nuclei_3d", [stacks], STACKS, out=tmp_path / "run", from_scratch=True)
    description = read_description(result.model)
    assert description.axes == "CZYX"
    assert description.pixel_size == (1.0, 0.5, 0.5)
    assert "map50_90" in description.metrics["validation"]
    model = load_model(result.run)
    (pair,) = find_pairs(stacks / "val")
    found = model.predict(pair.image, SegmentSettings(device="cpu", precision="exact"))
    assert found.labels.shape == (10, 40, 44)
    evaluated = evaluate_model(model, stacks, "val")
    assert len(evaluated.images) == 1


def test_samples_come_at_the_voxel_of_the_model_and_crops_in_its_extents(stacks: Path) -> None:
    recipe = load_recipe("nuclei_3d", STACKS | {"data.paths": [str(stacks)], "start_from": None})
    method = starting_method(recipe, describe(recipe))
    data = training_data(recipe, method, find_sources(recipe))
    sample = data.samples[0]
    assert sample is data.samples[0]
    np.testing.assert_allclose(sample.pixel_size, (1.0, 0.5, 0.5), rtol=0.1)
    item = data[0]
    assert item["image"].shape == (1, 8, 16, 16)
    assert item["maps"].shape == (3, 8, 16, 16)


def test_crops_of_too_few_axes_are_told(stacks: Path, tmp_path: Path) -> None:
    with pytest.raises(AbbeError, match=r"train.crop: 2 extents \(16, 16\), but the network has 3 spatial axes"):
        train_recipe("nuclei_3d", [stacks], STACKS | {"train.crop": "16,16"}, out=tmp_path / "run", from_scratch=True)


def test_a_recipe_without_folders_simulates_its_data_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "abbe.learn.varied_volumes",
        lambda number, seed: {n: replace(c, shape=(8, 24, 24)) for n, c in varied_volumes(number, seed).items()},
    )
    told: list[str] = []
    recipe = load_recipe("nuclei_3d", {"data.simulated": {"train": 2, "val": 1, "seed": 3}})
    folders = simulate(recipe, tmp_path, told.append)
    (source,) = find_sources(recipe, folders)
    assert [len(source.train), len(source.validation)] == [2, 1]
    assert len(told) == 2
    assert simulate(recipe, tmp_path, told.append) == folders
    assert len(told) == 2
    with pytest.raises(AbbeError, match=r"data.simulated is .*; expected numbers for train, val and seed"):
        simulate(load_recipe("nuclei_3d", {"data.simulated": {"tran": 2}}), tmp_path, told.append)
    assert simulate(load_recipe("nuclei_3d", {"data.paths": ["mine"]}), tmp_path, told.append) == ["mine"]
