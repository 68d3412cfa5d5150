"""Two ways to change pictures for classifiers: RandAugment and random erasing.

RandAugment (Cubuk et al. 2019, arXiv:1909.13719) does a few operations drawn at random, all with one strength.
The operations are those of the paper for any number of channels and any range of grey values: thresholds and blends
are relative to the darkest and brightest value of the picture, and what lies outside it is its mirror image. Random
erasing: Zhong et al. 2017, arXiv:1708.04896.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from abbe.data.channels import LUMINANCE
from abbe.data.warp import Warp

STRONGEST = 30.0
"""Magnitude at which operations are strongest, the paper's scale."""
LEVELS = 256
SMOOTHING = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
"""The kernel whose result sharpening goes away from."""
ERASED_AREA, ERASED_ASPECT = (0.02, 0.33), (0.3, 1 / 0.3)
"""Shares of the picture that are erased, and their height over width."""

Change = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def randaugment(
    image: np.ndarray,
    operations: int,
    magnitude: float,
    spread: float,
    generator: np.random.Generator,
    *,
    geometry: bool = True,
) -> np.ndarray:
    """Do some operations of RandAugment, one after another.

    Parameters
    ----------
    image
        (C, Y, X), float32.
    operations
        How many, the paper's N.
    magnitude
        How strong, 0 to 30, the paper's M.
    spread
        Standard deviation of the strength from operation to operation; the paper has none, timm's recipes have.
    generator
        Of the draws.
    geometry
        Allow those that move pixels; not where labels must stay on them.
    """
    chosen = [*GREY, *GEOMETRY] if geometry else GREY
    for _ in range(operations):
        change = chosen[int(generator.integers(len(chosen)))]
        drawn = generator.normal(magnitude, spread) if spread else magnitude
        image = change(image, min(max(drawn, 0.0), STRONGEST) / STRONGEST, generator)
    return np.ascontiguousarray(image, dtype=np.float32)


def erase(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Replace a random rectangle of (C, Y, X) by noise between the picture's darkest and brightest value."""
    height, width = image.shape[-2:]
    area = generator.uniform(*ERASED_AREA) * height * width
    aspect = float(np.exp(generator.uniform(*np.log(ERASED_ASPECT))))
    rows, columns = (
        int(np.clip(round(side), 1, extent))
        for side, extent in ((np.sqrt(area * aspect), height), (np.sqrt(area / aspect), width))
    )
    top, left = int(generator.integers(height - rows + 1)), int(generator.integers(width - columns + 1))
    low, span = _range(image)
    noise = generator.random((len(image), rows, columns), dtype=np.float32)
    erased = image.copy()
    erased[:, top : top + rows, left : left + columns] = low + span * noise
    return erased


def _range(image: np.ndarray) -> tuple[np.float32, np.float32]:
    low = image.min()
    return low, max(image.max() - low, np.float32(1e-6))


def _sign(generator: np.random.Generator) -> float:
    return float(generator.choice([-1.0, 1.0]))


# ------------------------------------------------------------------------------------------------ grey values


def _identity(image: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    return image


def _auto_contrast(image: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Stretch every channel over the range of the whole."""
    low, span = _range(image)
    darkest = image.min(axis=(1, 2), keepdims=True)
    brightest = image.max(axis=(1, 2), keepdims=True)
    return low + span * (image - darkest) / np.maximum(brightest - darkest, np.float32(1e-6))


def _equalize(image: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Give the grey values of every channel equal shares."""
    low, span = _range(image)
    levels = np.minimum((image - low) * np.float32(LEVELS / span), LEVELS - 1).astype(np.int64)
    result = np.empty_like(image)
    for channel, level in zip(result, levels, strict=True):
        cumulative = np.cumsum(np.bincount(level.ravel(), minlength=LEVELS))
        first = cumulative[level.min()]
        share = (cumulative - first) / max(cumulative[-1] - first, 1)
        channel[:] = low + span * share.astype(np.float32)[level]
    return result


def _solarize(image: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Invert what is brighter than a threshold, which falls from the brightest to the darkest value."""
    low, span = _range(image)
    bright = image >= low + span * np.float32(1 - strength)
    return np.where(bright & (strength > 0), 2 * low + span - image, image)


def _posterize(image: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Leave 8 to 4 bits of grey levels."""
    low, span = _range(image)
    levels = 2 ** round(8 - 4 * strength)
    return low + span * np.minimum(np.floor((image - low) / span * levels), levels - 1) / np.float32(levels - 1)


def _blend(image: np.ndarray, other: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Go towards another picture or away from it, by 0.9 at most."""
    return image + (image - other) * np.float32(0.9 * strength * _sign(generator))


def _colour(image: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    """Change the saturation of a colour picture; others stay."""
    if len(image) != 3:
        return image
    return _blend(image, np.tensordot(LUMINANCE, image, 1)[None], strength, generator)


def _contrast(image: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    return _blend(image, np.full((1, 1, 1), image.mean(), np.float32), strength, generator)


def _brightness(image: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    return _blend(image, np.full((1, 1, 1), image.min(), np.float32), strength, generator)


def _sharpness(image: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    smooth = np.stack([ndimage.convolve(channel, SMOOTHING, mode="mirror") for channel in image])
    return _blend(image, smooth, strength, generator)


# --------------------------------------------------------------------------------------------------- geometry


def _rotate(image: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    angle = np.deg2rad(30 * strength) * _sign(generator)
    return _moved(image, np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]))


def _shear_y(image: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    return _moved(image, np.array([[1.0, 0.3 * strength * _sign(generator)], [0.0, 1.0]]))


def _shear_x(image: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    return _moved(image, np.array([[1.0, 0.0], [0.3 * strength * _sign(generator), 1.0]]))


def _translate_y(image: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    return _moved(image, np.eye(2), (0.3 * strength * _sign(generator), 0.0))


def _translate_x(image: np.ndarray, strength: float, generator: np.random.Generator) -> np.ndarray:
    return _moved(image, np.eye(2), (0.0, 0.3 * strength * _sign(generator)))


def _moved(image: np.ndarray, matrix: np.ndarray, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Resample around the middle; the shift is a share of each side."""
    size = image.shape[1:]
    centre = (np.array(size) - 1) / 2 + np.array(shift) * size
    return Warp(size, matrix, centre, None, False).linear(image)


GREY: list[Change] = [
    *(_identity, _auto_contrast, _equalize, _solarize, _posterize),
    *(_colour, _contrast, _brightness, _sharpness),
]
GEOMETRY: list[Change] = [_rotate, _shear_y, _shear_x, _translate_y, _translate_x]
