"""Restoration learnt from good images and from pairs, through the verb."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from scipy import ndimage

from abbe.api import load, train
from abbe.data.clean import WORDS, find_clean_images
from abbe.data.normalize import Normalization
from abbe.data.scenes import SimulatedScene
from abbe.errors import AbbeError
from abbe.learn import describe, restoration_lesson, starting_method
from abbe.learn_restoration import (
    RestorationSamples,
    RestorationValidation,
    find_restoration_source,
    restoration_samples,
    restoration_training_data,
    restored,
)
from abbe.methods.restoration.restore import CLEAN
from abbe.tiling.prepare import Predictor
from abbe.train.recipe import Recipe, load_recipe

SHORT = {
    "method": "dncnn_tiny",
    "train.steps": 60,
    "train.steps_per_epoch": 30,
    "train.batch_size": 4,
    "train.crop": 24,
    "train.learning_rate": 1e-2,
    "train.ema_decay": 0.0,
    "train.workers": 0,
    "train.precision": "float32",
    "data.validation_fraction": 0.3,
}


def scene(seed: int, side: int = 48) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).random((side, side)), 4, mode="wrap")
    return (smooth - smooth.min()) / np.ptp(smooth)


def good_images(folder: Path, number: int = 6, dtype=np.uint8) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(number):
        pixels = np.rint(scene(seed) * (np.iinfo(dtype).max - 1)).astype(dtype)
        tifffile.imwrite(folder / f"{seed}.tif", pixels)
    return folder


def pairs(folder: Path, number: int = 6) -> Path:
    good_images(folder / "clean", number, np.uint16)
    (folder / "noisy").mkdir()
    for path in (folder / "clean").iterdir():
        noise = np.random.default_rng(int(path.stem)).normal(0, 6000, (48, 48))
        noisy = np.clip(tifffile.imread(path) + noise, 0, 65535).astype(np.uint16)
        tifffile.imwrite(folder / "noisy" / path.name, noisy)
    return folder


@pytest.mark.parametrize("make", [good_images, pairs])
def test_training_makes_images_better(tmp_path, make) -> None:
    data, lines = make(tmp_path / "data"), []
    trained = train("dncnn_s", data, overrides=SHORT, out=tmp_path / "run", tell=lines.append)
    assert trained.verb == "restore"
    assert any("6 pairs" in line or "6 good images" in line for line in lines)
    model = load(trained.model)
    assert model.description.metrics["validation"]["psnr"] > 21  # sigma 25 alone has 20.2 dB, and so have the pairs


def test_pairs_share_the_bad_images_statistics(tmp_path) -> None:
    samples = RestorationSamples(find_clean_images(pairs(tmp_path, 1)), Normalization("zscore"), 1)
    sample = samples[0]
    assert sample.extra[CLEAN] == 1
    assert sample.image.shape == (2, 48, 48)
    assert sample.image[0].mean() == pytest.approx(0, abs=1e-4)
    assert sample.image[0].std() == pytest.approx(1, abs=1e-4)
    assert sample.image[1].std() < 1  # what is noise in the bad one


def test_pairs_of_two_sizes_are_refused_before_the_training(tmp_path) -> None:
    pairs(tmp_path / "train", 2)
    held = pairs(tmp_path / "val", 1)
    tifffile.imwrite(held / "noisy" / "0.tif", np.zeros((20, 48), np.uint16))
    said = r"noisy.0\.tif: 20 x 48 pixels, but .*clean.0\.tif has 48 x 48 pixels; expected equal sizes"
    with pytest.raises(AbbeError, match=said):
        train("dncnn_s", tmp_path, overrides=SHORT, out=tmp_path / "run", tell=str)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("make", [good_images, pairs])
def test_pixels_without_a_value_are_left_out_and_no_black_squares(tmp_path, make) -> None:
    folder = make(tmp_path, 1)
    for path in folder.rglob("*.tif"):
        pixels = tifffile.imread(path).astype(np.float32) + 1000
        pixels[10:20, 5:9] = np.nan
        tifffile.imwrite(path, pixels)
    sample = RestorationSamples(find_clean_images(folder), Normalization("percentile"), 1)[0]
    hole = np.s_[10:20, 5:9]
    assert sample.ignore.sum() == sample.ignore[hole].sum() == 40
    assert sample.image[-1][hole].min() > np.quantile(sample.image[-1], 0.02)
    recipe = load_recipe("dncnn_s", SHORT | {"data.paths": [str(folder)]})
    method = starting_method(recipe, describe(recipe))
    source = find_restoration_source(recipe, str)
    validation = RestorationValidation(restoration_samples(recipe, method, source.train), 0)
    assert np.isfinite(list(validation(method).values())).all()


def test_an_image_without_any_value_is_refused(tmp_path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((9, 9), np.nan, np.float32))
    with pytest.raises(AbbeError, match=r"a\.tif: no pixel has a value"):
        RestorationSamples(find_clean_images(tmp_path), Normalization(), 1)[0]


def test_tiles_equal_the_whole(monkeypatch) -> None:
    from abbe.methods.restoration.dncnn import VARIANTS, build
    from abbe.methods.restoration.restore import Restoration

    predictor = Predictor(Restoration(build(VARIANTS["dncnn_tiny"]).eval()), precision="exact")
    image = np.random.default_rng(0).random((1, 75, 61), np.float32)
    whole = restored(predictor, image)
    monkeypatch.setattr("abbe.learn_restoration.TILE", {2: 32})
    np.testing.assert_allclose(restored(predictor, image), whole, atol=1e-5)


def told_of(folder: Path, **data: int) -> str:
    lines: list[str] = []
    changes = {"data.paths": [str(folder)]} | {f"data.{name}": value for name, value in data.items()}
    find_restoration_source(load_recipe("dncnn_s", changes), lines.append)
    return "\n".join(lines)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_becomes_of_colours_is_told(tmp_path, channels) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    kind = "rgb" if channels == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", colours if channels == 3 else colours[..., 0], photometric=kind)
    assert "in_channels" not in told_of(tmp_path, in_channels=channels)
    told = told_of(tmp_path, in_channels=4 - channels)
    assert f"--data.in_channels {channels}" in told
    assert ("luminance" in told) == (channels == 3)


@pytest.mark.parametrize(("bad", "good"), [pair for pair in WORDS if "blur" not in pair[0]])
def test_swapped_pairs_are_told(tmp_path, bad, good) -> None:
    folder = pairs(tmp_path)
    (folder / "noisy").rename(folder / "other")
    (folder / "clean").rename(folder / bad)
    (folder / "other").rename(folder / good)
    assert "has more noise than" in told_of(folder)
    swap(folder, bad, good)
    assert "swapped?" not in told_of(folder)


def swap(folder: Path, one: str, other: str) -> None:
    """Give two folders each other's name."""
    (folder / one).rename(folder / "aside")
    (folder / other).rename(folder / one)
    (folder / "aside").rename(folder / other)


@pytest.mark.parametrize("words", [("blur", "sharp"), ("input", "target")])
def test_blurred_images_have_less_noise_and_are_not_swapped(tmp_path, words) -> None:
    """Wherever they lie: "raw" in the path of the data says nothing of the pairs."""
    folder, generator = tmp_path / "raw" / "data", np.random.default_rng(0)
    for word in words:
        (folder / word).mkdir(parents=True)
    for seed in range(3):
        sharp = np.kron(generator.random((4, 4)), np.ones((24, 24))) + generator.normal(0, 0.01, (96, 96))
        images = (ndimage.gaussian_filter(sharp, 2), sharp)
        for word, image in zip(words, images, strict=True):
            tifffile.imwrite(folder / word / f"{seed}.tif", image.astype(np.float32))
    assert "swapped?" not in told_of(folder)


@pytest.mark.parametrize("words", [("blur", "sharp"), ("blurred", "sharp"), ("input", "target"), ("lr", "hr")])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_swapped_pairs_of_blur_are_told(tmp_path, words, noise) -> None:
    """Whether the noise came after the blur, as a camera's does, or there is none."""
    generator = np.random.default_rng(0)
    for word in words:
        (tmp_path / "data" / word).mkdir(parents=True)
    for seed in range(3):
        sharp = np.kron(generator.random((24, 24)), np.ones((6, 6)))
        for word, image in zip(words, (ndimage.gaussian_filter(sharp, 2), sharp), strict=True):
            noisy = image + generator.normal(0, noise, image.shape)
            tifffile.imwrite(tmp_path / "data" / word / f"{seed}.tif", noisy.astype(np.float32))
    assert "swapped?" not in told_of(tmp_path / "data")
    swap(tmp_path / "data", *words)
    assert "has less detail than" in told_of(tmp_path / "data")


@pytest.mark.parametrize(
    ("shape", "options", "words"),
    [
        ((9, 40, 40), {"kinds": ["blur"]}, '"blur" is for planes'),
        ((9, 40, 40), {"kinds": ["gaussian", "jpeg"]}, '"jpeg" is for planes'),
        ((9, 40, 40), {"kinds": ["micrograph"], "resolution": [2, 3]}, "options.resolution is for planes"),
        ((9, 40, 40), {"kinds": ["microscope"], "pixel_size": [0.1, 0.1]}, r"expected one for each of \(Z, Y, X\)"),
        ((40, 40), {"kinds": ["microscope"], "pixel_size": [0.3, 0.1, 0.1]}, r"expected one for each of \(Y, X\)"),
        ((40, 40), {"kinds": []}, "options.kinds is empty"),
        ((2, 40, 40), {"kinds": ["jpeg"]}, "2 channels, but .*takes one, or red"),
    ],
)
def test_damage_that_an_image_cannot_take_is_told_before_the_training(tmp_path, shape, options, words) -> None:
    stack = len(shape) == 3 and shape[0] > 4
    pixels, axes = np.random.default_rng(0).random(shape, np.float32), ("ZYX" if stack else "CYX")[-len(shape) :]
    (tmp_path / "data").mkdir()
    tifffile.imwrite(tmp_path / "data" / "a.tif", pixels, ome=True, metadata={"axes": axes})
    method = {"method": "noise2void_3d", "objective": "restoration"} if stack else {}
    channels = {"data.in_channels": 2} if shape[0] == 2 else {}
    given = {f"options.{name}": value for name, value in options.items()} | method | channels
    with pytest.raises(AbbeError, match=words):
        train("dncnn_s", tmp_path / "data", overrides=SHORT | given, out=tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_images_are_kept_as_far_as_there_is_room_for_them(tmp_path, monkeypatch) -> None:
    found = find_clean_images(good_images(tmp_path))
    one = RestorationSamples(found, Normalization(), 1)[0].image.nbytes
    monkeypatch.setattr("abbe.learn_restoration.KEPT", 2 * one)
    samples = RestorationSamples(found, Normalization(), 1)
    first = [samples[index] for index in range(4)]
    assert [samples[index] is first[index] for index in range(4)] == [True, True, False, False]
    assert all((samples[index].image == first[index].image).all() for index in range(4))


@pytest.mark.parametrize(("words", "kinds"), [(("noisy", "clean"), ("gaussian",)), (("blur", "sharp"), ())])
def test_what_pairs_lack_is_known_by_their_names_alone(tmp_path, words, kinds) -> None:
    folder = pairs(tmp_path)
    for old, new in zip(("noisy", "clean"), words, strict=True):
        (folder / old).rename(folder / new)
    lesson = restoration_lesson(load_recipe("dncnn_s", SHORT | {"data.paths": [str(folder)]}), str)
    assert tuple(lesson.description.options["kinds"]) == kinds


def test_noise_on_the_wrong_scale_is_asked_about(tmp_path) -> None:
    with pytest.raises(AbbeError, match=r'write "\[0, 25\.5\]"'):
        train("dncnn_s", good_images(tmp_path), overrides=SHORT | {"options.sigma": "[0.0, 0.1]"}, out=tmp_path / "run")


def test_one_number_for_a_range_is_told_how_to_be_written(tmp_path) -> None:
    with pytest.raises(AbbeError, match=r'options.sigma: .*found 25; for 25 alone write "\[25, 25\]"'):
        train("dncnn_s", good_images(tmp_path), overrides=SHORT | {"options.sigma": "25"}, out=tmp_path / "run")


# ------------------------------------------------------------------------------------------------ simulated scenes


def recipe_of(**overrides) -> Recipe:
    given = {"data.simulated": {"train": 5, "val": 2, "seed": 3}, "data.validation_fraction": 0.0}
    return load_recipe("dncnn_s", SHORT | given | {name.replace("__", "."): value for name, value in overrides.items()})


def test_a_recipe_without_folders_trains_on_simulated_scenes(tmp_path) -> None:
    lines: list[str] = []
    simulated = {"data.simulated.train": "4", "data.simulated.val": "2", "train.steps": 4, "train.steps_per_epoch": 4}
    trained = train("dncnn_s", overrides=SHORT | simulated, out=tmp_path / "run", tell=lines.append)
    assert "simulating 4 scenes to train and 2 to validate on" in lines
    assert "training on 4 images, validating on 2" in lines
    assert load(trained.model).description.metrics["validation"]["psnr"] > 5


def test_scenes_are_normalised_as_images_are_and_parts_share_none() -> None:
    source = find_restoration_source(recipe_of(), lambda line: None)
    assert [len(source.train), len(source.validation)] == [5, 2]
    assert not {one.seed for one in source.train} & {one.seed for one in source.validation}
    samples = RestorationSamples(source.train, Normalization("percentile", 0, 50), 3)
    assert samples[1] is samples[1]
    assert samples[1].image.shape == (3, 256, 256)
    assert np.median(samples[1].image) == pytest.approx(1, abs=1e-5)


def test_folders_and_scenes_are_mixed_by_their_weights(tmp_path) -> None:
    recipe = recipe_of(data__paths=[str(good_images(tmp_path, 3))], data__weights=[0.9, 0.1])
    source = find_restoration_source(recipe, lambda line: None)
    assert [isinstance(one, SimulatedScene) for one in source.train] == [False] * 3 + [True] * 5
    assert source.weights == pytest.approx([0.3] * 3 + [0.02] * 5)
    data = restoration_training_data(recipe, starting_method(recipe, describe(recipe)), source)
    assert data[0]["image"].shape == (1, 24, 24)


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [-1.0, 2.0], [1.0, 1.0, 1.0]])
def test_weights_that_fit_no_source_are_refused(tmp_path, weights) -> None:
    recipe = recipe_of(data__paths=[str(good_images(tmp_path, 3))], data__weights=weights)
    with pytest.raises(AbbeError, match=r"data.weights is .* for 2 sources"):
        find_restoration_source(recipe, lambda line: None)


def test_pairs_and_scenes_learn_together(tmp_path) -> None:
    recipe = recipe_of(data__paths=[str(pairs(tmp_path, 2))])
    lines: list[str] = []
    source = find_restoration_source(recipe, lines.append)
    assert "2 pairs of a bad and a good image, 7 good images, made worse for each crop" in lines
    assert len(source.train) == 7


def test_scenes_of_two_parts_never_meet() -> None:
    with pytest.raises(AbbeError, match="at most 100,000 scenes a part"):
        find_restoration_source(recipe_of(data__simulated={"train": 100_001}), str)


def test_senseless_simulations_are_told() -> None:
    for wanted in ({"tran": 3}, {"train": -1}):
        with pytest.raises(AbbeError, match=r"data.simulated is .*; expected numbers for train, val and seed"):
            find_restoration_source(recipe_of(data__simulated=wanted), lambda line: None)
    with pytest.raises(AbbeError, match="names no data"):
        find_restoration_source(recipe_of(data__simulated={"val": 2}), lambda line: None)
    with pytest.raises(AbbeError, match="planes"):
        RestorationSamples([SimulatedScene(0)], Normalization(), 1, volume=True)[0]


def test_frozen_norms_keep_what_they_have_and_the_rest_learns(tmp_path) -> None:
    data, begin = good_images(tmp_path / "data", 4), tmp_path / "begin"
    train("dncnn_s", data, overrides=SHORT, out=begin)
    start = load(begin).method.state_dict()
    buffers = [name for name in start if name.endswith(("running_mean", "running_var"))]
    assert buffers
    for frozen in (True, False):
        run = tmp_path / f"frozen {frozen}"
        train("dncnn_s", data, overrides=SHORT | {"train.frozen_norms": frozen, "start_from": str(begin)}, out=run)
        found = load(run).method.state_dict()
        assert all(torch.equal(start[name], found[name]) for name in buffers) == frozen
        assert not torch.equal(start["network.layers.0.weight"], found["network.layers.0.weight"])
