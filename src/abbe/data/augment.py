"""Random crops for training: one resampling of image and labels together, then changes of the grey values.

Every geometric change of a crop (place, rotation, scale, flips, shear, elastic deformation) is composed into
one map of coordinates, so that the image is interpolated once and labels are looked up at the nearest pixel,
never mixed. Only the crop is computed, so the cost does not grow with the image.

The elastic deformation is that of Ronneberger et al. 2015 (arXiv 1505.04597, section 3.1): Gaussian
displacements of 10 px on a coarse 3 × 3 grid, interpolated cubically. The smooth monotone grey-value curve
follows the idea of Falk et al. 2019 (doi 10.1038/s41592-018-0261-2); the stain jitter that of Tellez et al.
2018 (arXiv 1808.05896) with the stain vectors of Ruifrok and Johnston 2001.

Z stacks are warped as the solids that they are, with one difference: they are turned and sheared in their planes
only, since microscopes see along Z differently. Displacements are equally long along all axes in micrometres, where
the voxel is known. Blur and illumination are those of the planes, all alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch.nn import functional as F

from abbe.data.channels import LUMINANCE
from abbe.data.randaugment import erase, randaugment
from abbe.data.sample import Sample
from abbe.data.stains import DAB, EOSIN, HAEMATOXYLIN
from abbe.data.warp import Warp, upsample
from abbe.ops.labels import typical_diameter

STAINS = np.array([HAEMATOXYLIN, EOSIN, [0.268, -0.154, 0.951]])
"""Haematoxylin, eosin and what is orthogonal to both, as optical density in red, green and blue."""
LIGHT = 0.3
"""How far below zero an optical density may fall: no stain makes a pixel much brighter than the lamp."""
MAX_MAGNIFICATION = 4.0


@dataclass(frozen=True)
class AugmentConfig:
    """How much training images are changed; probabilities are per crop."""

    foreground_probability: float = 0.75
    """Chance that the crop is placed so that it shows an object."""
    flips: bool | Literal["x"] = True
    """Mirror along each axis with chance one half, Z too; "x": left and right only, for photographs."""
    quarter_turns: bool = True
    """Turn by a random multiple of 90 degrees; exact, without interpolation."""
    affine_probability: float = 0.7
    """Chance of a free rotation, scale, anisotropy and shear; other crops keep the pixel grid."""
    rotation: float = 180.0
    """Largest free rotation to either side, in degrees."""
    translation: float = 0.0
    """Largest shift of the crop to either side, as a share of its sides; it may leave the image."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Range of the magnification, log-uniform; above 1 objects grow."""
    diameter: tuple[float, float] | None = None
    """Range of diameters, log-uniform, to which the sample's typical object is magnified; in place of ``scale``."""
    anisotropy: float = 0.1
    """Largest stretch of one axis against the other, as a logarithm: 0.1 is about 10 %."""
    shear: float = 0.1
    """Largest shear to either side, as the tangent of its angle."""
    elastic_probability: float = 0.3
    """Chance of a smooth elastic deformation."""
    elastic_sigma: float = 10.0
    """Standard deviation of the coarse displacements, in pixels of the crop along Y and X."""
    elastic_grid: int = 3
    """Coarse displacements along each axis of the crop."""
    invert_probability: float = 0.0
    """Chance to swap bright and dark, x to 1 - x."""
    grey_probability: float = 0.0
    """Chance that a colour image becomes its luminance in all three channels."""
    pseudo_colour_probability: float = 0.0
    """Chance that a grey image in three equal channels gets a random colour, on dark or light ground."""
    stain_probability: float = 0.5
    """Chance that the stains of a colour image become stronger or weaker."""
    stain_strength: float = 0.2
    """Largest relative change of a stain, and a quarter of it as the largest shift, in optical density."""
    dab_probability: float = 0.0
    """Chance that the eosin of a colour image becomes the brown of immunohistochemistry."""
    dab_strength: tuple[float, float] = (1.0, 4.0)
    """Range of the brown's optical density over the eosin's, log-uniform."""
    curve_probability: float = 0.2
    """Chance of a random smooth monotone grey-value curve."""
    gamma_probability: float = 0.3
    """Chance of a power law."""
    gamma: tuple[float, float] = (0.6, 1.6)
    """Range of its exponent, log-uniform."""
    contrast_probability: float = 0.5
    """Chance of a new contrast and brightness."""
    contrast: float = 0.4
    """Largest change of contrast, as a logarithm, around the mean grey value."""
    brightness: float = 0.1
    """Largest grey value that is added or taken away."""
    illumination_probability: float = 0.2
    """Chance of an uneven illumination, a smooth field that multiplies the image."""
    illumination: float = 0.2
    """Standard deviation of its logarithm on a coarse grid."""
    blur_probability: float = 0.2
    """Chance of a Gaussian blur."""
    blur: tuple[float, float] = (0.5, 2.0)
    """Range of its standard deviation, in pixels."""
    noise_probability: float = 0.3
    """Chance of noise."""
    noise: float = 0.05
    """Largest standard deviation of the part of the noise that is equal everywhere."""
    photons: tuple[float, float] = (50.0, 5000.0)
    """Range of the photons at grey value 1 that set the shot noise, log-uniform."""
    randaugment_operations: int = 0
    """Operations of RandAugment after all that, of planes; where objects are labelled only such as move no pixel."""
    randaugment_magnitude: float = 9.0
    """Their strength, 0 to 30."""
    randaugment_spread: float = 0.0
    """Standard deviation of that strength, drawn anew for each operation."""
    erase_probability: float = 0.0
    """Chance that a random rectangle of a plane becomes noise, which for labels is still the object."""


def augment(sample: Sample, config: AugmentConfig, generator: np.random.Generator, size: tuple[int, ...]) -> Sample:
    """Cut one random crop of ``size`` pixels out of a sample, changed as ``config`` says.

    ``size`` is (Y, X), or (Z, Y, X) for a stack. What lies outside the image is its mirror image. Labels keep
    their numbers; an object that the crop cuts keeps what is inside. Equal generators give equal crops.
    """
    anchor = _anchor(sample, config, generator)
    warp = _draw_warp(sample, size, anchor, config, generator)
    image = change_intensity(warp.linear(sample.image), config, generator)
    if len(size) == 2 and config.randaugment_operations:
        strength = config.randaugment_magnitude, config.randaugment_spread
        image = randaugment(image, config.randaugment_operations, *strength, generator, geometry=sample.labels is None)
    if len(size) == 2 and config.erase_probability and generator.random() < config.erase_probability:
        image = erase(image, generator)
    return replace(
        sample,
        image=image,
        labels=None if sample.labels is None else warp.nearest(sample.labels),
        ignore=None if sample.ignore is None else warp.nearest(sample.ignore),
        pixel_size=_scaled(sample.pixel_size, warp.step),
    )


# ---------------------------------------------------------------------------------------- where the crop lies


def _anchor(sample: Sample, config: AugmentConfig, generator: np.random.Generator) -> tuple[int, ...] | None:
    """A pixel of an object that the crop is to show, or None for anywhere."""
    if sample.labels is None or generator.random() >= config.foreground_probability:
        return None
    # Drawn blindly: a search for foreground would cost time that grows with the image.
    places = tuple(generator.integers(0, extent, 1024) for extent in sample.labels.shape)
    hits = np.flatnonzero(sample.labels[places] > 0)
    return tuple(int(axis[hits[0]]) for axis in places) if hits.size else None


def _draw_warp(
    sample: Sample,
    size: tuple[int, ...],
    anchor: tuple[int, ...] | None,
    config: AugmentConfig,
    generator: np.random.Generator,
) -> Warp:
    matrix = _flips_and_turns(len(size), config, generator)
    exact = True
    if generator.random() < config.affine_probability:
        matrix, exact = _free_affine(sample, config, generator) @ matrix, False
    displacement = None
    if generator.random() < config.elastic_probability:
        displacement, exact = _draw_displacement(sample, size, config, generator), False
    centre = _centre(sample.image.shape[1:], size, matrix, anchor, generator)
    if config.translation:
        centre = centre + config.translation * np.array(size) * generator.uniform(-1, 1, len(size))
    if displacement is None:  # pixels fall on pixels along the axes that keep their grid
        offset = (np.abs(matrix) @ size - 1) / 2
        kept = (np.count_nonzero(matrix, axis=1) == 1) & (np.abs(matrix).max(axis=1) == 1)
        centre = np.where(kept, np.rint(centre - offset) + offset, centre)
    return Warp(size, matrix, centre, displacement, exact)


def _draw_displacement(
    sample: Sample, size: tuple[int, ...], config: AugmentConfig, generator: np.random.Generator
) -> np.ndarray:
    """Smooth displacements (axes, *size) in pixels, equally long along all axes in µm where those are known."""
    axes = len(size)
    coarse = generator.normal(0.0, config.elastic_sigma, (axes, *[config.elastic_grid] * axes))
    if axes == 3 and sample.pixel_size is not None:
        coarse[0] *= sample.pixel_size[-1] / sample.pixel_size[0]
    return upsample(coarse, size)


def _flips_and_turns(axes: int, config: AugmentConfig, generator: np.random.Generator) -> np.ndarray:
    """A random symmetry of the square, and of Z before it, as a matrix from crop to image coordinates ([z,] y, x)."""
    matrix = np.eye(axes)
    if config.flips == "x":
        matrix[-1, -1] = generator.choice([-1.0, 1.0])
    elif config.flips:
        matrix = np.diag(generator.choice([-1.0, 1.0], axes))
    if config.quarter_turns:
        quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
        matrix = _of_plane(np.linalg.matrix_power(quarter, int(generator.integers(4))), axes) @ matrix
    return matrix


def _of_plane(matrix: np.ndarray, axes: int) -> np.ndarray:
    """A matrix for (y, x) as one for ([z,] y, x) that leaves z alone."""
    whole = np.eye(axes)
    whole[-2:, -2:] = matrix
    return whole


def _free_affine(sample: Sample, config: AugmentConfig, generator: np.random.Generator) -> np.ndarray:
    """Rotation, shear and anisotropy of planes, and scale, as a matrix from crop to image coordinates ([z,] y, x)."""
    angle = np.deg2rad(generator.uniform(-config.rotation, config.rotation))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.array([[1.0, generator.uniform(-config.shear, config.shear)], [0.0, 1.0]])
    stretch = np.exp(generator.uniform(-config.anisotropy, config.anisotropy) / 2)
    plane = rotation @ shear @ np.diag([stretch, 1 / stretch])
    return _of_plane(plane, sample.image.ndim - 1) / _magnification(sample, config, generator)


def _magnification(sample: Sample, config: AugmentConfig, generator: np.random.Generator) -> float:
    """Draw the factor by which objects grow."""
    if config.diameter is None or sample.labels is None or not sample.labels.any():
        return _log_uniform(config.scale, generator)
    wanted = _log_uniform(config.diameter, generator)
    return float(np.clip(wanted / typical_diameter(sample.labels), 1 / MAX_MAGNIFICATION, MAX_MAGNIFICATION))


def _centre(
    extent: tuple[int, ...],
    size: tuple[int, ...],
    matrix: np.ndarray,
    anchor: tuple[int, ...] | None,
    generator: np.random.Generator,
) -> np.ndarray:
    """Centre of the crop in the image, ([z,] y, x): within the image as far as the crop fits."""
    half = np.abs(matrix) @ size / 2
    opposite = np.array(extent) - half
    low, high = np.minimum(half, opposite) - 0.5, np.maximum(half, opposite) - 0.5
    if anchor is None:
        return generator.uniform(low, high)
    # The object may lie anywhere in the crop, not always at its centre.
    inside = 0.45 * np.array(size) * generator.uniform(-1, 1, len(size))
    return np.clip(np.array(anchor) + matrix @ inside, low, high)


# ------------------------------------------------------------------------------------------------ grey values


def change_intensity(image: np.ndarray, config: AugmentConfig, generator: np.random.Generator) -> np.ndarray:
    """Change the grey values of an image (C, ..., Y, X), float32, of about [0, 1], as ``config`` says.

    The result may leave [0, 1], as a normalised image may.
    """
    steps: list[tuple[float, Callable[..., np.ndarray]]] = [
        (config.invert_probability, _invert),
        (config.grey_probability, _to_grey),
        (config.dab_probability, _eosin_to_dab),
        (config.stain_probability, _jitter_stains),
        (config.pseudo_colour_probability, _pseudo_colour),
        (config.curve_probability, _curve),
        (config.gamma_probability, _gamma),
        (config.contrast_probability, _contrast),
        (config.illumination_probability, _illuminate),
        (config.blur_probability, _blur),
        (config.noise_probability, _noise),
    ]
    for probability, step in steps:
        if generator.random() < probability:
            image = step(image, config, generator)
    return np.ascontiguousarray(image, dtype=np.float32)


def _invert(image: np.ndarray, config: AugmentConfig, generator: np.random.Generator) -> np.ndarray:
    return 1 - image


def _is_colour(image: np.ndarray) -> bool:
    return len(image) == 3 and not (np.array_equal(image[0], image[1]) and np.array_equal(image[0], image[2]))


def _to_grey(image: np.ndarray, config: AugmentConfig, generator: np.random.Generator) -> np.ndarray:
    if not _is_colour(image):
        return image
    return np.repeat(np.tensordot(LUMINANCE, image, 1)[None], 3, axis=0)


def _eosin_to_dab(image: np.ndarray, config: AugmentConfig, generator: np.random.Generator) -> np.ndarray:
    """Stain brown what was pink; haematoxylin stays as it is."""
    stains = STAINS.copy()
    stains[1] = DAB * _log_uniform(config.dab_strength, generator)
    return _restain(image, stains)


def _jitter_stains(image: np.ndarray, config: AugmentConfig, generator: np.random.Generator) -> np.ndarray:
    strength = config.stain_strength
    factors = 1 + generator.uniform(-strength, strength, 3)
    shifts = generator.uniform(-strength, strength, 3) / 4
    return _restain(image, STAINS * factors[:, None], STAINS.T @ shifts)


def _restain(image: np.ndarray, stains: np.ndarray, shift: np.ndarray | None = None) -> np.ndarray:
    """Give a colour image other stains (3, 3) in place of ``STAINS``, and ``shift`` (3,) more optical density."""
    if not _is_colour(image):
        return image
    density = -np.log(np.maximum(image, np.float32(1 / 255))).reshape(3, -1)
    mixing = stains.T @ np.linalg.inv(STAINS.T)
    density = mixing.astype(np.float32) @ density
    if shift is not None:
        density += shift.astype(np.float32)[:, None]
    return np.exp(-np.maximum(density, -LIGHT)).reshape(image.shape)


def _pseudo_colour(image: np.ndarray, config: AugmentConfig, generator: np.random.Generator) -> np.ndarray:
    if len(image) != 3 or _is_colour(image):
        return image
    shape = (3,) + (1,) * (image.ndim - 1)
    ground, object_colour = generator.uniform(0, 0.3, 3), generator.uniform(0, 1, 3)
    object_colour[generator.integers(3)] = 1.0  # one channel keeps the full contrast
    if generator.random() < 0.5:
        ground, object_colour = 1 - ground, 1 - object_colour
    offset, slope = ground.reshape(shape), (object_colour - ground).reshape(shape)
    return offset.astype(np.float32) + image * slope.astype(np.float32)


def _curve(image: np.ndarray, config: AugmentConfig, generator: np.random.Generator) -> np.ndarray:
    """Map grey values by a random smooth curve that rises everywhere and keeps the darkest and brightest."""
    heights = np.concatenate([[0.0], np.cumsum(generator.dirichlet(np.full(5, 3.0)))])
    curve = PchipInterpolator(np.linspace(0, 1, 6), heights)
    table = curve(np.linspace(0, 1, 1025)).astype(np.float32)
    low = image.min()
    span = max(float(image.max() - low), 1e-6)
    place = (image - low) * np.float32(1024 / span)
    index = np.minimum(place.astype(np.int32), 1023)
    # A table with equal steps: np.interp searches, which takes ten times as long.
    return low + span * (table[index] + (place - index).astype(np.float32) * np.diff(table)[index])


def _gamma(image: np.ndarray, config: AugmentConfig, generator: np.random.Generator) -> np.ndarray:
    low = image.min()
    span = max(float(image.max() - low), 1e-6)
    return low + span * ((image - low) / span) ** np.float32(_log_uniform(config.gamma, generator))


def _contrast(image: np.ndarray, config: AugmentConfig, generator: np.random.Generator) -> np.ndarray:
    factor = np.float32(np.exp(generator.uniform(-config.contrast, config.contrast)))
    shift = np.float32(generator.uniform(-config.brightness, config.brightness))
    mean = image.mean()
    return (image - mean) * factor + (mean + shift)


def _illuminate(image: np.ndarray, config: AugmentConfig, generator: np.random.Generator) -> np.ndarray:
    field = upsample(generator.normal(0.0, config.illumination, (1, 3, 3)), image.shape[-2:])[0]
    return image * np.exp(field).astype(np.float32)


def _blur(image: np.ndarray, config: AugmentConfig, generator: np.random.Generator) -> np.ndarray:
    sigma = generator.uniform(*config.blur)
    # A mirrored border needs more pixels than the kernel reaches.
    radius = min(int(np.ceil(3 * sigma)), *(n - 1 for n in image.shape[-2:]))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights = torch.from_numpy((kernel / kernel.sum()).astype(np.float32))
    planes = torch.from_numpy(np.ascontiguousarray(image)).reshape(-1, 1, *image.shape[-2:])
    padded = F.pad(planes, [radius] * 4, mode="reflect")
    blurred = F.conv2d(F.conv2d(padded, weights.view(1, 1, -1, 1)), weights.view(1, 1, 1, -1))
    return blurred.numpy().reshape(image.shape)


def _noise(image: np.ndarray, config: AugmentConfig, generator: np.random.Generator) -> np.ndarray:
    """Add read noise and shot noise, the latter as a Gaussian of the Poisson variance: fast to draw."""
    read, photons = generator.uniform(0, config.noise), _log_uniform(config.photons, generator)
    variance = np.maximum(image, 0) / np.float32(photons) + np.float32(read**2)
    return image + np.sqrt(variance) * generator.standard_normal(image.shape, dtype=np.float32)


def _log_uniform(bounds: tuple[float, float], generator: np.random.Generator) -> float:
    return float(np.exp(generator.uniform(*np.log(bounds))))


def _scaled(pixel_size: tuple[float, ...] | None, step: float) -> tuple[float, ...] | None:
    """Pixel size of the crop."""
    return None if pixel_size is None else tuple(size * step for size in pixel_size)
