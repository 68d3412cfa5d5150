"""What training a restoration needs beside a recipe: good images or pairs in parts, and scores on whole images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from abbe.data.augment import AugmentConfig
from abbe.data.channels import match_channels
from abbe.data.clean import CleanImage, find_clean_images
from abbe.data.datasets import TrainingDataset, split, whole_plane, whole_volume
from abbe.data.image import Image
from abbe.data.normalize import Normalization
from abbe.data.read import read
from abbe.data.sample import Sample
from abbe.data.select import select
from abbe.errors import AbbeError
from abbe.methods.restoration.restore import CLEAN, Restoration
from abbe.ops.boxes import slices
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

PAIRS = 5
"""Pairs whose noise is compared."""
SWAPPED = 2.0
"""By what factor the noise of a good image is suspiciously above that of its bad one."""


@dataclass(frozen=True)
class RestorationSource:
    """Images in two parts."""

    train: list[CleanImage]
    validation: list[CleanImage]


def find_restoration_source(recipe: Recipe, tell: Callable[[str], None]) -> RestorationSource:
    """Find the images of all folders, and divide them as their folders say or by their names.

    Raises
    ------
    AbbeError
        When there are none, or they cannot be learnt from.
    """
    if not recipe.data.paths:
        raise AbbeError(f"recipe {recipe.name}: names no data; say where the images are with --data FOLDER")
    found = [one for path in recipe.data.paths for one in find_clean_images(path) if one.split != "test"]
    if not found:
        raise AbbeError(f"{recipe.data.paths[0]}: only images for testing; expected some in train")
    both = sum(one.worse is not None for one in found)
    tell(f"{both} pairs of a bad and a good image" if both else f"{len(found)} good images, made worse for each crop")
    if 0 < both < len(found):
        raise AbbeError(
            f"{recipe.data.paths[0]}: {both} pairs and {len(found) - both} good images alone; give one kind"
        )
    if both and (turned := seem_swapped(found)):
        tell(f"warning: {turned}")
    validation = [one for one in found if one.split == "val"]
    if validation:
        return RestorationSource([one for one in found if one.split != "val"], validation)
    share = recipe.data.validation_fraction
    if len(found) < 2 or share == 0:
        return RestorationSource(found, [])
    train, held = split(found, [1 - share, share], recipe.train.seed)  # type: ignore[arg-type]
    return RestorationSource(train, held)  # type: ignore[arg-type]


def seem_swapped(pairs: Sequence[CleanImage]) -> str:
    """Say so where most of a few pairs have more noise in the good image than in the bad one."""
    looked_at = [one for one in pairs if one.worse is not None][:PAIRS]
    more = 0
    for pair in looked_at:
        try:
            good, bad = (estimate_noise(_one_plane(read(path))) for path in (pair.clean, pair.worse))
        except AbbeError:
            continue
        more += good.deviation(good.level) > SWAPPED * bad.deviation(bad.level)
    if 2 * more <= len(looked_at):
        return ""
    first = looked_at[0]
    return f"{first.clean} has more noise than {first.worse}, and so have most pairs; are good and bad images swapped?"


def _one_plane(image: Image) -> np.ndarray:
    """Read the first channel of the first plane, (Y, X)."""
    frame = select(image, ImageSettings(z="all", time="all"))[0]
    return frame.box(tuple((0, extent) for extent in frame.extents))[0]


class RestorationSamples:
    """Images as a restoration learns from them, read once and kept.

    Parameters
    ----------
    images
        Good ones or pairs.
    normalization
        Measured on the bad image where there is one, and applied to both.
    in_channels
        Of the network.
    volume
        Read stacks whole instead of planes.
    """

    def __init__(
        self, images: Sequence[CleanImage], normalization: Normalization, in_channels: int, volume: bool = False
    ):
        self.images, self.normalization, self.in_channels, self.volume = images, normalization, in_channels, volume
        self._kept: dict[int, Sample] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        if index not in self._kept:
            self._kept[index] = self._read(self.images[index])
        return self._kept[index]

    def _read(self, image: CleanImage) -> Sample:
        opened = read(image.clean)
        clean = whole_volume(opened) if self.volume else whole_plane(opened)
        if image.worse is None:
            pixels = self._matched(self.normalization.normalize(clean), image.clean)
            return Sample(pixels, pixel_size=_pixel_size(opened.pixel_size, self.volume), name=image.name)
        bad = read(image.worse)
        worse = whole_volume(bad) if self.volume else whole_plane(bad)
        if worse.shape != clean.shape:
            raise AbbeError(f"{image.worse}: {worse.shape} pixels, but {image.clean} has {clean.shape}; expected equal")
        statistics = self.normalization.measure(worse)
        sides = [self._matched(statistics.apply(one), image.worse) for one in (worse, clean)]
        return Sample(np.concatenate(sides), name=image.name, extra={CLEAN: self.in_channels})

    def _matched(self, pixels: np.ndarray, path: Path) -> np.ndarray:
        return np.ascontiguousarray(match_channels(pixels, self.in_channels, path.name))


def _pixel_size(known: dict[str, float], volume: bool) -> tuple[float, ...] | None:
    axes = "zyx" if volume else "yx"
    return tuple(known[axis] for axis in axes) if set(axes) <= known.keys() else None


def restoration_samples(recipe: Recipe, method: Restoration, images: Sequence[CleanImage]) -> RestorationSamples:
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
