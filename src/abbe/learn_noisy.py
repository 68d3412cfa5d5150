"""What training on noisy images alone needs beside a recipe: pieces of them, some held out, and one normalisation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from abbe.data.augment import AugmentConfig
from abbe.data.datasets import SPLITS, TrainingDataset
from abbe.data.inputs import find_images
from abbe.data.noisy import NoisyPieces, take_pieces
from abbe.data.read import read
from abbe.data.select import ALL, Series, select
from abbe.data.times import times_as_planes, with_times
from abbe.errors import AbbeError
from abbe.methods.catalog import entry, variant
from abbe.settings import ImageSettings
from abbe.train.recipe import Recipe
from abbe.train.settings import build_config

OBJECTIVES = ("noise2void", "n2v2", "structn2v")
"""Those that learn from noisy images alone."""
STEPS = 50
"""Steps of an epoch of a recipe that does not say."""
VALIDATED = 64
"""Crops that are validated on."""
ASIS = AugmentConfig(
    flips=False,
    quarter_turns=False,
    affine_probability=0,
    elastic_probability=0,
    stain_probability=0,
    curve_probability=0,
    gamma_probability=0,
    contrast_probability=0,
    illumination_probability=0,
    blur_probability=0,
    noise_probability=0,
)
"""Crops of the pixels as they are."""


def find_noisy_images(recipe: Recipe) -> list[Series]:
    """Open the images of all folders, those for testing left out; every plane and time point is one to learn from.

    Raises
    ------
    AbbeError
        When there are none, or one cannot be opened.
    """
    if not recipe.data.paths:
        raise AbbeError(f"recipe {recipe.name}: names no data; say where the noisy images are with --data FOLDER")
    found = [one.path for one in find_images(recipe.data.paths) if not _is_for_testing(one.path)]
    if not found:
        raise AbbeError(f"{recipe.data.paths[0]}: only images for testing; expected some in train")
    if recipe.data.depth == "z":
        return open_frames(found, ImageSettings(), axes_of(recipe))
    if axes_of(recipe) == 2:
        raise AbbeError(
            f'recipe {recipe.name}: data.depth is "time", but {recipe.method} takes planes; expected a network of '
            "stacks, such as --method noise2void_3d"
        )
    return open_frames([times_as_planes(with_times(read(path))) for path in found], ImageSettings(), 3)


def open_frames(images: Sequence[Any], settings: ImageSettings, axes: int) -> list[Series]:
    """Open images; every plane (of three ``axes`` stack) and time point is a frame, unless the settings choose one."""
    loops = {axis: ALL for axis in ("time", "z") if getattr(settings, axis) is None}
    every = dataclasses.replace(settings, **loops)  # type: ignore[arg-type]
    return [select(image, every, axes) for image in images]


def axes_of(recipe: Recipe) -> int:
    """Give the spatial axes that the recipe's network has."""
    return len(recipe.network.get("pool", variant(recipe.method).pool))


def _is_for_testing(path: Path | str) -> bool:
    return any(SPLITS.get(part.lower()) == "test" for part in Path(path).parts[:-1])


def settle_noisy(recipe: Recipe, images: Sequence[Series], tell: Callable[[str], None]) -> NoisyPieces:
    """Read pieces of the images, and write into the recipe what they decide: channels and normalisation."""
    pieces = take_pieces(images, recipe.train.seed, tell=tell)
    recipe.data.in_channels = len(pieces.train[0].image)
    recipe.data.normalization = dataclasses.asdict(pieces.normalization)
    return pieces


def recipe_objective(recipe: Recipe) -> str:
    """Name the objective of a recipe: its own, or that of its network."""
    return recipe.objective or entry(recipe.method).objective


def fit_crops(recipe: Recipe, method: Any, pieces: NoisyPieces, tell: Callable[[str], None]) -> NoisyPieces:
    """Leave out pieces that are smaller than a crop, or make the crops smaller where all are.

    A crop that is larger is filled up with mirror images, in which stand the values that are hidden.

    Raises
    ------
    AbbeError
        When the images are too small for the network.
    """
    multiple = method.geometry.multiple
    wanted = recipe.train.crop_extents(len(multiple))
    extents = [piece.image.shape[1:] for piece in pieces.train]
    if not any(_holds(one, wanted) for one in extents):
        larger = sorted(extents, key=math.prod)[len(extents) // 2 :]
        held = (min(along) // m * m for along, m in zip(zip(*larger, strict=True), multiple, strict=True))
        wanted = tuple(min(pair) for pair in zip(wanted, held, strict=True))
        if min(wanted) == 0:
            raise AbbeError(
                f"{' x '.join(map(str, larger[-1]))} pixels: too small to learn from; {recipe.method} takes at least "
                f"{' x '.join(map(str, multiple))}, restore them without learning by --model denoise"
            )
        recipe.train.crop = wanted
    train, validation = (
        [piece for piece in part if _holds(piece.image.shape[1:], wanted)] for part in (pieces.train, pieces.validation)
    )
    if left := len(pieces.train) - len(train):
        side = " x ".join(map(str, wanted))
        tell(f"{left} of {len(pieces.train)} pieces are smaller than crops of {side} pixels and not learnt from")
    return dataclasses.replace(pieces, train=train, validation=validation or train)


def _holds(extents: Sequence[int], crop: Sequence[int]) -> bool:
    return all(extent >= side for extent, side in zip(extents, crop, strict=True))


def noisy_training_data(recipe: Recipe, method: Any, pieces: NoisyPieces) -> TrainingDataset:
    """Crops of the pieces, flipped and turned as far as what is hidden looks the same then, or as the recipe says.

    Other changes would spread the noise of a pixel over several.
    """
    usual = dataclasses.asdict(ASIS) | symmetries(getattr(method, "element", np.ones((1, 1), bool)))
    *_, height, width = recipe.train.crop_extents(len(method.geometry.multiple))
    usual["quarter_turns"] &= height == width  # turned, another crop would not fit into a small piece
    augment = build_config(AugmentConfig, usual | recipe.data.augment, f"{recipe.name}: data.augment")
    steps = recipe.train.steps_per_epoch or STEPS
    return _crops(recipe, method, pieces.train, augment, steps * recipe.train.batch_size)


def symmetries(element: np.ndarray) -> dict[str, bool]:
    """Say whether flips along each axis and quarter turns of planes leave an element ([Z,] Y, X) as it is."""
    flips = all(np.array_equal(element, np.flip(element, axis)) for axis in range(element.ndim))
    return {"flips": flips, "quarter_turns": flips and np.array_equal(element, np.rot90(element, axes=(-2, -1)))}


def noisy_validation_data(recipe: Recipe, method: Any, pieces: NoisyPieces) -> TrainingDataset:
    """Crops of the pieces that are held out, the same with the same pixels hidden every time."""
    return _crops(recipe, method, pieces.validation, ASIS, VALIDATED)


def _crops(recipe: Recipe, method: Any, samples: Any, augment: AugmentConfig, number: int) -> TrainingDataset:
    extents = recipe.train.crop_extents(len(method.geometry.multiple))
    return TrainingDataset(samples, method.prepare, augment, extents, number, recipe.train.seed)
