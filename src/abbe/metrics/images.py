"""How near one image is to another; thin over scikit-image where it has the number.

A set of images is scored by the mean over its images, as papers on restoration do.
"""

from __future__ import annotations

import math

import numpy as np


def psnr(restored: np.ndarray, clean: np.ndarray, data_range: float = 1.0) -> float:
    """Compute the peak signal-to-noise ratio in dB; infinite where both are equal.

    Parameters
    ----------
    restored, clean
        Arrays of one shape.
    data_range
        From black to white, in their units.
    """
    difference = np.asarray(restored, np.float64) - clean
    error = float(np.mean(difference * difference))
    return math.inf if error == 0 else 10 * math.log10(data_range**2 / error)


def psnr_8bit(restored: np.ndarray, clean: np.ndarray) -> float:
    """Compute the PSNR of an output in 0..1 rounded and clipped to 8 bits, as the papers on denoising do."""
    found, wanted = (np.rint(np.clip(image, 0, 1) * 255) for image in (restored, clean))
    return psnr(found, wanted, 255)


def psnr_fitted(restored: np.ndarray, clean: np.ndarray) -> float:
    """Compute the PSNR after the affine map of ``restored`` that brings it nearest to ``clean``.

    For pairs whose brightness and offset differ, as those of one exposure and the mean of many do. The range is that
    of the clean image. Source: Weigert et al. 2018, doi:10.1038/s41592-018-0216-7, supplementary note 2.
    """
    x, y = (np.asarray(image, np.float64).ravel() for image in (restored, clean))
    centred = x - x.mean()
    variance = centred @ centred
    slope = (centred @ (y - y.mean())) / variance if variance else 0.0
    return psnr(slope * centred + y.mean(), y, float(y.max() - y.min()) or 1.0)


def ssim(restored: np.ndarray, clean: np.ndarray, data_range: float = 1.0) -> float:
    """Compute the structural similarity of (C, [Z,] Y, X), the mean over channels (Wang et al. 2004).

    With the Gaussian window of 1.5 pixels of the paper, or a smaller one where an axis is too short for it; NaN where
    an axis has less than 3 pixels. doi:10.1109/TIP.2003.819861.
    """
    from skimage.metrics import structural_similarity

    shortest = min(clean.shape[1:])
    if shortest < 3:
        return math.nan
    gaussian = shortest >= 11
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False} if gaussian else {
        "win_size": shortest - 1 + shortest % 2
    }  # fmt: skip
    found = structural_similarity(restored, clean, data_range=data_range, channel_axis=0, **window)
    return float(found)
