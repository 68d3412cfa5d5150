"""What training a restoration needs beside a recipe: good images, simulated ones or pairs in parts, and scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from abbe.data.augment import AugmentConfig
from abbe.data.channels import match_channels
from abbe.data.clean import CleanImage, check_sizes, find_clean_images
from abbe.data.datasets import TrainingDataset, split, whole_plane, whole_volume
from abbe.data.image import Image
from abbe.data.normalize import Normalization
from abbe.data.read import read
from abbe.data.sample import Sample
from abbe.data.scenes import MOST_SCENES, SimulatedScene, simulated_scenes
from abbe.data.select import select
from abbe.errors import AbbeError
from abbe.methods.restoration.restore import CLEAN, Restoration, check_damage
from abbe.ops.boxes import slices
from abbe.ops.detail import Detail, measure_detail
from abbe.ops.noise import estimate_noise
from abbe.settings import ImageSettings
from abbe.tiling.grid import plan
from abbe.tiling.prepare import Predictor
from abbe.tiling.run import run
from abbe.tiling.stitch import stitch
from abbe.train.recipe import Recipe
from abbe.train.settings import build_config

TILE = {2: 512, 3: 64}
"""Pixels per side that the network sees at once in validation, by spatial axes."""
NOISY = ("noisy", "low", "raw")
"""What bad images are called that have more noise than good ones."""
BLURRED = ("blur", "blurred")
"""What those are called that have less."""
PAIRS = 5
"""Pairs whose noise and detail are compared."""
SWAPPED = 2.0
"""By what factor the noise of a good image is suspiciously above that of its bad one."""
SHARPER = 1.5
"""By what factor the share of detail in a bad image is suspiciously above that in its good one."""
CLEAR = 3.0
"""How far that detail must stand above the noise, lest noise be taken for detail."""
NOISE_ALONE = 1.2
"""Up to what factor of a good image's noise all that a bad one lacks is noise: detail would add to it."""
KEPT = 2**31
"""Bytes of images that are kept; others are read again for every crop."""
SIMULATED = ("train", "val", "seed")
"""What ``data.simulated`` says of scenes: how many in each part, and which."""
Good = CleanImage | SimulatedScene


@dataclass(frozen=True)
class RestorationSource:
    """Images in two parts."""

    train: list[Good]
    validation: list[Good]
    weights: list[float] | None = None
    """How often each image of the training is drawn, relative to the others; equally unless given."""

    @property
    def worsened(self) -> bool:
        """Whether good images are made worse, in place of bad ones that are there."""
        return not all(isinstance(one, CleanImage) and one.worse is not None for one in self.train)

    @property
    def noisy(self) -> bool:
        """Whether noise is all that the bad ones of pairs have too much of, as far as they are named so."""
        return all(isinstance(one, CleanImage) and one.word in NOISY for one in self.train)


def find_restoration_source(recipe: Recipe, tell: Callable[[str], None]) -> RestorationSource:
    """Find the images of all folders, and divide them as their folders say or by their names; simulated scenes join.

    Raises
    ------
    AbbeError
        When there are none, or they cannot be learnt from.
    """
    folders = [_find_folder(path, recipe) for path in recipe.data.paths]
    folders += [_simulated(recipe, tell)] if recipe.data.simulated else []
    train, held = ([one for folder in folders for one in folder[part]] for part in (0, 1))
    if not train:
        raise AbbeError(
            f"{recipe.data.paths[0]}: only images for testing; expected some in train"
            if recipe.data.paths
            else f"recipe {recipe.name}: names no data; say where the images are with --data FOLDER"
        )
    both = sum(isinstance(one, CleanImage) and one.worse is not None for one in train + held)
    alone = len(train) + len(held) - both
    parts = [f"{both} pairs of a bad and a good image"] if both else []
    tell(", ".join(parts + ([f"{alone} good images, made worse for each crop"] if alone else [])))
    opened = [one for one in train + held if isinstance(one, CleanImage)]
    check_sizes(opened)
    if opened and (matched := spell_matching(opened[0], recipe.data.in_channels)):
        tell(matched)
    if turned := seem_swapped(opened):
        tell(f"warning: {turned}")
    return RestorationSource(train, held, _weights(recipe, [len(folder[0]) for folder in folders]))


def _find_folder(path: str, recipe: Recipe) -> tuple[list[Good], list[Good]]:
    """Find the images of a folder to train and to validate on."""
    found = [one for one in find_clean_images(path) if one.split != "test"]
    validation = [one for one in found if one.split == "val"]
    share = recipe.data.validation_fraction
    if validation or len(found) < 2 or share == 0:
        return [one for one in found if one.split != "val"], list(validation)
    train, held = split(found, [1 - share, share], recipe.train.seed)  # type: ignore[arg-type]
    return train, held  # type: ignore[return-value]


def _simulated(recipe: Recipe, tell: Callable[[str], None]) -> tuple[list[Good], list[Good]]:
    """Name the scenes to train and to validate on; they are drawn when they are used, and no two parts share one."""
    wanted = recipe.data.simulated
    if wanted.keys() - set(SIMULATED) or min(wanted.values()) < 0:
        raise AbbeError(f"recipe {recipe.name}: data.simulated is {wanted}; expected numbers for train, val and seed")
    if max(wanted.get("train", 0), wanted.get("val", 0)) > MOST_SCENES:
        raise AbbeError(
            f"recipe {recipe.name}: data.simulated is {wanted}; expected at most {MOST_SCENES:,} scenes a part"
        )
    train, held = (
        simulated_scenes(wanted.get(part, 0), 2 * wanted.get("seed", 0) + place)
        for place, part in enumerate(("train", "val"))
    )
    tell(f"simulating {len(train)} scenes to train and {len(held)} to validate on")
    return list(train), list(held)


def _weights(recipe: Recipe, sizes: Sequence[int]) -> list[float] | None:
    """Spread the weights of folders, that of simulated scenes behind them, over their images."""
    weights = recipe.data.weights
    if not weights:
        return None
    if len(weights) != len(sizes) or min(weights) < 0 or sum(w for w, n in zip(weights, sizes, strict=True) if n) == 0:
        raise AbbeError(
            f"recipe {recipe.name}: data.weights is {weights} for {len(sizes)} sources of images (folders, and "
            "simulated scenes behind them); expected one number for each, none below 0 and one above, or an empty list"
        )
    return np.repeat(np.array(weights) / np.maximum(sizes, 1), sizes).tolist()


def spell_matching(image: CleanImage, in_channels: int) -> str:
    """Say what becomes of the colours of the first image, or of a grey one; nothing where it fits as it is."""
    match read(image.clean).n_channels, in_channels:
        case 3, 1:
            return f"{image.clean.name} has colours: learnt from as grey (luminance); --data.in_channels 3 keeps them"
        case 1, 3:
            return f"{image.clean.name} is grey: learnt from as three equal channels; --data.in_channels 1 takes one"
    return ""


def seem_swapped(pairs: Sequence[CleanImage]) -> str:
    """Say so where most of a few pairs look as if the good image were the bad one."""
    looked_at = [one for one in pairs if one.worse is not None][:PAIRS]
    found = [sign for sign in map(_sign_of_swapping, looked_at) if sign]
    if 2 * len(found) <= len(looked_at):
        return ""
    first, sign = looked_at[0], max(found, key=found.count)
    return f"{first.clean} has {sign} than {first.worse}, and so have most pairs; are good and bad images swapped?"


def _sign_of_swapping(pair: CleanImage) -> str:
    """Name what the good image should not have, "more noise" or "less detail"; empty where all is well.

    It may have more noise where the bad one is blurred. Unless that is noisy, by its name, it must therefore lack
    nothing else: blur takes away detail as well.
    """
    assert pair.worse is not None
    planes = [_one_plane(read(path)) for path in (pair.clean, pair.worse)]
    try:
        noises = [estimate_noise(plane) for plane in planes]
    except AbbeError:  # too small for it
        return ""
    usual, bad_usual = (noise.deviation(noise.level) for noise in noises)
    mean, bad_mean = (noise.deviation(np.nanmean(plane)) for noise, plane in zip(noises, planes, strict=True))
    good, bad = (measure_detail(plane, sigma**2) for plane, sigma in zip(planes, (mean, bad_mean), strict=True))
    lacks_noise_alone = np.nanstd(np.subtract(*planes, dtype=np.float64)) < NOISE_ALONE * mean
    by_noise = pair.word in NOISY or (lacks_noise_alone and pair.word not in BLURRED and not _is_sharper(good, bad))
    if by_noise and usual > SWAPPED * bad_usual:
        return "more noise"
    return "less detail" if _is_sharper(bad, good) else ""


def _is_sharper(detail: Detail, other: Detail) -> bool:
    return detail.over_noise > CLEAR and detail.share > SHARPER * other.share


def _one_plane(image: Image) -> np.ndarray:
    """Read the first channel of the first plane, (Y, X)."""
    frame = select(image, ImageSettings(z="all", time="all"))[0]
    return frame.box(tuple((0, extent) for extent in frame.extents))[0]


def check_damages(method: Restoration, samples: RestorationSamples) -> None:
    """See that the first good image without a bad one can be made worse in all ways asked for.

    Raises
    ------
    AbbeError
        Where it cannot, or no way is asked for.
    """
    paired = [isinstance(one, CleanImage) and one.worse is not None for one in samples.images]
    if all(paired):
        return
    if not method.options.kinds:
        raise AbbeError("options.kinds is empty; expected at least one way to make a good image worse")
    for kind in method.options.kinds:
        check_damage(kind, method.options, samples[paired.index(False)])


class RestorationSamples:
    """Images as a restoration learns from them, read once and kept as far as they fit into the memory for that.

    Parameters
    ----------
    images
        Good ones, simulated ones or pairs.
    normalization
        Measured on the bad image where there is one, and applied to both.
    in_channels
        Of the network.
    volume
        Read stacks whole instead of planes.
    """

    def __init__(self, images: Sequence[Good], normalization: Normalization, in_channels: int, volume: bool = False):
        self.images, self.normalization, self.in_channels, self.volume = images, normalization, in_channels, volume
        self._kept: dict[int, Sample] = {}
        self._room = KEPT

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        if index in self._kept:
            return self._kept[index]
        image = self.images[index]
        sample = self._draw(image) if isinstance(image, SimulatedScene) else self._read(image)
        if sample.image.nbytes <= self._room:
            self._room -= sample.image.nbytes
            self._kept[index] = sample
        return sample

    def _draw(self, scene: SimulatedScene) -> Sample:
        if self.volume:
            raise AbbeError(f"{scene.name}: simulated scenes are planes; a network of stacks needs --data FOLDER")
        pixels = match_channels(self.normalization.normalize(scene.render()[None]), self.in_channels, scene.name)
        return Sample(np.ascontiguousarray(pixels), name=scene.name)

    def _read(self, image: CleanImage) -> Sample:
        opened = read(image.clean)
        clean = whole_volume(opened) if self.volume else whole_plane(opened)
        if image.worse is None:
            filled, unknown = fill_unknown(clean, image.clean)
            pixels = self._matched(self.normalization.measure(clean).apply(filled), image.clean)
            size = _pixel_size(opened.pixel_size, self.volume)
            return Sample(pixels, ignore=unknown, pixel_size=size, name=image.name)
        bad = read(image.worse)
        worse = whole_volume(bad) if self.volume else whole_plane(bad)
        statistics = self.normalization.measure(worse)
        both = [fill_unknown(worse, image.worse), fill_unknown(clean, image.clean)]
        sides = [self._matched(statistics.apply(filled), image.worse) for filled, _ in both]
        holes = [unknown for _, unknown in both if unknown is not None]
        ignore = np.logical_or.reduce(holes) if holes else None
        return Sample(np.concatenate(sides), ignore=ignore, name=image.name, extra={CLEAN: self.in_channels})

    def _matched(self, pixels: np.ndarray, path: Path) -> np.ndarray:
        return np.ascontiguousarray(match_channels(pixels, self.in_channels, path.name))


def fill_unknown(pixels: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Give pixels (C, ...) without a value that of the nearest one which has any, lest they be learnt as black.

    Gives also where they are, bool without channels, or None where all have a value.
    """
    unknown = ~np.isfinite(pixels).all(axis=0)
    if not unknown.any():
        return pixels, None
    if unknown.all():
        raise AbbeError(f"{path}: no pixel has a value (NaN); leave the image out")
    nearest = ndimage.distance_transform_edt(unknown, return_distances=False, return_indices=True)
    return pixels[:, *nearest], unknown


def _pixel_size(known: dict[str, float], volume: bool) -> tuple[float, ...] | None:
    axes = "zyx" if volume else "yx"
    return tuple(known[axis] for axis in axes) if set(axes) <= known.keys() else None


def restoration_samples(recipe: Recipe, method: Restoration, images: Sequence[Good]) -> RestorationSamples:
    """Give the images as the method learns from them."""
    normalization = build_config(Normalization, recipe.data.normalization, f"{recipe.name}: data.normalization")
    return RestorationSamples(images, normalization, method.in_channels, len(method.geometry.multiple) == 3)


def restoration_training_data(recipe: Recipe, method: Restoration, source: RestorationSource) -> TrainingDataset:
    """Crops of all images, turned and flipped as the recipe says, and made worse."""
    samples = restoration_samples(recipe, method, source.train)
    steps = recipe.train.steps_per_epoch or max(len(samples) // recipe.train.batch_size, 1)
    return TrainingDataset(
        samples,
        method.prepare,
        build_config(AugmentConfig, recipe.data.augment, f"{recipe.name}: data.augment"),
        recipe.train.crop_extents(len(method.geometry.multiple)),
        steps * recipe.train.batch_size,
        recipe.train.seed,
        source.weights,
    )


@dataclass(frozen=True)
class RestorationValidation:
    """Scores of a method on whole images, each made worse once and for all."""

    samples: RestorationSamples
    seed: int

    def __call__(self, method: Restoration) -> dict[str, float]:
        """Measure PSNR and SSIM."""
        predictor = Predictor(method, precision="float32", backend="torch")
        found, truth = [], []
        for number in range(len(self.samples)):
            batch = method.prepare(self.samples[number], np.random.default_rng([self.seed, number]))
            found.append({"restored": restored(predictor, batch["image"].numpy())})
            truth.append({"clean": batch["clean"].numpy()})
        return method.score(found, truth)


def restored(predictor: Predictor, image: np.ndarray) -> np.ndarray:
    """Restore a normalised image (C, [Z,] Y, X) tile by tile."""
    shape, geometry = image.shape[1:], predictor.method.geometry
    grid = plan(shape, geometry, (TILE[len(shape)],) * len(shape))
    patches = run(lambda box: image[:, *slices(box)], shape, grid, predictor)
    return stitch(patches, shape)["restored"]
