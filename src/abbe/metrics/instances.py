"""How well predicted objects agree with annotated ones.

Every image is reduced once, by :func:`match`, to the overlaps of its objects; every number follows from
these. Unless told otherwise, counts are summed over the data set before a ratio is taken, so that an image
with many objects weighs more than one with few.

Where nothing was annotated and nothing was predicted, agreement is perfect: ratios are 1 and errors 0.

References
----------
- Average precision as TP / (TP + FP + FN): Schmidt et al., "Cell detection with star-convex polygons",
  MICCAI 2018, arXiv:1806.03535.
- Panoptic quality: Kirillov et al., "Panoptic segmentation", CVPR 2019, arXiv:1801.00868.
- Aggregated Jaccard index: Kumar et al., "A dataset and a technique for generalized nuclear segmentation for
  computational pathology", IEEE TMI 36(7), 2017.
- Boundary F: Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from abbe.ops.labels import boundaries
from abbe.ops.matching import assign, contingency

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)


@dataclass(frozen=True)
class Matches:
    """What one image contributes: its objects, the pairs that overlap and the boundaries found."""

    truth_area: np.ndarray
    """Pixels of each annotated object, (n_truth,), in ascending order of labels."""
    predicted_area: np.ndarray
    """Pixels of each predicted object, (n_predicted,), in ascending order of labels."""
    truth_index: np.ndarray
    """Of each overlapping pair, the position of its annotated object in ``truth_area``."""
    predicted_index: np.ndarray
    """Of each overlapping pair, the position of its predicted object in ``predicted_area``."""
    intersection: np.ndarray
    """Pixels that each overlapping pair shares."""
    boundary_f1: float
    """F score of the boundary pixels that have a counterpart within the tolerance."""

    @property
    def n_truth(self) -> int:
        """Number of annotated objects."""
        return len(self.truth_area)

    @property
    def n_predicted(self) -> int:
        """Number of predicted objects."""
        return len(self.predicted_area)

    @property
    def union(self) -> np.ndarray:
        """Pixels that either object of each overlapping pair covers."""
        areas = self.truth_area[self.truth_index] + self.predicted_area[self.predicted_index]
        return areas - self.intersection

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of each overlapping pair."""
        return self.intersection / self.union


def match(
    truth: np.ndarray,
    predicted: np.ndarray,
    ignore: np.ndarray | None = None,
    boundary_tolerance: float = 2.0,
) -> Matches:
    """Reduce one image to the overlaps of its annotated and predicted objects.

    Parameters
    ----------
    truth, predicted
        Label images of one shape, 2-D or 3-D; numbers may have gaps.
    ignore
        Bool, the same shape: pixels that count for neither side. Objects lose what lies there, and those that
        lie there wholly are neither found nor missed.
    boundary_tolerance
        Greatest Euclidean distance, in pixels, between boundary pixels that agree.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    boundary_f1 = _boundary_f1(truth, predicted, ignore, boundary_tolerance)
    if ignore is not None:
        truth, predicted = np.where(ignore, 0, truth), np.where(ignore, 0, predicted)
    overlap = contingency(truth, predicted)
    truth_labels, truth_area = _areas(overlap.row, overlap.data)
    predicted_labels, predicted_area = _areas(overlap.col, overlap.data)
    objects = (overlap.row > 0) & (overlap.col > 0)
    return Matches(
        truth_area=truth_area,
        predicted_area=predicted_area,
        truth_index=np.searchsorted(truth_labels, overlap.row[objects]),
        predicted_index=np.searchsorted(predicted_labels, overlap.col[objects]),
        intersection=overlap.data[objects],
        boundary_f1=boundary_f1,
    )


def _areas(labels: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels other than 0, ascending, and the sum of ``counts`` of each."""
    values, index = np.unique(labels, return_inverse=True)
    areas = np.bincount(index, weights=counts, minlength=len(values)).astype(np.int64)
    return values[values > 0], areas[values > 0]


def true_positives(matches: Matches, threshold: float) -> int:
    """Count the pairs of an optimal one-to-one matching among pairs with an IoU of at least ``threshold``.

    Above 0.5 an object can have one partner only; below, the matching with most pairs is found by assignment.
    """
    iou = matches.iou
    candidates = iou >= threshold
    return len(assign(matches.truth_index[candidates], matches.predicted_index[candidates], iou[candidates]))


def aggregated_jaccard(matches: Matches) -> float:
    """Compute the aggregated Jaccard index of one image (Kumar et al. 2017, algorithm 1).

    Each annotated object takes the predicted object of greatest IoU, which several may share; predicted
    objects that none took add their area to the union.
    """
    iou, union = matches.iou, matches.union
    order = np.lexsort((-iou, matches.truth_index))
    found, first = np.unique(matches.truth_index[order], return_index=True)
    best = order[first]
    missed = np.delete(matches.truth_area, found).sum()
    unused = np.delete(matches.predicted_area, np.unique(matches.predicted_index[best])).sum()
    total = union[best].sum() + missed + unused
    return float(matches.intersection[best].sum() / total) if total else 1.0


def scores(matches: Sequence[Matches], thresholds: Sequence[float] = THRESHOLDS) -> dict[str, float]:
    """Measure a data set.

    Parameters
    ----------
    matches
        One entry per image, at least one.
    thresholds
        IoU thresholds of the average precision, in (0, 1].

    Returns
    -------
    dict
        - ``ap50``, ``ap55`` ...: TP / (TP + FP + FN) at each threshold;
        - ``map50_90``: their mean, named by the first and the last threshold;
        - ``precision_50``, ``recall_50``, ``f1_50``: at IoU 0.5;
        - ``pq``: panoptic quality, of pairs with an IoU above 0.5; ``sq``: their mean IoU;
        - ``aji``: aggregated Jaccard index, mean over images; ``dice``: of the foreground pixels;
        - ``count_error``: Σ|n − n̂| / Σn, infinite where objects were predicted and none annotated;
        - ``boundary_f1``: mean over images.

    Raises
    ------
    ValueError
        If there are no images or no thresholds.
    """
    table = _table(matches, thresholds)
    return {name: float(value) for name, value in _ratios(table.sum(axis=0), thresholds).items()}


def bootstrap(
    matches: Sequence[Matches],
    name: str,
    seed: int,
    n: int = 1000,
    level: float = 0.95,
    thresholds: Sequence[float] = THRESHOLDS,
) -> tuple[float, float]:
    """Find the confidence interval of one of the ``scores`` by drawing images with replacement.

    Parameters
    ----------
    matches
        One entry per image.
    name
        A key of :func:`scores`.
    seed
        Of the draws.
    n
        Number of drawn data sets.
    level
        Share of the drawn scores inside the interval, which leaves out equally many on both sides.
    thresholds
        As in :func:`scores`.

    Returns
    -------
    tuple
        Lower and upper end.
    """
    table = _table(matches, thresholds)
    images = len(matches)
    # Every score is a function of sums over images, so that a draw is how often each image counts.
    times = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=n)
    drawn = _ratios(times @ table, thresholds)
    if name not in drawn:
        raise ValueError(f"no score {name!r}: expected one of {', '.join(drawn)}")
    low, high = np.quantile(drawn[name], [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _table(matches: Sequence[Matches], thresholds: Sequence[float]) -> np.ndarray:
    """What each image adds to the sums that :func:`_ratios` takes, (images, 11 + thresholds)."""
    if not len(matches) or not len(thresholds):
        raise ValueError("no images or no thresholds: nothing to measure")
    return np.array([_row(image, thresholds) for image in matches], dtype=np.float64)


def _row(image: Matches, thresholds: Sequence[float]) -> list[float]:
    """One image's entries, in the order in which :func:`_ratios` unpacks them."""
    paired = image.iou > 0.5  # unique partners, therefore no assignment
    return [
        1,
        image.n_truth,
        image.n_predicted,
        abs(image.n_truth - image.n_predicted),
        true_positives(image, 0.5),
        paired.sum(),
        image.iou[paired].sum(),
        aggregated_jaccard(image),
        2 * image.intersection.sum(),
        image.truth_area.sum() + image.predicted_area.sum(),
        image.boundary_f1,
        *(true_positives(image, threshold) for threshold in thresholds),
    ]


def _ratios(sums: np.ndarray, thresholds: Sequence[float]) -> dict[str, np.ndarray]:
    """Turn sums over images, (..., 11 + thresholds), into scores, each (...)."""
    columns = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    images, truth, predicted, count_difference, found, paired, paired_iou, aji, shared, area, boundary = columns[:11]
    hits, thresholds_percent = columns[11:], [round(100 * threshold) for threshold in thresholds]
    both = truth + predicted
    average_precision = [_ratio(hit, both - hit, both) for hit in hits]
    return {
        **{f"ap{percent}": value for percent, value in zip(thresholds_percent, average_precision)},
        f"map{thresholds_percent[0]}_{thresholds_percent[-1]}": np.mean(average_precision, axis=0),
        "precision_50": _ratio(found, predicted, both),
        "recall_50": _ratio(found, truth, both),
        "f1_50": _ratio(2 * found, both, both),
        "pq": _ratio(2 * paired_iou, both, both),
        "sq": _ratio(paired_iou, paired, both),
        "aji": aji / images,
        "dice": _ratio(shared, area, area),
        "count_error": _relative_error(count_difference, truth),
        "boundary_f1": boundary / images,
    }


def _ratio(part: np.ndarray, whole: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """``part / whole``; without a whole 0 where there are ``objects``, 1 where there are none."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.where(objects > 0, 0.0, 1.0))


def _relative_error(error: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """``error / truth``; without truth 0 for no error, infinity for any."""
    return np.where(truth > 0, error / np.maximum(truth, 1), np.where(error > 0, np.inf, 0.0))


def _boundary_f1(truth: np.ndarray, predicted: np.ndarray, ignore: np.ndarray | None, tolerance: float) -> float:
    """F score of the inner boundaries of all objects; touching objects have one each."""
    if truth.shape != predicted.shape:
        raise ValueError(f"truth has shape {truth.shape}, but the prediction {predicted.shape}")
    of_truth, of_predicted = boundaries(truth), boundaries(predicted)
    counted = np.ones(truth.shape, dtype=bool) if ignore is None else ~ignore
    recall = _share_near(of_truth & counted, of_predicted, tolerance)
    precision = _share_near(of_predicted & counted, of_truth, tolerance)
    if recall is None and precision is None:
        return 1.0
    recall, precision = recall or 0.0, precision or 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _share_near(points: np.ndarray, targets: np.ndarray, tolerance: float) -> float | None:
    """Share of the marked ``points`` with a marked target within ``tolerance`` pixels; None without points.

    Looks up the few offsets within reach at the few boundary pixels: cheaper than a distance transform.
    """
    reach = int(tolerance)
    padded = np.pad(targets, reach)
    position = np.flatnonzero(np.pad(points, reach))
    if not len(position):
        return None
    grid = np.indices((2 * reach + 1,) * points.ndim).reshape(points.ndim, -1) - reach
    offsets = grid[:, (grid**2).sum(axis=0) <= tolerance**2]
    steps = np.array(padded.strides) // padded.itemsize
    near = np.zeros(len(position), dtype=bool)
    for step in steps @ offsets:
        near |= padded.ravel()[position + step]
    return float(near.mean())
