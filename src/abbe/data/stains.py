"""Stained tissue taken apart into what each dye absorbs: colour deconvolution.

Light that passes a dye is weakened by a factor, so optical densities add up: the density of a pixel in red, green and
blue is the sum of the dyes' colours, each as strong as there is dye (Ruifrok and Johnston 2001, Analytical and
Quantitative Cytology and Histology 23, 291-299, whose vectors these are)::

    log10(white / value) = amount of haematoxylin * its colour + amount of DAB * its colour + what is left
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from abbe.data.axes import Bounds, LazyArray
from abbe.data.image import Image
from abbe.data.normalize import sample_pixels

HAEMATOXYLIN = np.array([0.650, 0.704, 0.286])
EOSIN = np.array([0.072, 0.990, 0.105])
DAB = np.array([0.268, 0.570, 0.776])
"""Diaminobenzidine, the brown of immunohistochemistry."""
Stains = Literal["off", "h-dab"]
"""How colours are seen: as they are, or as haematoxylin, the dye of the nuclei, and DAB."""
WHITE = 99.5
"""Percentile of a channel that is taken for the light without tissue."""
DENSE = 0.15
"""Optical density, as a length in red, green and blue, from which a pixel shows a dye."""
ALIKE = 0.95
"""Cosine between a pixel's colour and a dye's from which they are the same."""
BROWN, BLUE, LIT = 0.2, 0.02, 0.7
"""Least shares of brown and blue in what is stained, and least light of the ground, of immunohistochemistry: sections
stained with haematoxylin and eosin have less than 0.04 brown, scikit-image's of immunohistochemistry 0.87."""


class Densities(LazyArray):
    """Amounts of two dyes in a colour image, as optical densities, computed where they are asked for.

    Parameters
    ----------
    source
        (3, [Z,] Y, X), red, green and blue.
    white
        (3,), the values of the light without tissue.
    colours
        (2, 3), of the dyes in optical density.
    """

    def __init__(self, source: Any, white: np.ndarray, colours: np.ndarray):
        self.shape, self.dtype = (2, *source.shape[1:]), np.dtype(np.float32)
        self._source, self._white = source, np.asarray(white, np.float32)
        rows = colours / np.linalg.norm(colours, axis=1, keepdims=True)
        left = np.cross(*rows)
        self._unmix = np.linalg.inv(np.stack([*rows, left / np.linalg.norm(left)]).T)[:2].astype(np.float32)

    def block(self, bounds: Bounds) -> np.ndarray:
        """Read colours and take them apart; there is no less than nothing of a dye."""
        inside = tuple(slice(start, stop) for start, stop in bounds[1:])
        amounts = np.tensordot(self._unmix, density(self._source[:, *inside], self._white), 1)
        return np.maximum(amounts, 0)[slice(*bounds[0])]


def density(pixels: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Compute optical densities of (3, ...) values; those brighter than ``white`` (3,) have none."""
    grounds = white.reshape(3, *[1] * (pixels.ndim - 1))
    least = 1 if pixels.dtype.kind in "iu" else 1 / 255  # so that black has a density
    return -np.log10(np.clip((pixels.astype(np.float32) + least) / (grounds + least), 1e-6, 1))


def take_apart(image: Image) -> Image:
    """Give the amounts of haematoxylin and DAB in place of the colours, (2, [Z,] Y, X), reading only a sample.

    Parameters
    ----------
    image
        CYX or CZYX, red, green and blue; values from 0 on.
    """
    white = white_of(sample_pixels(image.box, image.extents))
    data = Densities(image.data, white, np.stack([HAEMATOXYLIN, DAB]))
    return replace(image, data=data, channels=("haematoxylin", "DAB"), rgb=False)


def white_of(pixels: np.ndarray) -> np.ndarray:
    """Measure the light without tissue, (3,), in (3, N) pixels."""
    return np.percentile(pixels, WHITE, axis=1)


def is_brown_and_blue(image: Image) -> bool:
    """Tell whether an image, CYX or CZYX in red, green and blue, looks like haematoxylin and DAB."""
    pixels = sample_pixels(image.box, image.extents)
    white = white_of(pixels)
    brightest = np.iinfo(image.dtype).max if image.dtype.kind in "iu" else 1.0
    if white.min() < LIT * brightest:
        return False
    densities = density(pixels, white)  # (3, N)
    length = np.linalg.norm(densities, axis=0)
    colours = densities[:, length > DENSE] / length[length > DENSE]
    return _share(colours, DAB, (HAEMATOXYLIN, EOSIN)) >= BROWN and _share(colours, HAEMATOXYLIN, (DAB, EOSIN)) >= BLUE


def _share(colours: np.ndarray, dye: np.ndarray, others: Sequence[np.ndarray]) -> float:
    """Measure the part of colours (3, N) that are a dye's rather than another's."""
    likeness, *rest = (one / np.linalg.norm(one) @ colours for one in (dye, *others))
    return float(((likeness > ALIKE) & (likeness > np.max(rest, axis=0))).mean()) if colours.size else 0.0
