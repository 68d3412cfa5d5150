"""How images get worse: noise of sensors, compression, enlargement and blur, on NumPy arrays (C, [Z,] Y, X).

Nothing is clipped or rounded, unless what is imitated does so: noise that is cut off at black and white has another
mean, and a network trained on it another answer.
"""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from scipy.signal import fftconvolve

ENDS = (0.01, 0.998)
"""Quantiles between which an image's range is."""
MOST_BRIGHTER = 20.0
"""Largest factor by which an exposure makes up for blur."""


def add_gaussian_noise(image: np.ndarray, sigma: float, generator: np.random.Generator) -> np.ndarray:
    """Add white noise of a standard deviation, in the image's units."""
    noise = generator.standard_normal(image.shape, np.float32)
    noise *= sigma
    return np.add(image, noise, out=noise)


def add_camera_noise(image: np.ndarray, gain: float, read_noise: float, generator: np.random.Generator) -> np.ndarray:
    """Count photons, and read them out: a variance of ``gain * image + read_noise²``.

    Parameters
    ----------
    image
        Expected values above the camera's offset. What lies below zero is darker than the offset, which light cannot
        make it: it stays as it is, without shot noise, so that the mean is kept.
    gain
        Grey values per photo-electron; 0 for light without shot noise.
    read_noise
        Standard deviation of the read-out, in grey values.
    generator
        Of the noise.

    References
    ----------
    Foi et al. 2008, doi:10.1109/TIP.2008.2001399.
    """
    counted = np.asarray(image, np.float32)
    if gain > 0:
        counted = (gain * generator.poisson(np.maximum(image, 0) / gain) + np.minimum(image, 0)).astype(np.float32)
    return add_gaussian_noise(counted, read_noise, generator)


def compress(image: np.ndarray, quality: int) -> np.ndarray:
    """Store as JPEG and read again; images (1, Y, X) or (3, Y, X) in 0..1, which 8 bits round.

    Parameters
    ----------
    image
        What lies outside 0..1 is cut off.
    quality
        Of the encoder, 1 to 95.
    """
    from PIL import Image

    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    read = np.asarray(Image.open(buffer), np.float32) / 255
    return read[None] if read.ndim == 2 else np.ascontiguousarray(read.transpose(2, 0, 1))


def coarsen(image: np.ndarray, factor: float) -> np.ndarray:
    """Shrink (C, Y, X) by a factor and enlarge it again, both bicubically: the input of super-resolution."""
    x = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None]
    small = [max(1, round(extent / factor)) for extent in x.shape[-2:]]
    for size in (small, list(x.shape[-2:])):
        x = F.interpolate(x, size, mode="bicubic", align_corners=False, antialias=True)
    return x[0].numpy()


def blur(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolve every channel with a kernel of as many axes as an image has, mirrored at the borders.

    Parameters
    ----------
    image
        (C, Y, X) or (C, Z, Y, X).
    kernel
        Odd extents; it should sum to one.
    """
    margins = [(0, 0), *((extent // 2, extent // 2) for extent in kernel.shape)]
    wide = np.pad(np.asarray(image, np.float32), margins, mode="symmetric")
    return fftconvolve(wide, kernel[None].astype(np.float32), mode="valid", axes=range(1, image.ndim))


def add_haze(image: np.ndarray, share: float, width: float) -> np.ndarray:
    """Spread a share of the light of every plane of (C, [Z,] Y, X) widely, as what is out of focus does.

    Parameters
    ----------
    image
        Its sum is kept, but for what the mirrored borders change.
    share
        0 to 1.
    width
        Standard deviation of the spread light, in pixels.
    """
    wide = ndimage.gaussian_filter(np.asarray(image, np.float32), (0,) * (image.ndim - 2) + (width, width))
    return (1 - share) * image + share * wide


def exposed_alike(seen: np.ndarray, clean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bring a blurred image to the range of the clean one, and the clean one along by the same map.

    Blur takes the brightness of small things, and an exposure is set by what is left: detail of the clean image may lie
    far above 1 then, where a network has to find it.

    Parameters
    ----------
    seen, clean
        Of one shape. Where either is even, both stay as they are.
    """
    (low, high), (black, white) = (np.quantile(image, ENDS) for image in (seen, clean))
    if not (high > low and white > black):
        return seen, clean
    slope = float(np.clip((white - black) / (high - low), 1, MOST_BRIGHTER))
    scaled, along = (((image - low) * slope + black).astype(np.float32) for image in (seen, clean))
    return scaled, along
