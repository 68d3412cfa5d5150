"""Restoration: the objective around any network that takes a bad image and gives a better one of the same size.

What it learns from is pairs, or clean images that are made worse in every crop anew::

    clean -- blur -- enlarged from fewer pixels -- noise -- JPEG --> image -- network --> restored  <-- loss --> clean

Several kinds can be asked for; then each crop gets one of them, as DnCNN-3 (arXiv:1608.03981) is trained. A
"micrograph" is what a microscope and its camera make together: blur, light from out of focus, then photons and
read-out. What is seen then spans the range that the clean crop did, as normalisation by what is seen makes it in use.
Levels of noise are in 1/255 of the range from 0 to 1, as in the papers on denoising: sigma 25 is 0.098. Noise is
neither clipped nor rounded.

Losses: ``l2`` is half the squared error of DnCNN's Eq. 1 per pixel, ``l1`` the absolute error, ``psnr`` the negative
PSNR of each image, as NAFNet (arXiv:2204.04676) is trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from abbe.contract import Geometry, Joins, Watch
from abbe.data.sample import Sample
from abbe.errors import AbbeError
from abbe.methods.restoration.nafnet import psnr_loss
from abbe.metrics.images import psnr, ssim
from abbe.nn.receptive_field import receptive_halo
from abbe.ops.degradation import add_camera_noise, add_gaussian_noise, add_haze, blur, coarsen, compress, exposed_alike
from abbe.ops.point_spread import Microscope, gaussian_kernel, motion_kernel, point_spread

Kind = Literal["gaussian", "camera", "enlarged", "jpeg", "blur", "motion", "microscope", "micrograph"]
HAZE_WIDTH = (8.0, 30.0)
"""Range of the standard deviation of light from out of focus, in pixels."""
GREY = 255.0
"""Levels of noise are given in this part of the range from 0 to 1."""
CLEAN = "clean"
"""Key of ``Sample.extra``: how many of the image's channels, the last ones, are the clean image."""


@dataclass(frozen=True)
class RestorationOptions:
    """How clean images are made worse for training, and the loss. Unused for pairs, but for the loss."""

    kinds: tuple[Kind, ...] = ("gaussian",)
    """What is done to a crop, one of them each: white noise; photons and read-out; fewer pixels; JPEG; Gaussian blur;
    a shaken camera; the point-spread function of a microscope; that, and then photons and read-out. Without any only
    pairs are learnt from."""
    sigma: tuple[float, float] = (25.0, 25.0)
    """Range of the noise's standard deviation, in 1/255; of a camera's read noise, and of what is added behind blur."""
    photons: tuple[float, float] = (10.0, 1000.0)
    """Range of the photons that make a value of 1, log-uniform; of "camera" and "micrograph"."""
    factors: tuple[float, ...] = (2.0, 3.0, 4.0)
    """By how much an image is shrunk before it is enlarged again; of "enlarged"."""
    quality: tuple[int, int] = (5, 95)
    """Range of JPEG's quality; of "jpeg"."""
    blur: tuple[float, float] = (0.5, 3.0)
    """Range of the standard deviation of a Gaussian blur in pixels; of "blur"."""
    motion: tuple[float, float] = (2.0, 20.0)
    """Range of the length of a camera's path in pixels; of "motion"."""
    numerical_aperture: float = 1.4
    """Of the objective; of "microscope" and "micrograph"."""
    emission: float = 520.0
    """Wavelength in nm; of both."""
    refractive_index: float = 1.518
    """Of the immersion: 1 air, 1.333 water, 1.518 oil; of both."""
    microscope: Microscope = "widefield"
    """Whether a pinhole is closed."""
    pixel_size: tuple[float, ...] = ()
    """µm along (Y, X) or (Z, Y, X) for the point-spread function; that of each image unless given."""
    resolution: tuple[float, float] | None = None
    """Range of the smallest distance that the objective resolves, the wavelength over twice the aperture, in pixels of
    a plane, log-uniform: in place of wavelength, aperture and pixel size, for a network that does not know them."""
    haze: tuple[float, float] = (0.0, 0.0)
    """Range of the share of the light that is out of focus, 0 to 1; of "micrograph"."""
    loss: Literal["l1", "l2", "psnr"] = "l2"
    """See the head of this file."""

    def __post_init__(self) -> None:
        if not self.factors or not all(1 <= factor < math.inf for factor in self.factors):
            raise AbbeError(f"options.factors: {self.factors}; expected by how much to shrink, each 1 or more")
        for name, (least, most, expected) in RANGES.items():
            low, high = getattr(self, name) or (least, most)
            if not least <= low <= high <= most:
                raise AbbeError(
                    f"options.{name}: from {low:g} to {high:g}; expected a range of {expected}, the smaller one first"
                )
        if 0 < self.sigma[1] < 1:
            meant = ", ".join(f"{level * GREY:g}" for level in self.sigma)
            raise AbbeError(
                f"options.sigma: up to {self.sigma[1]:g} of 255, which nobody sees; if it is of the range from 0 to 1, "
                f'write "[{meant}]"'
            )
        check_microscope(self)


RANGES = {
    "sigma": (0.0, GREY, "0 to 255, in 1/255 of the image's range, not in its grey values"),
    "photons": (1e-6, 1e12, "photons above 0"),
    "quality": (1, 100, "JPEG's 1 to 100"),
    "blur": (0.0, 1000.0, "0 to 1000 pixels"),
    "motion": (0.0, 1000.0, "0 to 1000 pixels"),
    "resolution": (1e-3, 1000.0, "distances above 0 pixels, at most 1000"),
    "haze": (0.0, 1.0, "shares of the light, at most 1"),
}
"""Least, most and meaning of the options that are ranges."""
PLANAR = ("jpeg", "enlarged", "blur", "motion")
"""Kinds that are for planes."""
EMISSION = (200.0, 2000.0)
"""Shortest and longest wavelength, in nm."""


def check_microscope(options: RestorationOptions) -> None:
    """Raise AbbeError where no microscope is like that."""
    aperture, index, emission = options.numerical_aperture, options.refractive_index, options.emission
    if not 0 < aperture < index <= 2:
        raise AbbeError(
            f"options.numerical_aperture: {aperture:g} with options.refractive_index {index:g}; expected an aperture "
            "above 0 and below the index of the immersion: 1 air, 1.333 water, 1.518 oil"
        )
    if not EMISSION[0] <= emission <= EMISSION[1]:
        in_nm = EMISSION[0] <= 1000 * emission <= EMISSION[1]
        asked = f"; is it µm, and {1000 * emission:g} meant?" if in_nm else ""
        raise AbbeError(f"options.emission: {emission:g}; expected nm, from {EMISSION[0]:g} to {EMISSION[1]:g}{asked}")
    sizes = options.pixel_size
    if len(sizes) not in (0, 2, 3) or not all(0 < size < math.inf for size in sizes):
        raise AbbeError(f"options.pixel_size: {sizes}; expected µm above 0 along (Y, X) or (Z, Y, X), or nothing")


def check_damage(kind: Kind, options: RestorationOptions, sample: Sample) -> None:
    """Raise AbbeError where an image cannot be made worse in that way."""
    channels, axes = len(sample.image), sample.image.ndim - 1
    seen_through = kind in ("microscope", "micrograph")
    if axes == 3 and (kind in PLANAR or (seen_through and options.resolution)):
        what = f'"{kind}"' + (" with options.resolution" if seen_through else "")
        raise AbbeError(f"{sample.name}: a stack, but options.kinds {what} is for planes; expected another kind")
    if kind == "jpeg" and channels not in (1, 3):
        raise AbbeError(
            f'{sample.name}: {channels} channels, but options.kinds "jpeg" takes one, or red, green and blue'
        )
    if seen_through and options.pixel_size and len(options.pixel_size) != axes:
        raise AbbeError(
            f"{sample.name}: options.pixel_size {options.pixel_size} for {axes} axes; expected one for each of "
            f"{'(Z, Y, X)' if axes == 3 else '(Y, X)'}"
        )


class Restoration(nn.Module):
    """The objective: a network for images.

    Parameters
    ----------
    network
        Maps (B, C, [Z,] Y, X) to the same shape; has ``in_channels`` and ``multiple``.
    options
        See :class:`RestorationOptions`.
    """

    joins: Joins = "stitch"
    watch = Watch("psnr", "max")

    def __init__(self, network: nn.Module, options: RestorationOptions | None = None):
        super().__init__()
        self.network = network
        self.options = options or RestorationOptions()

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return int(self.network.in_channels)  # type: ignore[arg-type]

    @cached_property
    def geometry(self) -> Geometry:
        """What the network says of itself, or its halo found by probing."""
        known: Any = getattr(self.network, "geometry", None)
        if known is not None:
            return known
        stride: Any = self.network.multiple
        multiple = (stride,) * 2 if isinstance(stride, int) else tuple(stride)
        return Geometry(receptive_halo(self.network, self.in_channels, multiple), multiple, (0,) * len(multiple))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Restore images (B, C, [Z,] Y, X)."""
        return self.network(x)

    def prepare(self, sample: Sample, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        """Give the image and the clean one; of a clean image alone a version that is worse.

        Pixels that a sample marks as ignored are NaN in the clean one, and count in no loss and no score.
        """
        number = sample.extra.get(CLEAN, 0)
        if number:
            image, clean = sample.image[:-number], sample.image[-number:]
        else:
            image, clean = self.degrade(sample, generator)
        if sample.ignore is not None:
            clean = np.where(sample.ignore, np.nan, clean)
        return {"image": _tensor(image), "clean": _tensor(clean)}

    def degrade(self, sample: Sample, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Make a clean image (C, [Z,] Y, X) worse in one of the ways asked for; gives the worse and the clean one."""
        kind = self.options.kinds[generator.integers(len(self.options.kinds))]
        check_damage(kind, self.options, sample)
        if kind == "micrograph":
            return self._micrograph(sample, generator)
        return self._worse(kind, sample, generator), sample.image

    def _micrograph(self, sample: Sample, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Blur, add light from out of focus, set the exposure by what is seen then, and expose."""
        options, sigma = self.options, generator.uniform(*self.options.sigma) / GREY
        image = blur(sample.image, self._kernel("micrograph", sample, generator))
        if options.haze[1] > 0:
            image = add_haze(image, generator.uniform(*options.haze), generator.uniform(*HAZE_WIDTH))
        image, clean = exposed_alike(image, sample.image)
        return add_camera_noise(image, 1 / _log_uniform(options.photons, generator), sigma, generator), clean

    def _worse(self, kind: Kind, sample: Sample, generator: np.random.Generator) -> np.ndarray:
        options, image = self.options, sample.image
        if kind == "jpeg":
            return compress(image, int(generator.integers(options.quality[0], options.quality[1], endpoint=True)))
        if kind == "enlarged":
            return coarsen(image, float(generator.choice(options.factors)))
        sigma = generator.uniform(*options.sigma) / GREY
        if kind == "camera":
            return add_camera_noise(image, 1 / _log_uniform(options.photons, generator), sigma, generator)
        if kind != "gaussian":
            image = blur(image, self._kernel(kind, sample, generator))
        return add_gaussian_noise(image, sigma, generator)

    def _kernel(self, kind: Kind, sample: Sample, generator: np.random.Generator) -> np.ndarray:
        options = self.options
        if kind == "blur":
            return gaussian_kernel(max(generator.uniform(*options.blur), 1e-3))
        if kind == "motion":
            return motion_kernel(generator.uniform(*options.motion), generator)
        if options.resolution:
            half_a_micrometre = (0.5 / _log_uniform(options.resolution, generator),) * 2
            return point_spread(1.0, 1000.0, half_a_micrometre, microscope=options.microscope)
        pixel_size = options.pixel_size or sample.pixel_size
        if not pixel_size:
            raise AbbeError(f"{sample.name}: pixel size unknown; a microscope's blur needs it, as options.pixel_size")
        return point_spread(
            options.numerical_aperture,
            options.emission,
            tuple(pixel_size),
            refractive_index=options.refractive_index,
            microscope=options.microscope,
        )

    def training_step(self, batch: dict[str, torch.Tensor], *, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Compute the loss, and the PSNR of the batch."""
        restored, clean = self.network(batch["image"]).float(), batch["clean"].float()
        clean = torch.where(clean.isnan(), restored.detach(), clean)  # no error where nothing is known
        negative = psnr_loss(restored, clean)
        losses = {
            "l2": lambda: (restored - clean).square().mean() / 2,
            "l1": lambda: (restored - clean).abs().mean(),
            "psnr": lambda: negative,
        }
        return {"loss": losses[self.options.loss](), "psnr": -negative.detach()}

    def predict(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Restore images, (B, C, [Z,] Y, X)."""
        return {"restored": self.network(x)}

    def decode(self, outputs: dict[str, np.ndarray], **options: Any) -> dict[str, np.ndarray]:
        """Give the restored image of one image as it is."""
        return {"restored": outputs["restored"]}

    def score(
        self, decoded: Sequence[dict[str, np.ndarray]], truth: Sequence[dict[str, np.ndarray]]
    ) -> dict[str, float]:
        """Measure PSNR (of a range from 0 to 1) and SSIM, the means over images."""
        pairs = [(found["restored"], true["clean"]) for found, true in zip(decoded, truth, strict=True)]
        known = [np.isfinite(clean) for _, clean in pairs]
        alike = [(found, np.where(there, clean, found)) for (found, clean), there in zip(pairs, known, strict=True)]
        return {
            "psnr": float(np.mean([psnr(x[there], y[there]) for (x, y), there in zip(pairs, known, strict=True)])),
            "ssim": float(np.mean([ssim(restored, clean) for restored, clean in alike])),
        }


def _log_uniform(bounds: tuple[float, float], generator: np.random.Generator) -> float:
    return math.exp(generator.uniform(*np.log(bounds)))


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image, np.float32))
