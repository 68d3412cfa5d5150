"""Kernels of blur: Gaussians, shaken cameras, and the point-spread functions of microscopes."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy.special import j0, j1

Microscope = Literal["widefield", "confocal"]
ANGLES = 256
"""Steps of the integral over the pupil's radius."""


def gaussian_kernel(sigma: float) -> np.ndarray:
    """Give a Gaussian (K, K) of a standard deviation in pixels, cut at four of them."""
    reach = max(1, math.ceil(4 * sigma))
    line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = np.outer(line, line)
    return (kernel / kernel.sum()).astype(np.float32)


def motion_kernel(length: float, generator: np.random.Generator, steps: int = 200) -> np.ndarray:
    """Draw the path of a shaken camera, (K, K): a speed that changes at random, drawn at sub-pixel places.

    Parameters
    ----------
    length
        Of the path in pixels.
    generator
        Of the path.
    steps
        Points of the path.

    References
    ----------
    The random walk with inertia of Boracchi and Foi 2012, doi:10.1109/TIP.2012.2192126, in a simple form.
    """
    turn = generator.normal(0, 2 * math.pi / steps**0.5 / 4, steps).cumsum() + generator.uniform(0, 2 * math.pi)
    speed = np.exp(generator.normal(0, 0.1, steps).cumsum())
    steps_yx = np.stack([np.sin(turn), np.cos(turn)]) * speed
    path = (steps_yx * (length / np.hypot(*steps_yx).sum())).cumsum(axis=1)
    path -= path.mean(axis=1, keepdims=True)
    reach = int(np.ceil(np.abs(path).max())) + 1
    kernel = np.zeros((2 * reach + 1,) * 2)
    base = np.floor(path).astype(int)
    part = path - base
    for dy in (0, 1):
        for dx in (0, 1):
            share = (part[0] if dy else 1 - part[0]) * (part[1] if dx else 1 - part[1])
            np.add.at(kernel, (base[0] + reach + dy, base[1] + reach + dx), share)
    return (kernel / kernel.sum()).astype(np.float32)


def point_spread(
    numerical_aperture: float,
    emission: float,
    pixel_size: tuple[float, ...],
    *,
    refractive_index: float = 1.518,
    microscope: Microscope = "widefield",
    reach: tuple[int, ...] | None = None,
) -> np.ndarray:
    """Compute how a microscope images a point: the scalar model of Born and Wolf, paraxial along Z.

    Parameters
    ----------
    numerical_aperture
        Of the objective.
    emission
        Wavelength in nm.
    pixel_size
        µm along (Y, X) or (Z, Y, X).
    refractive_index
        Of the immersion: 1 air, 1.333 water, 1.518 oil.
    microscope
        "confocal": a closed pinhole, excitation at the wavelength of emission, which squares the pattern.
    reach
        Pixels to each side of the middle; by default as far as the third dark ring, and along Z the first dark point.

    Returns
    -------
    numpy.ndarray
        Odd extents, float32, sum one.

    References
    ----------
    Born and Wolf, Principles of Optics, section 8.8; in focus the pattern of Airy.
    """
    wave = 2 * math.pi / (emission / 1000)  # per µm
    reach = reach or _reach(numerical_aperture, emission / 1000, pixel_size, refractive_index)
    places = [np.arange(-r, r + 1) * step for r, step in zip(reach, pixel_size, strict=True)]
    radius = np.hypot(places[-2][:, None], places[-1][None])  # (Y, X), µm
    if len(pixel_size) == 2:
        v = np.maximum(wave * numerical_aperture * radius, 1e-9)
        light = (2 * j1(v) / v) ** 2
    else:
        light = np.stack([_defocused(radius, z, wave, numerical_aperture, refractive_index) for z in places[0]])
    if microscope == "confocal":
        light = light**2
    return (light / light.sum()).astype(np.float32)


def _defocused(radius: np.ndarray, z: float, wave: float, aperture: float, index: float) -> np.ndarray:
    """Integrate the pupil at a distance from focus, for every radius."""
    distinct, inverse = np.unique(radius.round(9), return_inverse=True)
    pupil = (np.arange(ANGLES) + 0.5) / ANGLES
    phase = np.exp(-0.5j * wave * z * aperture**2 / index * pupil**2)
    field = (j0(wave * aperture * np.outer(distinct, pupil)) * (phase * pupil)).sum(axis=1) / ANGLES
    return (np.abs(field) ** 2)[inverse].reshape(radius.shape)


def _reach(aperture: float, emission: float, pixel_size: tuple[float, ...], index: float) -> tuple[int, ...]:
    lateral = 3.24 * emission / (2 * aperture)  # third zero of J1 at 10.17 = 3.24 pi
    axial = 2 * index * emission / aperture**2  # first dark point on the axis
    wanted = (axial,) * (len(pixel_size) - 2) + (lateral, lateral)
    return tuple(max(1, math.ceil(length / step)) for length, step in zip(wanted, pixel_size, strict=True))
