"""How well predicted classes agree with known ones, and how far their probabilities can be trusted.

All numbers follow from probabilities (N, K) and true classes (N,), numbered from 0.

References
----------
- Expected calibration error and temperature scaling: Guo et al., "On calibration of modern neural networks", ICML
  2017, arXiv:1706.04599.
- Balanced accuracy, the mean recall of the classes that occur: Brodersen et al., ICPR 2010.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar

BINS = 15
"""Bins of confidence, as in Guo et al. 2017."""
TINY = 1e-12
"""The least probability whose logarithm is taken."""
TEMPERATURES = (0.05, 20.0)
"""Range in which a temperature is looked for."""


@dataclass(frozen=True)
class Reliability:
    """Bins of confidence that hold something, in ascending order; all arrays are of equal length."""

    confidence: np.ndarray
    """Mean confidence."""
    accuracy: np.ndarray
    """Share that is right."""
    count: np.ndarray
    """Predictions in the bin."""

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance of the two, weighted by the counts; NaN of nothing."""
        if not len(self.count):
            return float("nan")
        return float(np.average(np.abs(self.confidence - self.accuracy), weights=self.count))


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count (classes, classes), a row for each true class and a column for each predicted one."""
    pairs = np.asarray(truth, np.int64) * classes + np.asarray(predicted, np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def mean_recall(right: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Give the mean recall of the classes that occur, of (..., K) that are right and (..., K) that there are."""
    recall, occurring = right / np.maximum(total, 1), (total > 0).sum(axis=-1)
    return np.where(occurring > 0, recall.sum(axis=-1) / np.maximum(occurring, 1), np.nan)


def reliability(probability: np.ndarray, truth: np.ndarray, bins: int = BINS) -> Reliability:
    """Compare confidence with accuracy in bins of equal width.

    Parameters
    ----------
    probability
        (N, K), rows sum to one.
    truth
        (N,).
    bins
        How many.
    """
    confidence = probability.max(axis=1)
    right = probability.argmax(axis=1) == truth
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)  # (0, 1/bins], ... as in the paper
    count = np.bincount(place, minlength=bins)
    kept = count > 0
    means = (np.bincount(place, values, bins)[kept] / count[kept] for values in (confidence, right.astype(float)))
    mean_confidence, accuracy = means
    return Reliability(mean_confidence, accuracy, count[kept])


def scores(probability: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Measure a data set.

    Returns
    -------
    dict
        - ``top1``: share whose most probable class is right;
        - ``balanced_accuracy``: mean recall of the classes that occur;
        - ``calibration_error``: expected calibration error with 15 bins;
        - ``nll``: mean negative logarithm of the true class's probability.

    Raises
    ------
    ValueError
        If there is nothing to measure.
    """
    if not len(truth):
        raise ValueError("no images: nothing to measure")
    right, classes = probability.argmax(axis=1) == truth, probability.shape[1]
    hits, total = (np.bincount(some, minlength=classes) for some in (np.asarray(truth)[right], truth))
    return {
        "top1": float(right.mean()),
        "balanced_accuracy": float(mean_recall(hits, total)),
        "calibration_error": reliability(probability, truth).error,
        "nll": float(-np.log(np.maximum(probability[np.arange(len(truth)), truth], TINY)).mean()),
    }


def bootstrap(
    probability: np.ndarray,
    truth: np.ndarray,
    groups: np.ndarray,
    seed: int = 0,
    n: int = 1000,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Find the confidence intervals of ``top1`` and ``balanced_accuracy`` by drawing groups with replacement.

    Parameters
    ----------
    probability, truth
        As in :func:`scores`.
    groups
        (N,), what belongs together, such as the cells of one image: they are drawn, not the single cells.
    seed
        Of the draws.
    n
        Number of drawn data sets.
    level
        Share of the drawn scores inside the interval.
    """
    kinds, kind = np.unique(truth, return_inverse=True)
    names, index = np.unique(groups, return_inverse=True)
    cells, right = index * len(kinds) + kind, probability.argmax(axis=1) == truth
    shape = len(names), len(kinds)
    times = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    total, hits = (
        times @ np.bincount(some, minlength=math.prod(shape)).reshape(shape) for some in (cells, cells[right])
    )
    tails = [(1 - level) / 2, (1 + level) / 2]
    found = {"top1": hits.sum(axis=1) / total.sum(axis=1), "balanced_accuracy": mean_recall(hits, total)}
    intervals = {name: np.nanquantile(values, tails) for name, values in found.items()}
    return {name: (float(low), float(high)) for name, (low, high) in intervals.items()}


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """Find the number that logits are to be divided by for the least negative log likelihood (Guo et al. 2017).

    Parameters
    ----------
    logits
        (N, K); logarithms of probabilities do as well.
    truth
        (N,).
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    right = shifted[np.arange(len(truth)), truth]

    def loss(log_temperature: float) -> float:
        factor = np.exp(-log_temperature)
        return float((np.log(np.exp(shifted * factor).sum(axis=1)) - right * factor).mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))
