"""Weights of pixels in a segmentation loss, from instance labels.

``labels`` are (Y, X) or (Z, Y, X): 0 is background, every object has its own number. Distances are in pixels,
from a pixel's centre to the nearest pixel centre of an object, 0 inside it. A pixel that lacks a first or
second object within reach gets no extra weight; the reach is so long that what is left out is below 1e-5 of
the full weight.
"""

from __future__ import annotations

import numpy as np

from abbe.ops.distance import two_nearest_distances

REACH = 5.0
"""Standard deviations after which a Gaussian counts as zero: exp(−5²/2) = 3.7e-6."""


def class_balance_weights(classes: np.ndarray, limit: float = 10.0) -> np.ndarray:
    """Weigh every pixel by the inverse frequency of its class, w_c of Ronneberger et al. 2015.

    Each class that is present gets the same total, and the mean of the map is 1, except that no pixel weighs
    more than ``limit``: a crop that shows three pixels of a cell must not be ruled by them. Float32, of the
    shape of ``classes``.
    """
    _, index, counts = np.unique(classes, return_inverse=True, return_counts=True)
    weights = np.minimum(classes.size / (len(counts) * counts), limit)
    return weights.astype(np.float32)[index].reshape(classes.shape)


def border_weight_map(labels: np.ndarray, w0: float = 10.0, sigma: float = 5.0) -> np.ndarray:
    """Compute w0 · exp(−(d1 + d2)² / 2σ²), the second term of Eq. 2 of Ronneberger et al. 2015.

    d1 and d2 are the distances to the nearest and second nearest object. The class balance, the first term,
    is :func:`class_balance_weights`. Float32, 0 to ``w0``.
    """
    d1, d2 = two_nearest_distances(labels, REACH * sigma)
    return (w0 * gaussian(d1 + d2, sigma)).astype(np.float32)


def separation_weight_map(
    labels: np.ndarray,
    foreground: np.ndarray,
    background_weight: float = 0.1,
    balance_sigma: float = 10.0,
    separation_weight: float = 50.0,
    separation_sigma: float = 6.0,
) -> np.ndarray:
    """Compute w = w_bal + λ w_sep of Falk et al. 2019, doi 10.1038/s41592-018-0261-2.

    ``foreground`` pixels weigh 1. The others, ridges between touching ``labels`` among them, weigh

        v_bal + (1 − v_bal) · exp(−d1² / 2σ_bal²) + λ · exp(−(d1 + d2)² / 2σ_sep²)

    with v_bal ``background_weight``, σ_bal ``balance_sigma``, λ ``separation_weight`` and σ_sep
    ``separation_sigma``. Float32, 0.1 to 51 by default.
    """
    d1, d2 = two_nearest_distances(labels, REACH * max(balance_sigma, separation_sigma))
    balance = background_weight + (1 - background_weight) * gaussian(d1, balance_sigma)
    separation = separation_weight * gaussian(d1 + d2, separation_sigma)
    return np.where(foreground, 1, balance + separation).astype(np.float32)


def gaussian(distance: np.ndarray, sigma: float) -> np.ndarray:
    """Compute exp(−distance² / 2σ²)."""
    return np.exp(-0.5 * np.square(distance / sigma))
