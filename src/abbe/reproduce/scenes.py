"""Pictures of nuclei of two kinds under strong noise, where a pixel says little and its whole nucleus enough."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from abbe.data.synthetic import FluorescenceField, fluorescence_field

STRIDE = 2
"""Pixels of the image per pixel of the truth."""
LEVELS = (0.0, 0.6, 1.2)
"""Mean grey value of background and of the two kinds of nuclei."""
NOISE = 1.0
"""Standard deviation of the noise at each pixel."""
FIELD = 512
"""Extents of a simulated field, in pixels."""


class Scenes(NamedTuple):
    """Pictures and the truth about them."""

    images: torch.Tensor
    """(N, 1, Y, X), float32."""
    kinds: torch.Tensor
    """(N, Y / 2, X / 2), int64: 0 background, 1 dim, 2 bright."""
    labels: torch.Tensor
    """(N, Y / 2, X / 2), int64: 0 background, else the number of the nucleus."""


def simulate(numbers: Iterable[int], crop: int, seed: int) -> Scenes:
    """Cut fields of nuclei into pictures."""
    parts = [scenes_of(crop, np.random.default_rng([seed, number])) for number in numbers]
    return Scenes(*(torch.cat(some) for some in zip(*parts, strict=True)))


def scenes_of(crop: int, generator: np.random.Generator) -> Scenes:
    """Simulate a field, give each nucleus a kind at random, and add noise."""
    shapes = FluorescenceField(shape=(FIELD, FIELD), diameter=26.0, density=10.0, seed=int(generator.integers(2**31)))
    labels = fluorescence_field(shapes).labels
    kind_of = np.append(0, generator.integers(1, len(LEVELS), labels.max()))
    kinds = kind_of[labels]
    image = np.asarray(LEVELS)[kinds] + NOISE * generator.standard_normal(labels.shape)
    pictures = torch.from_numpy(tiles(image.astype(np.float32), crop))[:, None]
    coarse = [torch.from_numpy(tiles(truth, crop)[:, ::STRIDE, ::STRIDE].astype(np.int64)) for truth in (kinds, labels)]
    return Scenes(pictures, *coarse)


def tiles(field: np.ndarray, crop: int) -> np.ndarray:
    """Cut (Y, X) into squares side by side, (N, crop, crop)."""
    rows, columns = (extent // crop for extent in field.shape)
    whole = field[: rows * crop, : columns * crop]
    return whole.reshape(rows, crop, columns, crop).swapaxes(1, 2).reshape(-1, crop, crop)
