"""From what is known of a microscope to a recipe that learns to undo its blur on simulated scenes.

The training makes sharp scenes worse as the microscope and its camera would: its point-spread function, light from out
of focus, and then the noise that was measured in the image to be restored::

    "na=1.4,emission=520" -- parse_point_spread --> PointSpreadOptions --+
    noise and contrast of the image ------------------------------------ + -- deblurring_recipe --> recipe
"""

from __future__ import annotations

import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from abbe.data.normalize import Statistics
from abbe.errors import AbbeError
from abbe.methods.restoration.restore import EMISSION, GREY
from abbe.ops.noise import Noise
from abbe.ops.point_spread import Microscope
from abbe.train.recipe import Recipe, load_recipe
from abbe.train.settings import convert, nearest

KEYS = {
    "na": "numerical_aperture",
    "emission": "emission",
    "index": "refractive_index",
    "microscope": "microscope",
    "pixel": "pixel_size",
}
"""What ``--psf`` calls the fields."""
EXAMPLE = "na=1.4,emission=520"
PIXEL = (0.001, 20.0)
"""Smallest and largest pixel, in µm."""
FINE_TUNING = 5e-4
"""Highest learning rate for weights that know blur already."""
SPREAD = 1.5
"""The training covers noise from that of the image over this to that times this, as an estimate is not exact."""
MOST_PHOTONS = 1e5
"""That make the brightest value: beyond it shot noise is of no account."""
STEPS = 20_000
"""Steps after which nothing is learnt any more, however much time there is."""
VALIDATE_EVERY = 4
"""Epochs of 50 steps between validations."""


@dataclass(frozen=True)
class PointSpreadOptions:
    """A microscope, as far as its blur in the focal plane goes."""

    numerical_aperture: float
    """Of the objective."""
    emission: float
    """Wavelength of the light in nm."""
    refractive_index: float = 1.518
    """Of the immersion: 1 air, 1.333 water, 1.518 oil."""
    microscope: Microscope = "widefield"
    """Whether a pinhole is closed."""
    pixel_size: float | None = None
    """µm in the object, in place of what the image says."""

    def __post_init__(self) -> None:
        for name, value in (("na", self.numerical_aperture), ("index", self.refractive_index)):
            if not (math.isfinite(value) and 0 < value <= 2):
                raise AbbeError(f"--psf {name}={value:g}: expected above 0 and at most 2, such as {EXAMPLE}")
        if self.numerical_aperture >= self.refractive_index:
            raise AbbeError(
                f"--psf na={self.numerical_aperture:g}: not below the refractive index {self.refractive_index:g} of "
                "the immersion, which no objective reaches; give that as index: 1 air, 1.333 water, 1.518 oil"
            )
        _check_length("emission", self.emission, EMISSION, "nm", 1000)
        if self.pixel_size is not None:
            _check_length("pixel", self.pixel_size, PIXEL, "µm", 0.001)

    @property
    def resolution(self) -> float:
        """Smallest distance that is resolved, in µm: the wavelength over twice the aperture (Abbe 1873)."""
        return self.emission / 1000 / (2 * self.numerical_aperture)

    def pixels(self, known: float | None) -> float:
        """Give the pixel size in µm: its own, or else what is known of the image.

        Raises
        ------
        AbbeError
            Where there is neither.
        """
        size = self.pixel_size or known
        if not size:
            raise AbbeError(f"pixel size unknown, in which blur is measured; give it in µm: --psf {EXAMPLE},pixel=0.1")
        _check_length("pixel", size, PIXEL, "µm", 0.001)
        return size

    def warning(self, pixel_size: float) -> str | None:
        """Say where pixels are too large for what the objective resolves, or so small that nothing is left to gain."""
        finest = self.resolution / (4 if self.microscope == "confocal" else 2)
        if pixel_size > finest:
            return (
                f"pixels of {pixel_size:g} µm are larger than the {finest:.3g} µm that sampling after Nyquist asks of "
                f"a {self.microscope} microscope with NA {self.numerical_aperture:g} at {self.emission:g} nm: detail "
                "finer than two pixels is not in the image and cannot come back"
            )
        if pixel_size < finest / 10:
            return (
                f"pixels of {pixel_size:g} µm are more than ten times finer than the {finest:.3g} µm that the "
                "objective needs; check the pixel size, or average pixels before"
            )
        return None


def _check_length(name: str, value: float, ends: tuple[float, float], unit: str, factor: float) -> None:
    """Refuse a length out of range, and say so if it is in the range of another unit."""
    if ends[0] <= value <= ends[1]:
        return
    other = f"; in {unit} that may be {value * factor:g}" if ends[0] <= value * factor <= ends[1] else ""
    raise AbbeError(f"--psf {name}={value:g}: expected {unit} from {ends[0]:g} to {ends[1]:g}{other}")


def parse_point_spread(text: str) -> PointSpreadOptions:
    """Read ``"na=1.4,emission=520"``, optionally with ``index``, ``microscope`` and ``pixel``.

    Raises
    ------
    AbbeError
        For an unknown or missing key, or a value out of range.
    """
    values: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (side.strip() for side in part.partition("="))
        if not equals or key.lower() not in KEYS:
            raise AbbeError(f"--psf {part}: {nearest(key, KEYS)}; expected it like {EXAMPLE}")
        kind = typing.get_type_hints(PointSpreadOptions)[KEYS[key.lower()]]
        if KEYS[key.lower()] in values:
            raise AbbeError(f"--psf: {key} is given twice; expected it once, like {EXAMPLE}")
        values[KEYS[key.lower()]] = convert(value.lower(), kind, f"--psf {key}")
    absent = [key for key in ("na", "emission") if KEYS[key] not in values]
    if absent:
        raise AbbeError(f"--psf {text}: {' and '.join(absent)} missing; expected it like {EXAMPLE}")
    return PointSpreadOptions(**values)


def deblurring_recipe(
    psf: PointSpreadOptions,
    pixel_size: float | None,
    minutes: float,
    exposures: Sequence[tuple[Noise, Statistics]] = (),
) -> Recipe:
    """Give the recipe ``deblur`` for one microscope, the noise that there is and a time to train in.

    The training starts from the bundled model of that name, which was trained for all of them.

    Parameters
    ----------
    psf
        The microscope.
    pixel_size
        µm, as the image says, if it does.
    minutes
        For the training, which ends by the clock.
    exposures
        Of images or channels to be restored: the noise in their own grey values, and what
        ``Normalization(**recipe.data.normalization)`` measures of them, which says what the noise is in the numbers
        that the network sees. It is made ready for all of these, without any for all noise.

    Raises
    ------
    AbbeError
        Where the pixel size is unknown, or there is no time.
    """
    if not minutes > 0:
        raise AbbeError(f"{minutes:g} minutes for the training; expected more than 0")
    pixel = psf.pixels(pixel_size)
    recipe = load_recipe(
        "deblur",
        {
            "options.numerical_aperture": psf.numerical_aperture,
            "options.emission": psf.emission,
            "options.refractive_index": psf.refractive_index,
            "options.microscope": psf.microscope,
            "options.pixel_size": [pixel, pixel],
        },
    )
    del recipe.options["resolution"]
    recipe.train.learning_rate = FINE_TUNING
    if psf.microscope == "confocal":
        recipe.options["haze"] = [0.0, 0.0]
    ranges = [exposure(*one) for one in exposures]
    for name in ranges[0] if ranges else ():
        recipe.options[name] = [min(one[name][0] for one in ranges), max(one[name][1] for one in ranges)]
    return timed(recipe, minutes)


def exposure(noise: Noise, contrast: Statistics) -> dict[str, list[float]]:
    """Bring an image's noise to the numbers that the network sees: ranges around its photons and its read noise.

    What is 0 there is the grey value ``offset``, whose shot noise counts as read noise; a value of 1 lies ``scale``
    above it.
    """
    offset, scale = float(contrast.offset[0]), float(contrast.scale[0])
    photons = min(scale / noise.gain, MOST_PHOTONS) if noise.gain > 0 else MOST_PHOTONS
    sigma = noise.deviation(offset) / scale * GREY
    found = {"photons": [photons / SPREAD**2, photons * SPREAD**2], "sigma": [sigma / SPREAD, sigma * SPREAD]}
    return found if found["sigma"][1] >= 1 else found | {"sigma": [0.0, 1.0]}


def timed(recipe: Recipe, minutes: float) -> Recipe:
    """Let a recipe end by the clock, and be validated a few times before."""
    train = recipe.train
    train.minutes, train.steps, train.steps_per_epoch, train.validate_every = minutes, STEPS, 50, VALIDATE_EVERY
    return recipe
