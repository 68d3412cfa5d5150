"""Simulated fluorescence: fields of nuclei of any size, with exact labels.

A nucleus is an ellipse whose outline is bent by a few Fourier terms, filled with textured chromatin. Light
spreads by a Gaussian as wide as the objective's point-spread function (Zhang et al. 2007, doi
10.1364/AO.46.001819), and by a wide one that stands for what is out of focus; a camera adds shot noise, read
noise, gain and offset.

Where nuclei are, :mod:`abbe.data.placement` says for any place alone, so that a field of any extent can be
read in any order: :class:`LazyField`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage
from scipy.special import ndtri

from abbe.data.placement import ANGLES, Placed, Placement, hashed
from abbe.ops.labels import relabel

BLOCK = 512
"""Fields are made in squares of this many pixels."""
COARSE = 16
"""The haze is computed on a grid this much coarser."""
SHAPES = 128
"""Different nuclei in one field."""
BRIGHTNESS, VERTEX = 100, 101
"""Purposes of a hash."""


@dataclass(frozen=True)
class FluorescenceField:
    """What a simulated field looks like; lengths in pixels unless said otherwise."""

    shape: tuple[int, int] = (512, 512)
    """(Y, X)."""
    density: float = 6.0
    """Nuclei proposed per 100 × 100 pixels; in crowded fields fewer find room."""
    clumping: float = 0.4
    """Share of the nuclei that are put beside another one, up to 0.7."""
    gap: float = 1.5
    """Largest distance between neighbours in a clump."""
    diameter: float = 24.0
    """Median diameter of a nucleus."""
    diameter_spread: float = 0.15
    """Standard deviation of its logarithm; sizes beyond two of them do not occur."""
    elongation: float = 1.6
    """Largest ratio of the axes; between 1 and this all are equally frequent."""
    irregularity: float = 0.05
    """Relative amplitude of the bends of the outline."""
    texture: float = 0.25
    """Standard deviation of the logarithm of the chromatin's brightness."""
    brightness_spread: float = 0.3
    """Standard deviation of the logarithm of a nucleus's brightness."""
    photons: float = 300.0
    """Mean photons per pixel from a nucleus."""
    background: float = 15.0
    """Photons per pixel from everywhere."""
    haze: float = 0.15
    """Share of the light that is out of focus."""
    illumination: float = 0.25
    """Loss of light from the brightest place to the farthest corner, 0 to 1."""
    numerical_aperture: float = 0.75
    """Of the objective."""
    wavelength: float = 0.461
    """Of the light, in µm."""
    pixel_size: float = 0.325
    """In the object, in µm."""
    gain: float = 2.0
    """Grey values per photon."""
    offset: float = 100.0
    """Grey value without light."""
    read_noise: float = 2.0
    """Standard deviation of the camera's noise, in photons."""
    seed: int = 0
    """Of everything random."""

    @property
    def blur(self) -> float:
        """Standard deviation of the point-spread function, in pixels."""
        return 0.225 * self.wavelength / self.numerical_aperture / self.pixel_size


class Simulated(NamedTuple):
    """A simulated image and the truth about it."""

    image: np.ndarray
    """(Y, X) or (Z, Y, X), uint16, as a camera gives it."""
    labels: np.ndarray
    """Like ``image``, int32, 1..n: the pixels from which each nucleus sends light."""
    expected: np.ndarray
    """Like ``image``, float32: the mean over endless exposures, in grey values."""
    pixel_size: tuple[float, ...]
    """µm along each axis."""


def fluorescence_field(config: FluorescenceField) -> Simulated:
    """Simulate a whole field in memory; equal configs give equal fields."""
    height, width = config.shape
    blocks = math.ceil(height / BLOCK) * math.ceil(width / BLOCK)
    field = LazyField(config.shape, config, config.seed, kept=blocks)
    labels, _ = relabel(field.labels_region(0, height, 0, width))
    expected = field.expected_region(0, height, 0, width)
    return Simulated(field[:, :], labels, expected, (config.pixel_size,) * 2)


class LazyField:
    """A field of any extent that is made where it is read; it has ``shape``, ``dtype`` and slicing.

    What a pixel holds does not depend on the region it is read with. Memory is bounded by the region and
    ``kept`` blocks of 2.5 MiB.

    Parameters
    ----------
    shape
        (Y, X), in pixels.
    config
        Everything but the shape and the seed.
    seed
        Of everything random.
    kept
        Blocks that are remembered for neighbouring reads.
    """

    dtype = np.dtype(np.uint16)
    ndim = 2

    def __init__(
        self, shape: tuple[int, int], config: FluorescenceField | None = None, seed: int = 0, kept: int = 16
    ) -> None:
        self.shape = (int(shape[0]), int(shape[1]))
        self.config = replace(config or FluorescenceField(), shape=self.shape, seed=seed)
        self.kept = kept
        self._bank = _make_bank(self.config)
        config = self.config
        self._placement = Placement(
            self.shape, self._bank.outlines, config.density, config.clumping, config.gap, config.seed
        )
        self._light = lru_cache(maxsize=kept)(self._make_light)
        self._image = lru_cache(maxsize=kept)(self._make_image)

    def __reduce__(self) -> tuple[Any, ...]:
        return LazyField, (self.shape, self.config, self.config.seed, self.kept)

    def __getitem__(self, region: Any) -> np.ndarray:
        """Read a region by integers and slices of step 1."""
        keys = region if isinstance(region, tuple) else (region,)
        missing = (slice(None),) * (2 - sum(key is not Ellipsis for key in keys))
        dots = next((i for i, key in enumerate(keys) if key is Ellipsis), len(keys))
        keys = (*keys[:dots], *missing, *keys[dots + 1 :])
        bounds = [_bounds(key, extent) for key, extent in zip(keys, self.shape, strict=True)]
        image = self._assemble(self._image, np.uint16, *bounds[0], *bounds[1])
        return image[tuple(0 if isinstance(key, int | np.integer) else slice(None) for key in keys)]

    def labels_region(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Read labels (y1 - y0, x1 - x0), int32: unique in the whole field, with gaps."""
        return self._assemble(lambda *block: self._light(*block)[0], np.int32, y0, y1, x0, x1)

    def expected_region(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Read the mean grey values (y1 - y0, x1 - x0), float32, without noise."""

        def grey_values(*block: int) -> np.ndarray:
            return self.config.offset + self.config.gain * self._light(*block)[1]

        return self._assemble(grey_values, np.float32, y0, y1, x0, x1)

    def _assemble(self, make: Any, dtype: Any, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        result = np.empty((max(y1 - y0, 0), max(x1 - x0, 0)), dtype)
        if result.size == 0:
            return result
        for row in range(y0 // BLOCK, (y1 - 1) // BLOCK + 1):
            for column in range(x0 // BLOCK, (x1 - 1) // BLOCK + 1):
                top, left = row * BLOCK, column * BLOCK
                a, b = max(y0, top), min(y1, top + BLOCK)
                c, d = max(x0, left), min(x1, left + BLOCK)
                block = make(row, column)
                result[a - y0 : b - y0, c - x0 : d - x0] = block[a - top : b - top, c - left : d - left]
        return result

    def _make_image(self, row: int, column: int) -> np.ndarray:
        generator = np.random.default_rng([self.config.seed, row, column])
        return expose(self._light(row, column)[1], self.config, generator)

    def _make_light(self, row: int, column: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels and mean photons of one block."""
        config, top, left = self.config, row * BLOCK, column * BLOCK
        haze_reach = COARSE * math.ceil(4 * config.diameter / COARSE) if config.haze else 0
        edge = math.ceil(4 * config.blur)
        sites = self._placement.within(top, left, BLOCK, max(haze_reach, edge + self._placement.radius))
        labels, emission = self._stamp(sites, top - edge, left - edge, BLOCK + 2 * edge)
        inner = slice(edge, edge + BLOCK)
        sharp = ndimage.gaussian_filter(emission, config.blur, radius=edge)[inner, inner] if edge else emission
        light = (config.photons * (1 - config.haze)) * sharp
        if config.haze:
            light += (config.photons * config.haze) * self._haze(sites, top, left, haze_reach)
        light += config.background
        light *= self._illumination(top, left)
        return labels[inner, inner].copy(), light

    def _stamp(self, sites: Placed, top: int, left: int, extent: int) -> tuple[np.ndarray, np.ndarray]:
        """Put nuclei into a square: a pixel belongs to the first that covers it, and shines for it alone."""
        labels = np.zeros((extent, extent), np.int32)
        emission = np.zeros((extent, extent), np.float32)
        for y, x, kind, number, brightness in zip(*sites, self._brightness(sites.number), strict=True):
            stamp = self._bank.stamps[kind]
            rows, own_rows = _overlap(y - top, len(stamp), extent)
            columns, own_columns = _overlap(x - left, len(stamp), extent)
            own, mine = stamp[own_rows, own_columns], labels[rows, columns]
            free = (own > 0) & (mine == 0)
            mine[free] = number + 1
            emission[rows, columns] += (brightness * own) * free
        return labels, emission

    def _haze(self, sites: Placed, top: int, left: int, reach: int) -> np.ndarray:
        """Light out of focus: every nucleus as a spot that is blurred over four diameters."""
        config, count = self.config, (BLOCK + 2 * reach) // COARSE
        y, x = (sites.y - top + reach) // COARSE, (sites.x - left + reach) // COARSE
        seen = (y >= 0) & (y < count) & (x >= 0) & (x < count)
        power = (self._bank.power[sites.kind] * self._brightness(sites.number))[seen]
        coarse = np.bincount(y[seen] * count + x[seen], power, count * count).reshape(count, count) / COARSE**2
        # Two diameters wide, cut at two deviations, so that no block needs more than its reach.
        radius = reach // COARSE - 1
        blurred = ndimage.gaussian_filter(coarse, 2 * config.diameter / COARSE, radius=radius, mode="constant")
        weights = _interpolation(BLOCK, reach // COARSE, count)
        return (weights @ blurred @ weights.T).astype(np.float32)

    def _brightness(self, number: np.ndarray) -> np.ndarray:
        normal = ndtri(hashed(self.config.seed, number, BRIGHTNESS))
        return np.exp(self.config.brightness_spread * normal).astype(np.float32)

    def _illumination(self, top: int, left: int) -> np.ndarray:
        """A parabola over the whole field, its vertex near the middle."""
        vertex = 0.5 + 0.3 * (hashed(self.config.seed, np.arange(2), VERTEX) - 0.5)
        farthest = np.sum(np.maximum(vertex, 1 - vertex) ** 2)
        # The last block reaches out of the field.
        y, x = (
            (np.minimum(np.arange(start, start + BLOCK), extent) / extent - middle) ** 2
            for start, extent, middle in zip((top, left), self.shape, vertex)
        )
        loss = self.config.illumination / farthest
        return (1 - loss * y[:, None]).astype(np.float32) - (loss * x).astype(np.float32)


def _bounds(key: Any, extent: int) -> tuple[int, int]:
    if isinstance(key, slice):
        start, stop, step = key.indices(extent)
        if step != 1:
            raise IndexError(f"a lazy field is read with step 1, not {step}")
        return start, max(start, stop)
    index = int(key)
    if not -extent <= index < extent:
        raise IndexError(f"index {index} is outside of {extent} pixels")
    return index % extent, index % extent + 1


def _overlap(centre: int, size: int, extent: int) -> tuple[slice, slice]:
    """Part of [0, extent) under a stamp of ``size`` around ``centre``, and the part of the stamp over it."""
    start = int(centre) - size // 2
    first, last = min(max(start, 0), extent), max(min(start + size, extent), 0)
    return slice(first, last), slice(first - start, max(last, first) - start)


def _interpolation(extent: int, margin: int, count: int) -> np.ndarray:
    """Linear weights (extent, count) from coarse pixels to the fine ones that begin after ``margin``."""
    place = (np.arange(extent) + 0.5) / COARSE - 0.5 + margin
    return np.maximum(1 - np.abs(place[:, None] - np.arange(count)), 0)


# ------------------------------------------------------------------------------------------------ the camera


def expose(light: np.ndarray, config: FluorescenceField, generator: np.random.Generator) -> np.ndarray:
    """Turn mean photons into the grey values, uint16, of one exposure."""
    electrons = _shot_noise(light, generator)
    electrons += np.float32(config.read_noise) * generator.standard_normal(light.shape, dtype=np.float32)
    return np.clip(np.rint(config.offset + config.gain * electrons), 0, 65535).astype(np.uint16)


def _shot_noise(light: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Poisson numbers; those of a mean above 8 from a normal one with the right skewness, ten times as fast.

    Cornish and Fisher's expansion to the third moment; its mean is exact, its variance 1/18 too large.
    """
    light = light.astype(np.float32, copy=False)
    normal = generator.standard_normal(light.shape, dtype=np.float32)
    photons = light + np.sqrt(light) * normal + (normal * normal - 1) / 6
    dim = light < 8
    if dim.any():
        photons[dim] = generator.poisson(light[dim])
    return photons


# --------------------------------------------------------------------------------------------- single nuclei


class _Bank(NamedTuple):
    """Rendered nuclei to choose from."""

    stamps: list[np.ndarray]
    """(2 r + 1, 2 r + 1), float32: brightness, 0 outside."""
    outlines: np.ndarray
    """(SHAPES, ANGLES): distance from the centre to the outline, by the angle from x to y."""
    power: np.ndarray
    """(SHAPES,): sum of the brightness."""


def _make_bank(config: FluorescenceField) -> _Bank:
    generator = np.random.default_rng([config.seed, 1])
    outlines = np.stack([nucleus_outline(config, generator) for _ in range(SHAPES)])
    stamps = [render_nucleus(outline, config.texture, generator) for outline in outlines]
    return _Bank(stamps, outlines, np.array([stamp.sum() for stamp in stamps]))


def nucleus_outline(config: FluorescenceField, generator: np.random.Generator) -> np.ndarray:
    """Radius of a bent ellipse at equal angles."""
    angle = np.arange(ANGLES) * (2 * np.pi / ANGLES)
    size = config.diameter / 2 * math.exp(config.diameter_spread * np.clip(generator.normal(), -2, 2))
    ratio = math.sqrt(generator.uniform(1, config.elongation))
    turned = angle - generator.uniform(0, np.pi)
    ellipse = size / np.hypot(np.cos(turned) / ratio, np.sin(turned) * ratio)
    bends = sum(
        np.clip(generator.normal(), -2, 2) / order * np.cos(order * (angle - generator.uniform(0, 2 * np.pi)))
        for order in (2, 3, 4)
    )
    return ellipse * (1 + config.irregularity * np.clip(bends, -3, 3))


def render_nucleus(outline: np.ndarray, texture: float, generator: np.random.Generator) -> np.ndarray:
    """Draw one nucleus: thicker, so brighter, in the middle, and textured at two scales."""
    radius = math.ceil(outline.max())
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    place = np.arctan2(y, x) % (2 * np.pi) * (ANGLES / (2 * np.pi))
    relative = np.hypot(y, x) / np.interp(place, np.arange(ANGLES + 1), np.append(outline, outline[0]))
    inside = relative <= 1
    grains = sum(grain(relative.shape, outline.mean() / scale, generator) for scale in (3, 8))
    stamp = (0.5 + 0.5 * np.sqrt(np.clip(1 - relative**2, 0, 1))) * np.exp(texture * grains / math.sqrt(2))
    stamp /= stamp[inside].mean()
    return np.where(inside, np.maximum(stamp, 1e-3), 0).astype(np.float32)


def grain(shape: tuple[int, ...], sigma: Any, generator: np.random.Generator) -> np.ndarray:
    """Smooth noise of mean 0 and deviation 1; ``sigma`` in pixels, one for all axes or one for each."""
    noise = ndimage.gaussian_filter(generator.standard_normal(shape), sigma, mode="wrap")
    return (noise - noise.mean()) / max(float(noise.std()), 1e-9)
