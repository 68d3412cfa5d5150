"""Grey photographs to take noise from, held in memory: from a folder, or those that come with scikit-image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import skimage.data

from abbe.data.channels import match_channels
from abbe.data.class_samples import read_picture
from abbe.data.clean import CleanImage, find_clean_images
from abbe.data.datasets import SPLITS
from abbe.data.normalize import Normalization
from abbe.errors import AbbeError

TRAIN = ("astronaut", "brick", "coffee", "grass", "gravel", "immunohistochemistry", "moon", "rocket", "text")
HELD_OUT = ("camera", "chelsea", "coins", "page")
"""Functions of ``skimage.data`` whose pictures are inside its package, so that nothing is downloaded."""
MOST = 400
"""Pictures of a folder that are read for a part."""
RANGE = Normalization("range")
"""Black to 0 and white to 1."""


@dataclass(frozen=True)
class Photographs:
    """Pictures to train on, and squares of others that are held out."""

    train: tuple[np.ndarray, ...]
    """(1, Y, X) each, float32, 0 to 1."""
    held_out: np.ndarray
    """(N, 1, side, side), likewise."""
    source: str
    """Where they are from, in words."""

    @property
    def summary(self) -> str:
        """Say what there is."""
        return f"{len(self.train)} pictures to train on and {len(self.held_out)} squares of others, from {self.source}"


def load_photographs(folder: Path | None, side: int, number: int, seed: int) -> Photographs:
    """Read pictures from a folder, or those of scikit-image where there is no folder.

    Parameters
    ----------
    folder
        What lies below folders whose names begin with ``train`` is trained on, with ``test`` or ``val`` held out;
        without such names a fifth of the pictures is held out.
    side
        Of the squares that are held out, in pixels.
    number
        Most squares that are held out, of all pictures in turn.
    seed
        Which these are.

    Raises
    ------
    AbbeError
        When there are fewer than two pictures, one cannot be read, or one to train on is smaller than a square.
    """
    if folder is None:
        train, held_out = ([bundled(name) for name in names] for names in (TRAIN, HELD_OUT))
        return Photographs(tuple(train), squares(held_out, side, number, seed), "scikit-image")
    parts = divided(find_clean_images(folder), folder, seed)
    train, held_out = ([grey(one.clean, side) for one in part] for part in parts)
    return Photographs(tuple(train), squares(held_out, side, number, seed), folder.name)


def bundled(name: str) -> np.ndarray:
    """Give a picture of scikit-image as grey, (1, Y, X)."""
    pixels = np.atleast_3d(getattr(skimage.data, name)()).transpose(2, 0, 1)
    return match_channels(RANGE.normalize(pixels), 1, name)


def grey(path: Path, side: int) -> np.ndarray:
    """Read a picture as grey, (1, Y, X), which has to be as large as a square."""
    pixels = read_picture(path, RANGE.normalize, 1)
    if min(pixels.shape[1:]) < side:
        extents = " x ".join(map(str, pixels.shape[1:]))
        raise AbbeError(f"{path}: {extents} pixels; expected {side} or more along both axes, leave it out")
    return pixels


def divided(images: Sequence[CleanImage], folder: Path, seed: int) -> tuple[list[CleanImage], list[CleanImage]]:
    """Choose what is trained on and what is held out, both by chance where there is more than is read."""
    if len(images) < 2:
        raise AbbeError(f"{folder}: one image; expected two or more, of which one is held out")
    mixed = [images[index] for index in np.random.default_rng(seed).permutation(len(images))]
    kinds = [part_of(one, folder) for one in mixed]
    train = [one for one, kind in zip(mixed, kinds) if kind == "train"]
    for name in ("test", "val"):
        held_out = [one for one, kind in zip(mixed, kinds) if kind == name]
        if train and held_out:
            return train[:MOST], held_out[:MOST]
    number = max(1, len(mixed) // 5)
    return mixed[number:][:MOST], mixed[:number][:MOST]


def part_of(image: CleanImage, folder: Path) -> str:
    """Tell train, val or test from how the folders on the way begin, the nearest first; empty where none does."""
    names = [*image.clean.relative_to(folder).parts[-2::-1], folder.name]
    words = [re.split("[^a-z]", name.lower(), maxsplit=1)[0] for name in names]
    return next((SPLITS[word] for word in words if word in SPLITS), "")


def squares(pictures: Sequence[np.ndarray], side: int, number: int, seed: int) -> np.ndarray:
    """Cut squares that do not overlap out of pictures (C, Y, X), of all of them in turn: (N, C, side, side)."""
    generator = np.random.default_rng(seed)
    cut = [generator.permutation(tiles(picture, side)) for picture in pictures]
    dealt = chain.from_iterable(zip_longest(*cut))
    return np.stack([one for one in dealt if one is not None][:number])


def tiles(picture: np.ndarray, side: int) -> np.ndarray:
    """Cut a picture (C, Y, X) into all its whole squares, (N, C, side, side)."""
    channels, rows, columns = len(picture), picture.shape[1] // side, picture.shape[2] // side
    whole = picture[:, : rows * side, : columns * side].reshape(channels, rows, side, columns, side)
    return whole.transpose(1, 3, 0, 2, 4).reshape(-1, channels, side, side)
