"""A small network for classes, registered for tests only, and folders of classes that it can tell apart."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import tifffile
import torch
from torch import nn

from abbe.methods.catalog import ENTRIES, Entry

NAME, FILE = "toy_classifier", "backbones/toy_classifier.py"
CLASSES = ("coarse", "fine", "smooth")


@dataclass(frozen=True)
class ToyConfig:
    in_channels: int = 1
    num_classes: int = 3
    width: int = 8


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x).relu()


class Toy(nn.Module):
    """A stem, two blocks, global pooling and a head."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.in_channels = config.in_channels
        self.stem = nn.Conv2d(config.in_channels, config.width, 3, 2, 1)
        self.blocks = nn.Sequential(Block(config.width), Block(config.width))
        self.head = nn.Linear(config.width, config.num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x).relu()).mean(dim=(2, 3)))


@contextmanager
def registered() -> Iterator[str]:
    """Let the catalog know the network within a ``with`` block; gives its name."""
    module = ModuleType("abbe.methods.backbones.toy_classifier")
    module.VARIANTS, module.build = {NAME: ToyConfig()}, Toy  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    ENTRIES[NAME] = Entry(FILE, "classification", "A toy", 2026, "doi:10.1/toy", "classification")
    try:
        yield NAME
    finally:
        del ENTRIES[NAME], sys.modules[module.__name__]


def draw(kind: str, generator: np.random.Generator, side: int = 24, dtype: str = "uint8") -> np.ndarray:
    """Draw a texture of a class, (Y, X): blocks of 6 pixels, single pixels, or a slope."""
    slope = np.add.outer(np.linspace(0, 1, side), np.linspace(0, 1, side)) / 2
    coarse = generator.random((6, 6)).repeat(6, 0).repeat(6, 1)[:side, :side]
    textures = {"coarse": coarse, "fine": generator.random((side, side)), "smooth": slope}
    noisy = textures[kind] + generator.normal(0, 0.02, (side, side))
    return (np.clip(noisy, 0, 1) * np.iinfo(dtype).max).astype(dtype)


def write_folders(root: Path, numbers: dict[str, int], seed: int = 0, dtype: str = "uint8", channels: int = 1) -> Path:
    """Write so many images of each class, with sides of 20 to 30 pixels, in groups of three: ``g0_2.tif``."""
    generator = np.random.default_rng(seed)
    for kind in CLASSES:
        (root / kind).mkdir(parents=True, exist_ok=True)
        for number in range(numbers.get(kind, 0)):
            side = int(generator.integers(20, 31))
            picture = draw(kind, generator, side, dtype)
            if channels > 1:
                picture = np.stack([picture] * channels)
            axes = {"axes": "CYX"} if channels > 1 else {}
            name = f"g{number // 3}_{number % 3}.tif"
            tifffile.imwrite(root / kind / name, picture, imagej=channels > 1, metadata=axes or None)
    return root


RECIPE = """\
# Textures: a toy
# command: abbe train textures.toml --data textures
# cost: seconds
# result: none

name = "textures"
method = "toy_classifier"
licence = "CC0"

[options]
label_smoothing = 0.05
balance = 0.5

[data]
in_channels = 1
groups = "_"
validation_fraction = 0.34

[data.normalization]
kind = "minmax"

[data.augment]
affine_probability = 0.0
elastic_probability = 0.0
curve_probability = 0.0
gamma_probability = 0.0
illumination_probability = 0.0
blur_probability = 0.0
noise_probability = 0.0

[train]
epochs = 3
steps_per_epoch = 20
batch_size = 8
crop = 24
learning_rate = 2e-2
ema_decay = 0.5
precision = "float32"
accelerator = "cpu"
"""
