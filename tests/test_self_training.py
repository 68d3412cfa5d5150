"""A noisy image alone, restored as a user does it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy import ndimage

from abbe import learn_deblurring, self_training
from abbe.api import load, restore
from abbe.batch import Outputs
from abbe.data.image import Image
from abbe.data.normalize import Normalization
from abbe.data.read import read
from abbe.data.select import Series
from abbe.errors import AbbeError
from abbe.folders import restore_files
from abbe.learn_noisy import open_frames
from abbe.metrics.images import psnr
from abbe.noise_look import NoiseLook, look_at_noise
from abbe.self_training import as_grey, choose, choose_for_blur, exposures_of, learn_to_restore, options_of
from abbe.settings import LearnSettings, RestoreSettings
from abbe.train.interrupt import InterruptGuard

SHORT = LearnSettings(minutes=0.04)


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny variants: seconds show the road, not the quality."""
    whole = self_training.recipe_of

    def small(*given):
        recipe = whole(*given)
        recipe.method = recipe.method.replace("small", "tiny")
        recipe.train.steps_per_epoch, recipe.train.batch_size = 10, 4
        recipe.train.precision = "float32"
        return recipe

    monkeypatch.setattr(self_training, "recipe_of", small)


def clean(seed: int = 0, side: int = 160) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).random((side, side)), 5, mode="wrap")
    return 400 + 3000 * (smooth - smooth.min()) / np.ptp(smooth)


def noisy(seed: int = 0, side: int = 160, spread: tuple[int, int] = (1, 1)) -> np.ndarray:
    """Photons of gain 20; noise that ``spread`` (Y, X) pixels share is of the same strength."""
    image, generator = clean(seed, side), np.random.default_rng(seed + 100)
    if spread == (1, 1):
        return np.rint(20 * generator.poisson(image / 20)).astype(np.uint16)
    shared = ndimage.uniform_filter(generator.normal(size=image.shape), spread, mode="wrap")
    return np.rint(image + 200 * shared / shared.std()).clip(0).astype(np.uint16)


def looked(*images: np.ndarray) -> NoiseLook:
    found = look_at_noise([Series(Image(image[None] if image.ndim == 2 else image, "CYX")) for image in images])
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("spread", "method", "options"),
    [
        ((1, 1), "noise2void", {}),
        ((1, 3), "structn2v", {"direction": "horizontal"}),
        ((3, 1), "structn2v", {"direction": "vertical"}),
        ((3, 3), "structn2v", {"element": ((1,) * 5,) * 5}),
    ],
)
def test_the_method_follows_the_noise(spread, method, options) -> None:
    look = looked(noisy(0, 512, spread), noisy(1, 512, spread))
    recipe, notes = choose(look, SHORT)
    assert recipe.method.startswith(method)
    assert options.items() <= recipe.options.items()
    assert any("warning" in note for note in notes) == (spread != (1, 1))


def test_a_method_that_was_asked_for_is_taken_with_a_warning() -> None:
    look = looked(noisy(0, 512, (1, 3)))
    recipe, notes = choose(look, LearnSettings(method="n2v2"))
    assert recipe.method.startswith("n2v2")
    assert any("it will stay" in note for note in notes)


def test_gain_is_told_and_channels_are_looked_at_apart() -> None:
    rows = noisy(0, 512, (1, 3))
    look = looked(np.stack([noisy(1, 512), rows]))
    assert look.noises[0].gain == pytest.approx(20, rel=0.2)
    assert [noise.verdict for noise in look.noises] == ["independent", "horizontal"]
    assert look.verdict == "horizontal"
    assert "channel 1" in str(look)
    assert "grey values per photon, read noise of" in str(look)


def test_far_neighbours_are_not_all_hidden() -> None:
    noise = looked(noisy(0, 512, (1, 15))).noise
    assert noise.reach > self_training.FARTHEST
    assert options_of("structn2v", noise)["reach"] == self_training.FARTHEST


def test_a_folder_is_restored_from_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = self_training.recipe_of

    def by_steps(*given):  # a busy machine makes too few in some seconds
        recipe = small(*given)
        recipe.train.steps = 300
        return recipe

    monkeypatch.setattr(self_training, "recipe_of", by_steps)
    for seed in range(3):
        tifffile.imwrite(tmp_path / f"{seed}.tif", noisy(seed))
    (tmp_path / "broken.tif").write_bytes(b"II*\0nothing")
    told: list[str] = []
    out = tmp_path / "out"
    result = restore_files([tmp_path / "*.tif"], Outputs(out), learning=LearnSettings(minutes=10), tell=told.append)
    assert [Path(name).name for name, _ in result.failures] == ["broken.tif"]
    assert any("independent from pixel to pixel" in line for line in told)
    for seed in range(3):
        found = tifffile.imread(out / f"{seed}_restored.tif")
        assert found.dtype == np.uint16
        assert psnr(found, clean(seed), 3000) > psnr(noisy(seed), clean(seed), 3000) + 1
    table = pd.read_csv(out / "images.csv")
    assert (table["noise_after"] < table["noise_before"]).all()
    page = (out / "report.html").read_text()
    assert "What was learnt" in page
    assert "blind-spot loss" in page
    assert any(line.startswith("blind-spot loss") for line in told)
    assert any(line.endswith("pieces of 3 frames of 3 images") for line in told)
    assert "spectrum" in page
    record = json.loads((out / "provenance.json").read_text())
    assert record["seed"] == 0
    assert record["seconds"] > table["seconds"].sum()  # the training is part of it
    again: list[str] = []
    second = restore_files([tmp_path / "*.tif"], Outputs(out), learning=LearnSettings(minutes=10), tell=again.append)
    assert second.skipped == 3
    assert any("earlier run" in line for line in again)
    with pytest.raises(AbbeError, match="take it as it is with --model"):
        restore_files([tmp_path / "?.tif"], Outputs(out), learning=LearnSettings(minutes=0.15))
    with pytest.raises(AbbeError, match=r"--model \S+learned, which has learnt already"):
        restore_files([tmp_path / "*.tif"], Outputs(out), None, RestoreSettings(flips=True), LearnSettings(minutes=10))


def test_a_second_run_learns_nothing_anew_and_other_images_are_refused(tmp_path: Path) -> None:
    for seed in range(2):
        tifffile.imwrite(tmp_path / f"{seed}.tif", noisy(seed))
    images, lines = [tmp_path / "0.tif"], []
    first = learn_to_restore(images, tmp_path / "run", learning=SHORT, progress=False)
    second = learn_to_restore(images, tmp_path / "run", learning=SHORT, progress=False, tell=lines.append)
    assert first.model.sha256 == second.model.sha256
    assert any("earlier run" in line for line in lines)
    with pytest.raises(AbbeError, match="--overwrite"):
        learn_to_restore([tmp_path / "1.tif"], tmp_path / "run", learning=SHORT, progress=False)
    other = learn_to_restore([tmp_path / "1.tif"], tmp_path / "run", learning=SHORT, overwrite=True, progress=False)
    assert other.model.sha256 != first.model.sha256


def test_nothing_is_replaced_that_was_not_learnt_from_images(tmp_path: Path) -> None:
    images = tmp_path / "0.tif"
    tifffile.imwrite(images, noisy(0))
    mine = tmp_path / "learned" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(AbbeError, match="learned: not what Abbe has learnt"):
            restore_files([images], Outputs(tmp_path, overwrite=overwrite), learning=SHORT)
    assert mine.read_text() == "mine"


def test_what_was_learnt_stays_until_all_that_replaces_it_is_found_good(tmp_path: Path) -> None:
    images = tmp_path / "0.tif"
    tifffile.imwrite(images, noisy(0))
    out = Outputs(tmp_path / "out", overwrite=True)
    restore_files([images], out, learning=SHORT)
    before = (tmp_path / "out" / "learned" / "model.safetensors").read_bytes()
    with pytest.raises(AbbeError, match="choose --tile 64 or more"):
        restore_files([images], out, settings=RestoreSettings(tile=1), learning=SHORT)
    assert (tmp_path / "out" / "learned" / "model.safetensors").read_bytes() == before


def test_results_among_the_images_are_none_of_them(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "0.tif", noisy(0))
    first = restore_files([tmp_path], Outputs(tmp_path / "out"), learning=SHORT)
    assert (tmp_path / "out" / "learned" / "curves.png").exists()
    (tmp_path / "out" / "images.csv").unlink()  # as of a run that was killed
    again = restore_files([tmp_path], Outputs(tmp_path / "out"), learning=SHORT)
    assert len(first.images) == again.skipped == 1


def test_masked_and_saturated_images_are_looked_at_where_noise_shows() -> None:
    rows = noisy(0, 512, (1, 3))
    rows[:, :200] = 0
    assert looked(rows.clip(None, 2200)).verdict == "horizontal"
    masked = noisy(1, 512)
    masked[:300] = 0
    assert looked(masked).verdict == "independent"


@pytest.mark.parametrize(("axes", "shape"), [("CYX", (2, 96, 100)), ("ZYX", (3, 90, 90)), ("TCYX", (2, 2, 80, 80))])
def test_any_axes_through_the_door(axes, shape) -> None:
    generator = np.random.default_rng(0)
    image = generator.poisson(np.broadcast_to(clean(0, 100)[: shape[-2], : shape[-1]] / 20, shape)).astype(np.uint16)
    found = restore(image, minutes=0.04, axes=axes)
    assert found.shape == shape
    assert found.dtype == image.dtype


def test_what_cannot_be_learnt_is_said() -> None:
    for minutes in (0, -1, float("nan"), float("inf")):
        with pytest.raises(AbbeError, match=f"--minutes {minutes:g}: nothing is learnt"):
            restore(noisy(), minutes=minutes)
    with pytest.raises(AbbeError, match="no pixel with a value"):
        restore(np.full((64, 64), np.nan, np.float32), minutes=0.01)
    with pytest.raises(AbbeError, match="--model denoise"):
        restore(noisy()[:1], minutes=0.01)
    with pytest.raises(AbbeError, match="no noise found"):
        restore(np.full((64, 64), 7, np.uint8), minutes=0.01)
    with pytest.raises(AbbeError, match="too small to measure"):
        restore(noisy()[:1], minutes=0.01)
    with pytest.raises(AbbeError, match="too small to learn from"):
        restore(noisy()[:1], minutes=0.01, method="noise2void")


@pytest.mark.parametrize(
    ("make", "verdict"),
    [
        (lambda: clean(), "none"),
        (lambda: np.rint(clean()).astype(np.uint16), "none"),
        (lambda: (clean() / 14).astype(np.uint8), "none"),
        (lambda: ndimage.gaussian_filter(noisy().astype(float), 3), "none"),
        (lambda: (clean() > 1800).astype(np.uint8) * 255, "none"),
        (lambda: np.add.outer(np.arange(160.0), np.arange(160.0)), "none"),
        (lambda: np.rint(clean() + np.random.default_rng(0).normal(0, 1, (160, 160))), "independent"),
        (
            lambda: np.random.default_rng(0).poisson(np.tile(np.linspace(0, 1, 160), (160, 1))).astype(np.uint8),
            "independent",
        ),
        (lambda: ndimage.zoom(noisy()[:80, :80].astype(float), 2, order=1), "isotropic"),
    ],
)
def test_images_without_noise_are_told_from_noisy_ones(make, verdict) -> None:
    assert looked(make()).verdict == verdict


def test_each_channel_has_its_own_exposure_and_stacks_that_of_all_their_planes() -> None:
    bright, dim = noisy(0).astype(float) * 10, noisy(1).astype(float)
    planes = np.stack([bright, dim])
    (series,) = open_frames([read(planes, axes="CYX")], RestoreSettings(), 2)
    look = look_at_noise([series])
    assert look is not None
    both = exposures_of(look, series)
    for channel, (noise, contrast) in zip((bright, dim), both, strict=True):
        expected = Normalization("percentile").measure(channel[None])
        assert contrast.scale == pytest.approx(expected.scale, rel=0.02)
        assert noise.gain == pytest.approx(200 if channel is bright else 20, rel=0.4)
    recipe, _ = choose_for_blur(look, [series], LearnSettings(target="deblur", psf="na=1.2,emission=520,pixel=0.08"))
    alone = [learn_deblurring.exposure(*one) for one in both]
    for name in alone[0]:
        assert recipe.options[name] == [min(one[name][0] for one in alone), max(one[name][1] for one in alone)]
    stack = np.stack([noisy(0) // 30, noisy(0), noisy(0) // 30])
    (series,) = open_frames([read(stack, axes="ZYX")], RestoreSettings(), 2)
    ((_, contrast),) = exposures_of(look_at_noise([series]), series)
    assert contrast.scale == pytest.approx(Normalization("percentile").measure(stack[None]).scale, rel=0.05)


def test_arrays_are_known_by_their_values(tmp_path: Path) -> None:
    learn_to_restore([noisy()], tmp_path / "run", learning=SHORT, progress=False)
    told: list[str] = []
    learn_to_restore([noisy().copy()], tmp_path / "run", learning=SHORT, tell=told.append, progress=False)
    assert any("learnt by an earlier run" in line for line in told)
    with pytest.raises(AbbeError, match="other images"):
        learn_to_restore([noisy() + 1], tmp_path / "run", learning=SHORT, progress=False)


def test_what_cannot_work_is_refused_before_it_is_learnt(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "grey.tif", noisy())
    tifffile.imwrite(tmp_path / "two.tif", np.stack([noisy(), noisy(1)]), ome=True, metadata={"axes": "CYX"})
    with pytest.raises(AbbeError, match=r"grey.tif: 1 channel, but 2 in the images to learn from"):
        restore_files([tmp_path / "grey.tif"], Outputs(tmp_path / "a"), learning=SHORT, train_on=[tmp_path / "two.tif"])
    with pytest.raises(AbbeError, match="tile of 1 px leaves nothing"):
        restore_files(
            [tmp_path / "grey.tif"], Outputs(tmp_path / "b"), settings=RestoreSettings(tile=1), learning=SHORT
        )
    for name in "ab":
        assert not (tmp_path / name / "learned" / "checkpoints").exists()


def test_a_wrong_time_leaves_no_trace(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noisy())
    with pytest.raises(AbbeError, match="--minutes nan"):
        restore_files([tmp_path], Outputs(tmp_path / "out"), learning=LearnSettings(minutes=float("nan")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("minutes", [0.001, 0.08])
def test_what_was_stopped_goes_on_with_another_time(tmp_path: Path, monkeypatch, capfd, minutes) -> None:
    whole = InterruptGuard.__init__

    def asked(guard):
        whole(guard)
        guard.asked = True

    monkeypatch.setattr(InterruptGuard, "__init__", asked)
    tifffile.imwrite(tmp_path / "a.tif", noisy())
    with pytest.raises(KeyboardInterrupt):
        learn_to_restore([tmp_path / "a.tif"], tmp_path / "run", learning=SHORT)
    told = capfd.readouterr().err
    assert "stopped at step" in told
    assert "the same command goes on" in told
    assert "--resume" not in told
    monkeypatch.setattr(InterruptGuard, "__init__", whole)
    later = LearnSettings(minutes=minutes)
    learn_to_restore([tmp_path / "a.tif"], tmp_path / "run", learning=later, progress=False)
    assert "resume" in (tmp_path / "run" / "log.jsonl").read_text()
    learn_to_restore([tmp_path / "a.tif"], tmp_path / "run", learning=later, progress=False)
    with pytest.raises(
        AbbeError, match=f"learnt with --minutes {minutes:g} and is done.*--overwrite, or another --out"
    ):
        learn_to_restore([tmp_path / "a.tif"], tmp_path / "run", learning=SHORT, progress=False)


def test_other_images_are_learnt_from(tmp_path: Path) -> None:
    for name in ("mine", "others"):
        (tmp_path / name).mkdir()
    tifffile.imwrite(tmp_path / "mine" / "a.tif", noisy(0))
    for seed in (1, 2):
        tifffile.imwrite(tmp_path / "others" / f"{seed}.tif", noisy(seed))
    told: list[str] = []
    folder, others = [tmp_path / "mine"], [tmp_path / "others"]
    result = restore_files(folder, Outputs(tmp_path / "out"), learning=SHORT, train_on=others, tell=told.append)
    assert result.images["image"].tolist() == ["a"]
    assert any(line.endswith("of 2 frames of 2 images") for line in told)
    assert (tmp_path / "out" / "a_restored.tif").exists()
    with pytest.raises(AbbeError, match="other images"):
        restore_files(folder, Outputs(tmp_path / "out"), learning=SHORT)


def test_grey_images_saved_in_colours_stay_grey(tmp_path: Path) -> None:
    grey, colours = (noisy() // 16).astype(np.uint8), np.stack([noisy(seed) // 16 for seed in range(3)], -1)
    tifffile.imwrite(tmp_path / "grey.tif", np.stack([grey] * 3, -1), photometric="rgb")
    tifffile.imwrite(tmp_path / "colours.tif", colours.astype(np.uint8), photometric="rgb")
    told: list[str] = []
    result = restore_files([tmp_path / "grey.tif"], Outputs(tmp_path / "out"), learning=SHORT, tell=told.append)
    assert not result.failures
    assert any("red, green and blue are equal" in line for line in told)
    found = tifffile.imread(tmp_path / "out" / "grey_restored.tif")
    assert found.shape == (160, 160, 3)
    np.testing.assert_array_equal(found, found[..., :1].repeat(3, -1))
    both = [Series(read(tmp_path / f"{name}.tif")) for name in ("grey", "colours")]
    assert as_grey(both) == (both, [])


def test_pixels_without_a_value_stay_so() -> None:
    image = noisy().astype(np.float32)
    image[3:6, 4:9] = np.nan
    found = restore(image, minutes=0.04, tile=64)
    assert np.isnan(found[3:6, 4:9]).all()
    assert np.isnan(found).sum() == 15


def test_flips_are_asked_for(tmp_path: Path) -> None:
    learned = learn_to_restore([noisy()], tmp_path, learning=SHORT, progress=False)
    plain = restore(noisy(), learned.model, dtype="float32")
    turned = restore(noisy(), learned.model, dtype="float32", flips=True)
    once = restore(np.rot90(noisy()).copy(), learned.model, dtype="float32", flips=True)
    assert not np.allclose(plain, turned)
    np.testing.assert_allclose(np.rot90(turned), once, rtol=1e-4, atol=0.5)
    assert RestoreSettings().flips is False


def test_blur_is_undone_for_a_microscope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn_deblurring, "timed", hurried)
    tifffile.imwrite(tmp_path / "a.tif", noisy(), ome=True, metadata={"PhysicalSizeX": 0.09, "PhysicalSizeY": 0.09})
    told: list[str] = []
    asked = LearnSettings(minutes=1, target="deblur", psf="na=1.4,emission=520")
    result = restore_files([tmp_path / "a.tif"], Outputs(tmp_path / "out"), learning=asked, tell=told.append)
    assert not result.failures
    assert any("0.09 µm per pixel" in line for line in told)
    assert tifffile.imread(tmp_path / "out" / "a_restored.tif").dtype == np.uint16
    options = load(tmp_path / "out" / "learned").description.options
    assert options["numerical_aperture"] == 1.4
    assert options["photons"][0] < options["photons"][1]


def hurried(recipe, minutes):
    recipe.method, recipe.network, recipe.start_from = "dncnn_tiny", {}, None
    recipe.data.simulated = {"train": 2, "val": 1}
    recipe.train.steps, recipe.train.steps_per_epoch, recipe.train.batch_size, recipe.train.crop = 4, 2, 2, 32
    recipe.train.workers = 0
    return recipe


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"target": "deblur"}, "--psf na=1.4,emission=520"),
        ({"psf": "na=1.4,emission=520"}, "add --target deblur"),
        ({"target": "deblur", "psf": "na=1.4,emission=520"}, "pixel size unknown"),
        ({"target": "deblur", "psf": "na=1.4,emission=0.52"}, "may be 520"),
    ],
)
def test_a_microscope_that_is_not_understood_is_said(asked, words) -> None:
    with pytest.raises(AbbeError, match=words):
        restore(noisy(), **asked)


def test_a_model_learns_no_more(tmp_path: Path) -> None:
    with pytest.raises(AbbeError, match="leave out either"):
        restore(noisy(), "nuclei", minutes=3)
    tifffile.imwrite(tmp_path / "a.tif", noisy())
    for asked in ({"train_on": [tmp_path]}, {"learning": SHORT}):
        with pytest.raises(AbbeError, match="has learnt already"):
            restore_files([tmp_path], Outputs(tmp_path / "out"), "nuclei", **asked)
