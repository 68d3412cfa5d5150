"""How images get worse: noise of sensors, compression, enlargement and blur, on NumPy arrays (C, [Z,] Y, X).

Nothing is clipped or rounded, unless what is imitated does so: noise that is cut off at black and white has another
mean, and a network trained on it another answer.
"""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from scipy.signal import fftconvolve


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
        Expected values above the camera's offset; below zero there is no light.
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
        counted = (gain * generator.poisson(np.maximum(image, 0) / gain)).astype(np.float32)
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
