"""How much of an image is detail, and how much of that stands above its noise: what blur takes away."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

COARSE = (0.01, 0.04)
"""Spatial frequencies of what blur leaves alone, in cycles per pixel."""
FINE = (0.06, 0.15)
"""Those of detail, from 7 to 17 pixels: finer detail is lost in most noise, coarser in few blurs."""


class Detail(NamedTuple):
    """Of a plane."""

    share: float
    """Power of its fine structure over that of its coarse structure, without noise."""
    over_noise: float
    """Power of its fine structure over that of its noise."""


def measure_detail(plane: np.ndarray, noise: float) -> Detail:
    """Measure the mean power of a plane at fine and at coarse frequencies, its noise taken away.

    Parameters
    ----------
    plane
        (Y, X); pixels without a value count as the mean.
    noise
        Variance of its noise, as of pixels that do not share it.
    """
    known = np.isfinite(plane)
    level = plane[known].mean(dtype=np.float64) if known.any() else 0.0
    window = np.outer(*map(np.hanning, plane.shape))
    smooth_ends = np.where(known, plane - level, 0.0) * window
    power = np.abs(np.fft.rfft2(smooth_ends)) ** 2 / max(float((window**2).sum()), 1e-12)
    rows, columns = np.fft.fftfreq(plane.shape[0]), np.fft.rfftfreq(plane.shape[1])
    frequency = np.hypot(rows[:, None], columns)
    coarse, fine = (_mean(power[(frequency >= low) & (frequency < high)]) - noise for low, high in (COARSE, FINE))
    return Detail(max(fine, 0.0) / coarse if coarse > 0 else 0.0, fine / noise if noise > 0 else np.inf)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0
