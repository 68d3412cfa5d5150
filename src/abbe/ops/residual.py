"""What a restoration took away from an image: noise, or some of the image with it.

Noise averages out. The means of blocks of B x B pixels of white noise have 1 / B² of its variance, those of noise that
neighbours share more, by as much as its correlations say; whatever is more than that is structure, and was in the
image. Fine detail has no such means, but some frequencies have more power than others then, where those of independent
noise are alike. The residual is divided by the deviation of the noise at the brightness of each pixel first, so that
photon noise counts alike in bright and in dark places. Where pixels are saturated or masked there is no noise to take
away: as for the noise itself, these places are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from abbe.ops.noise import LAGS, LEAST, Noise, share_cut_off

BLOCK = 8
"""Extent of a block, in pixels."""
FEWEST = 64
"""Blocks from which their variance is known well enough, to some 20 %."""
STRUCTURED = 2.0
"""Excess, or power of a frequency over the mean of all, from which a residual shows more than noise."""
WINDOW = 32
"""Extent of the windows whose spectra are averaged, in pixels."""
WINDOWS = 32
"""Fewest of them, from which chance brings the power of no frequency near ``STRUCTURED``."""


@dataclass(frozen=True)
class Residual:
    """What was taken away from a plane."""

    deviation: float
    """Its standard deviation, in grey values."""
    relative: float
    """Root of its mean square over that of the noise: below 1 noise is left, above 1 more than noise is gone."""
    excess: float
    """Power of its block means over what noise would have: 1 is noise, more is structure; NaN of small planes."""
    peak: float
    """Power of its strongest frequency over the mean of all; NaN of small planes and of noise that neighbours share."""

    @property
    def shows_structure(self) -> bool:
        """Tell whether more than noise is in it."""
        return self.excess > STRUCTURED or self.peak > STRUCTURED


def look_at_residual(before: np.ndarray, after: np.ndarray, noise: Noise) -> Residual:
    """Compare a plane before and after with what the noise was.

    Parameters
    ----------
    before, after
        (Y, X), in grey values; pixels without a value are left out.
    noise
        Of ``before``, as :func:`abbe.ops.noise.estimate_noise` found it.
    """
    taken = taken_away(before, after)
    even = np.where(shows_noise(before), evened(taken, after, noise), np.nan)
    known = np.isfinite(even)
    if not known.any():
        return Residual(0.0, math.nan, math.nan, math.nan)
    power = float(np.square(even[known]).mean())
    peak = peak_of(even) if noise.verdict == "independent" else math.nan
    return Residual(float(taken[known].std()), math.sqrt(power), excess_of(even, noise), peak)


def taken_away(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Take a plane from another in float64; NaN where either has no value, or an infinite one."""
    known = np.isfinite(before) & np.isfinite(after)
    return np.subtract(before, after, out=np.full(before.shape, np.nan), where=known, dtype=np.float64)


def shows_noise(plane: np.ndarray) -> np.ndarray:
    """Mark the pixels whose noise is not cut off; all of them where too few are left to tell anything."""
    whole = share_cut_off(plane) == 0
    return whole if np.count_nonzero(whole) >= LEAST * BLOCK**2 else np.ones(plane.shape, bool)


def evened(taken: np.ndarray, after: np.ndarray, noise: Noise) -> np.ndarray:
    """Divide what was taken away by the deviation of the noise at each pixel; NaN where there is none.

    Nothing is darker than the darkest places are: a restoration that says so is wrong, and its noise no smaller.
    """
    level = np.maximum(np.where(np.isfinite(after), after, 0).astype(np.float64), noise.dark)
    variance = noise.gain * level + noise.intercept
    return np.where(variance > 0, taken / np.sqrt(np.where(variance > 0, variance, 1)), np.nan)


def excess_of(even: np.ndarray, noise: Noise) -> float:
    """Divide the power of block means by that of noise with the same power and the known correlations."""
    rows, columns = (extent // BLOCK for extent in even.shape)
    blocks = even[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK).mean(axis=(1, 3))
    means, power = blocks[np.isfinite(blocks)], float(np.square(even[np.isfinite(even)]).mean())
    if len(means) < FEWEST or power == 0:
        return math.nan
    return float(np.square(means).mean()) / (
        power * passed_by_means(noise.vertical) * passed_by_means(noise.horizontal)
    )


def peak_of(even: np.ndarray) -> float:
    """Divide the power of the strongest frequency, averaged with its neighbours, by the mean of all."""
    rows, columns = (extent // WINDOW for extent in even.shape)
    tiled = even[: rows * WINDOW, : columns * WINDOW].reshape(rows, WINDOW, columns, WINDOW)
    parts = tiled.swapaxes(1, 2).reshape(-1, WINDOW, WINDOW)
    parts = parts[np.isfinite(parts).all(axis=(1, 2))]
    if len(parts) < WINDOWS or not parts.any():
        return math.nan
    hann = np.hanning(WINDOW + 2)[1:-1]
    power = np.square(np.abs(np.fft.fft2(parts * np.outer(hann, hann)))).mean(axis=0)
    return float(ndimage.uniform_filter(power, 3, mode="wrap").max() / power.mean())


def passed_by_means(correlation: tuple[float, ...]) -> float:
    """Give the part of the variance that means over a block keep along an axis, 1 / BLOCK of independent noise."""
    lags = range(1, min(BLOCK, LAGS + 1))
    shared = sum(2 * (1 - lag / BLOCK) * correlation[lag - 1] for lag in lags)
    return max(1 + shared, 1 / BLOCK) / BLOCK


def spectrum(plane: np.ndarray) -> np.ndarray:
    """Compute the power of each frequency of a plane (Y, X) in dB over its mean, the lowest in the middle.

    White noise is even all over; a bright middle is structure, bright lines are stripes.
    """
    known = np.isfinite(plane)
    centred = np.where(known, plane - plane.mean(where=known), 0) if known.any() else np.zeros(plane.shape)
    window = np.outer(*(np.hanning(extent + 2)[1:-1] for extent in plane.shape))
    power = np.abs(np.fft.fftshift(np.fft.fft2(centred * window))) ** 2
    return 10 * np.log10(power / (power.mean() or 1) + 1e-12)
