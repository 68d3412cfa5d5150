"""Small pictures of classes, held in memory: from folders, or drawn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import torch

from abbe.data.class_samples import read_picture
from abbe.data.classes import Labelled, class_indices, classes_of, divide, find_classes
from abbe.data.squares import square
from abbe.errors import AbbeError
from abbe.reproduce.digits import CLASSES, draw_digits, handwritten_digits

SIDE = 32
"""Of a picture, in pixels."""
DRAWN = "digits are drawn, for scikit-learn and its handwritten ones are not installed: pip install 'abbe[embed]'"


@dataclass(frozen=True)
class Pictures:
    """Pictures to train on, and others that are held out."""

    pixels: torch.Tensor
    """(N, C, 32, 32), float32, each channel of mean 0 and deviation 1."""
    classes: torch.Tensor
    """(N,), int64."""
    held_out_pixels: torch.Tensor
    """(M, C, 32, 32), normalised as those to train on."""
    held_out_classes: torch.Tensor
    """(M,)."""
    number: int
    """Classes."""
    source: str
    """Where they are from, in words."""
    note: str = ""
    """What else there is to say of that."""


def load_pictures(folder: Path | None, number: int, held_out: int, seed: int) -> Pictures:
    """Read pictures from folders of classes, or take digits where there is no folder: scikit-learn's, or drawn ones.

    Parameters
    ----------
    folder
        With a folder for each class; with ``train`` and ``test`` or ``val`` above them the latter is held out, else
        a fifth of the pictures.
    number, held_out
        Most pictures of each kind; of every class equally many as far as there are.
    seed
        Which pictures these are.

    Raises
    ------
    AbbeError
        When there are fewer than two classes, or a picture cannot be read.
    """
    if folder is None:
        return load_digits(number, held_out, seed)
    images = find_classes(folder)
    classes = classes_of(images)
    if len(classes) < 2:
        raise AbbeError(f"{folder}: one class of images ({classes[0]}); expected a folder for each of two or more")
    train, test = split(images, seed)
    chosen = [some_of_each(part, count, seed) for part, count in ((train, number), (test, held_out))]
    parts = [(read_all(part), class_indices(part, classes)) for part in chosen]
    return normalised(parts[0], parts[1], len(classes), folder.name)


def load_digits(number: int, held_out: int, seed: int) -> Pictures:
    """Take scikit-learn's digits, a fifth of them held out, or draw some where it is not installed."""
    generator = np.random.default_rng(seed)
    found = handwritten_digits(SIDE)
    if found is None:
        drawn = [draw_digits(count, SIDE, generator) for count in (number, held_out)]
        return replace(normalised(drawn[0], drawn[1], CLASSES, "drawn digits"), note=DRAWN)
    pictures, classes = found
    order = generator.permutation(len(classes))
    parts = np.split(order, [len(order) // 5])
    test, train = ((pictures[part[:most]], classes[part[:most]]) for part, most in zip(parts, (held_out, number)))
    return normalised(train, test, CLASSES, "handwritten digits")


def split(images: Sequence[Labelled], seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """Find what is to be trained on and what is held out."""
    train = [one for one in images if one.split == "train"]
    for name in ("test", "val"):
        held_out = [one for one in images if one.split == name]
        if train and held_out:
            return train, held_out
    return divide(train or images, 0.2, seed=seed)


def some_of_each(images: Sequence[Labelled], number: int, seed: int) -> list[Labelled]:
    """Draw pictures, from each class in turn."""
    kinds: dict[str, list[Labelled]] = defaultdict(list)
    for index in np.random.default_rng(seed).permutation(len(images)):
        kinds[images[index].kind].append(images[index])
    dealt = chain.from_iterable(zip_longest(*(kinds[name] for name in sorted(kinds))))
    return [one for one in dealt if one is not None][:number]


def read_all(images: Sequence[Labelled]) -> np.ndarray:
    """Read pictures as colour, (N, 3, 32, 32)."""
    return np.stack([square(read_picture(one.image, as_float, 3), SIDE, "crop") for one in images])


def as_float(pixels: np.ndarray) -> np.ndarray:
    """Keep grey values as they are; what is read is normalised together."""
    return pixels.astype(np.float32)


def normalised(
    train: tuple[np.ndarray, np.ndarray], held_out: tuple[np.ndarray, np.ndarray], number: int, source: str
) -> Pictures:
    """Bring the channels of the pictures to train on to mean 0 and deviation 1, and the others as they were."""
    mean = train[0].mean((0, 2, 3), keepdims=True)
    deviation = np.maximum(train[0].std((0, 2, 3), keepdims=True), 1e-6)
    pixels, others = (torch.from_numpy((part[0] - mean) / deviation) for part in (train, held_out))
    return Pictures(pixels, torch.from_numpy(train[1]), others, torch.from_numpy(held_out[1]), number, source)
