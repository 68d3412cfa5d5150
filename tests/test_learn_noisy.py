"""Noise2Void and its followers through the verb of training."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from abbe.api import load, restore, train
from abbe.batch import Outputs
from abbe.data.read import read
from abbe.data.select import Series
from abbe.errors import AbbeError
from abbe.folders import restore_files
from abbe.learn import describe, noisy_lesson
from abbe.learn_noisy import find_noisy_images, noisy_training_data, open_frames, settle_noisy
from abbe.methods.restoration.noise2void import LIBRARY, VARIANTS, Noise2VoidOptions
from abbe.metrics.images import psnr
from abbe.settings import ImageSettings
from abbe.train.recipe import list_recipes, load_recipe
from abbe.train.settings import build_config

SHORT = {
    "train.minutes": 0.0,
    "train.steps": 120,
    "train.steps_per_epoch": 60,
    "train.batch_size": 4,
    "train.crop": 32,
    "train.learning_rate": 3e-3,
    "train.precision": "float32",
}


def clean(seed: int, shape: tuple[int, ...] = (96, 96)) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 4, mode="wrap")
    return (smooth - smooth.min()) / np.ptp(smooth)


def noisy(folder: Path, shape: tuple[int, ...] = (96, 96), number: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(number):
        noise = np.random.default_rng(seed + 50).normal(0, 0.15, shape)
        tifffile.imwrite(folder / f"{seed}.tif", (clean(seed, shape) + noise).astype(np.float32))
    return folder


def frames(pixels: np.ndarray) -> list[Series]:
    """Open an array (Y, X), or (Z, Y, X) as a stack."""
    return open_frames([read(pixels, axes="ZYX"[-pixels.ndim :])], ImageSettings(), pixels.ndim)


@pytest.mark.parametrize("name", ["noise2void", "n2v2"])
def test_a_recipe_needs_noisy_images_only(tmp_path, name) -> None:
    data = noisy(tmp_path / "data")
    trained = train(name, data, overrides=SHORT | {"method": f"{name}_tiny"}, out=tmp_path / "run", tell=print)
    assert trained.verb == "restore"
    model = load(trained.model)
    assert model.description.normalization["kind"] == "fixed"
    image = tifffile.imread(data / "0.tif")
    assert psnr(restore(image, model), clean(0)) > psnr(image, clean(0)) + 2


@settings(deadline=None, max_examples=15)
@given(sides=st.tuples(st.integers(20, 300), st.integers(20, 300)), crop=st.integers(4, 30).map(lambda n: 4 * n))
def test_no_crop_reaches_out_of_its_piece(sides, crop) -> None:
    """A mirror image would show the values that are hidden: all values of a crop are different ones."""
    pixels = np.arange(math.prod(sides), dtype=np.float32).reshape(sides)
    recipe = load_recipe("noise2void", {"method": "noise2void_tiny", "train.crop": crop})
    lesson = noisy_lesson(recipe, frames(pixels), str)
    assert all(extent % 4 == 0 for extent in recipe.train.crop_extents(2))
    for dataset in (lesson.training_set, lesson.validation_set):
        for index in range(8):
            target = dataset[index]["target"].numpy()
            assert np.unique(target).size == target.size


def test_small_images_among_large_ones_are_left_out_of_the_training(tmp_path) -> None:
    data = noisy(tmp_path / "data", number=8)
    for name in "abcd":  # one of which may be held out
        tifffile.imwrite(data / f"{name}.tif", np.random.default_rng(0).random((20, 20), np.float32))
    told: list[str] = []
    recipe = load_recipe("noise2void", SHORT | {"method": "noise2void_tiny", "data.paths": [str(data)]})
    noisy_lesson(recipe, find_noisy_images(recipe), told.append)
    assert any("smaller than crops of 32 x 32 pixels and not learnt from" in line for line in told)
    assert recipe.train.crop == 32


@pytest.mark.parametrize(("method", "shape"), [("noise2void_tiny", (3, 400)), ("noise2void_3d", (3, 64, 64))])
def test_what_is_smaller_than_the_network_takes_is_refused(method, shape) -> None:
    recipe = load_recipe("noise2void", {"method": method})
    images = frames(np.random.default_rng(0).random(shape, np.float32))
    with pytest.raises(AbbeError, match=r"too small to learn from; noise2void_\w+ takes at least .*--model denoise"):
        noisy_lesson(recipe, images, str)


@pytest.mark.parametrize(
    ("element", "flips", "turns"),
    [
        (((1, 1, 1),), True, False),
        (((1, 1, 1),) * 3, True, True),
        (np.eye(3, dtype=int).tolist(), False, False),
        (((0, 1, 0), (1, 1, 1), (0, 1, 0)), True, True),
        (((1, 1, 0),), False, False),
    ],
)
def test_crops_are_turned_as_far_as_the_hidden_neighbours_look_the_same(element, flips, turns) -> None:
    recipe = load_recipe("structn2v", {"options.element": element})
    images = frames(np.random.default_rng(0).random((200, 200), np.float32))
    augment = noisy_lesson(recipe, images, str).training_set.config
    assert (augment.flips, augment.quarter_turns) == (flips, turns)


def test_a_stack_is_learnt_whole(tmp_path) -> None:
    data = noisy(tmp_path / "data", (16, 48, 48), 2)
    for path in data.iterdir():
        pixels = tifffile.imread(path)
        tifffile.imwrite(path, pixels, ome=True, metadata={"axes": "ZYX"})
    overrides = SHORT | {"method": "noise2void_3d", "network.base": 4, "train.crop": [16, 32, 32], "train.steps": 10}
    trained = train("noise2void", data, overrides=overrides, out=tmp_path / "run", tell=print)
    model = load(trained.model)
    assert model.dimensions == 3
    assert restore(data / "0.tif", model).shape == (16, 48, 48)


def movies(folder: Path) -> Path:
    """Series of independent noise over a picture that stands still."""
    folder.mkdir()
    for seed in range(2):
        noise = np.random.default_rng(seed).normal(0, 0.3, (12, 40, 40))
        pixels = (clean(seed, (40, 40)) + noise).astype(np.float32)
        tifffile.imwrite(folder / f"{seed}.tif", pixels, ome=True, metadata={"axes": "TYX"})
    return folder


def test_times_are_the_third_axis_of_a_series(tmp_path) -> None:
    data, lines = movies(tmp_path / "data"), []
    shape = {"method": "noise2void_3d", "network.base": 4, "network.depth": 1, "train.crop": [8, 24, 24]}
    overrides = SHORT | shape | {"data.depth": "time", "train.steps": 60}
    trained = train("noise2void", data, overrides=overrides, out=tmp_path / "run", tell=lines.append)
    assert "2 frames of 2 images" in lines[-1]
    model = load(trained.model)
    assert model.description.axes == "CTYX"
    series = tifffile.imread(data / "0.tif")
    found = restore(data / "0.tif", model)
    assert found.shape == series.shape
    assert psnr(found[6], clean(0, (40, 40))) > psnr(series[6], clean(0, (40, 40))) + 3
    one = series.copy()
    one[5] += 1
    tifffile.imwrite(tmp_path / "one.tif", one)  # axes unnamed
    assert np.abs(restore(tmp_path / "one.tif", model)[6] - found[6]).mean() > 0.001, "other times are not seen"
    outputs = Outputs(tmp_path / "out")
    assert not restore_files([data / "0.tif"], outputs, trained.model).failures
    written = read(tmp_path / "out" / "0_restored.tif")
    assert (written.axes, written.shape) == ("TYX", series.shape)


def test_times_are_told_of_and_want_a_network_of_stacks(tmp_path) -> None:
    data, lines = movies(tmp_path / "data"), []
    with pytest.raises(AbbeError, match="takes planes; expected a network of stacks"):
        train("noise2void", data, overrides=SHORT | {"data.depth": "time"}, out=tmp_path / "run", tell=print)
    shape = {"method": "noise2void_3d", "network.base": 4, "network.depth": 1, "train.crop": [8, 24, 24]}
    with pytest.raises(AbbeError, match="1 x 40 x 40 pixels: too small"):
        train("noise2void", data, overrides=SHORT | shape, out=tmp_path / "run", tell=lines.append)
    assert any("--data.depth time" in line for line in lines)


def test_lines_keep_their_direction(tmp_path) -> None:
    from abbe.learn import describe, starting_method

    data = noisy(tmp_path / "data")
    for name, turned in (("structn2v", False), ("noise2void", True)):
        recipe = load_recipe(name, SHORT | {"method": f"{name}_tiny", "data.paths": [str(data)]})
        pieces = settle_noisy(recipe, find_noisy_images(recipe), print)
        method = starting_method(recipe, describe(recipe))
        assert noisy_training_data(recipe, method, pieces).config.quarter_turns is turned


def test_two_channels_have_two_networks(tmp_path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    pixels = np.random.default_rng(0).poisson(50, (2, 96, 96)).astype(np.uint16)
    tifffile.imwrite(folder / "a.tif", pixels, ome=True, metadata={"axes": "CYX"})
    overrides = SHORT | {"method": "noise2void_tiny", "train.steps": 4}
    model = load(train("noise2void", folder, overrides=overrides, out=tmp_path / "run", tell=print).model)
    assert model.method.in_channels == 2
    assert restore(folder / "a.tif", model).shape == (2, 96, 96)
    with pytest.raises(AbbeError, match="made for 2"):
        restore(pixels[0], model)


def test_recipes_of_noisy_images_begin() -> None:
    names = {summary.name for summary in list_recipes()}
    assert {"noise2void", "n2v2", "structn2v", "noise2void_bsd68", "noise2void_library"} <= names


def test_the_recipe_of_the_library_has_its_options() -> None:
    recipe = load_recipe("noise2void_library")
    assert build_config(Noise2VoidOptions, recipe.options, "recipe") == LIBRARY
    assert describe(recipe).config == dataclasses.asdict(VARIANTS["noise2void_library"])


def test_no_images(tmp_path) -> None:
    with pytest.raises(AbbeError, match="--data FOLDER"):
        train("noise2void", out=tmp_path / "run", tell=print)
    (tmp_path / "test").mkdir()
    noisy(tmp_path / "test")
    with pytest.raises(AbbeError, match="only images for testing"):
        train("noise2void", tmp_path, out=tmp_path / "run", tell=print)
