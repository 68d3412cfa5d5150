from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import distance_transform_edt
from skimage.draw import disk
from skimage.segmentation import find_boundaries
from torchmetrics.detection import PanopticQuality

from abbe.metrics.instances import THRESHOLDS, bootstrap, match, scores

wide = settings(deadline=None, max_examples=40)
blank = np.zeros((8, 8), int)
square = np.pad(np.ones((4, 4), int), 2)


def discs(seed, n, jitter=0.0, size=96):
    """Discs that may overlap; ``jitter`` moves and resizes them, as an imperfect prediction does."""
    generator = np.random.default_rng(seed)
    centres, radii = generator.uniform(6, size - 6, (n, 2)), generator.uniform(3, 9, n)
    generator = np.random.default_rng(seed + 1)
    labels = np.zeros((size, size), np.int32)
    for label, (centre, radius) in enumerate(zip(centres, radii), start=1):
        moved = centre + jitter * generator.normal(size=2)
        labels[disk(moved, max(radius + 0.5 * jitter * generator.normal(), 2), shape=labels.shape)] = label
    return labels


@st.composite
def data_sets(draw):
    images = draw(st.integers(1, 3))
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=7))
    array = hnp.arrays(np.int32, shape, elements=st.sampled_from([0, 1, 2, 4]))
    return [(draw(array), draw(array)) for _ in range(images)]


# The definitions, object by object and pair by pair.


def masks(labels):
    return [labels == label for label in np.unique(labels) if label]


def brute_true_positives(truth, predicted, threshold):
    """The most pairs that any one-to-one assignment makes at this threshold, all assignments tried."""
    rows, columns = sorted((masks(truth), masks(predicted)), key=len)
    good = [[(a & b).sum() / (a | b).sum() >= threshold for b in columns] for a in rows]
    return max(sum(good[i][j] for i, j in enumerate(way)) for way in permutations(range(len(columns)), len(rows)))


def brute_average_precision(data, threshold):
    hits = sum(brute_true_positives(*pair, threshold) for pair in data)
    objects = sum(len(masks(labels)) for pair in data for labels in pair)
    return hits / (objects - hits) if objects else 1.0


def brute_aji(truth, predicted):
    """Kumar et al. 2017, algorithm 1."""
    shared = union = 0
    used = set()
    candidates = masks(predicted)
    for a in masks(truth):
        ious = [(a & b).sum() / (a | b).sum() for b in candidates]
        if not ious or max(ious) == 0:
            union += a.sum()
            continue
        best = int(np.argmax(ious))
        used.add(best)
        shared += (a & candidates[best]).sum()
        union += (a | candidates[best]).sum()
    union += sum(b.sum() for j, b in enumerate(candidates) if j not in used)
    return shared / union if union else 1.0


def brute_boundary_f1(truth, predicted, tolerance):
    edges = [find_boundaries(labels, connectivity=1, mode="inner") for labels in (truth, predicted)]
    if not edges[0].any() and not edges[1].any():
        return 1.0
    if not edges[0].any() or not edges[1].any():
        return 0.0
    near = [distance_transform_edt(~other)[own] <= tolerance for own, other in zip(edges, edges[::-1])]
    recall, precision = near[0].mean(), near[1].mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@wide
@given(data_sets(), st.sampled_from([0.2, 0.35, 0.5, 0.7, 0.9]))
def test_average_precision_by_its_definition(data, threshold):
    ours = scores([match(*pair) for pair in data], (threshold,))
    assert ours[f"ap{round(100 * threshold)}"] == pytest.approx(brute_average_precision(data, threshold))


@wide
@given(data_sets())
def test_other_scores_by_their_definitions(data):
    ours = scores([match(*pair) for pair in data])
    hits = sum(brute_true_positives(*pair, 0.5) for pair in data)
    n = [(len(masks(truth)), len(masks(predicted))) for truth, predicted in data]
    n_truth, n_predicted = np.sum(n, axis=0)
    foreground = [(truth > 0, predicted > 0) for truth, predicted in data]
    pixels = sum(a.sum() + b.sum() for a, b in foreground)
    if n_truth and n_predicted:
        assert ours["precision_50"] == pytest.approx(hits / n_predicted)
        assert ours["recall_50"] == pytest.approx(hits / n_truth)
        assert ours["f1_50"] == pytest.approx(2 * hits / (n_truth + n_predicted))
        assert ours["dice"] == pytest.approx(2 * sum((a & b).sum() for a, b in foreground) / pixels)
        assert ours["count_error"] == pytest.approx(sum(abs(a - b) for a, b in n) / n_truth)
    assert ours["aji"] == pytest.approx(np.mean([brute_aji(*pair) for pair in data]))
    assert ours["boundary_f1"] == pytest.approx(np.mean([brute_boundary_f1(*pair, 2) for pair in data]))
    assert ours["map50_90"] == pytest.approx(np.mean([ours[f"ap{round(100 * t)}"] for t in THRESHOLDS]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tolerance", [0, 1, 2.5, 4])
def test_boundary_f1_equals_distance_transforms(seed, tolerance):
    truth, predicted = discs(seed, 12), discs(seed, 12, jitter=1.5)
    ours = match(truth, predicted, boundary_tolerance=tolerance).boundary_f1
    assert ours == pytest.approx(brute_boundary_f1(truth, predicted, tolerance))


@pytest.mark.parametrize("seed", range(4))
def test_panoptic_quality_equals_torchmetrics(seed):
    # torchmetrics counts background as a class of its own, so the value of the class of objects is taken.
    truth, predicted = discs(seed, 15), discs(seed, 15, jitter=2)
    metric = PanopticQuality(things={1}, stuffs={0}, return_sq_and_rq=True, return_per_class=True)
    panoptic = [
        torch.from_numpy(np.stack([labels > 0, labels], axis=-1).astype(np.int64))[None]
        for labels in (truth, predicted)
    ]
    pq, sq, _ = metric(panoptic[1], panoptic[0])[0].tolist()
    ours = scores([match(truth, predicted)])
    assert 0 < ours["pq"] < 1
    assert ours["pq"] == pytest.approx(pq)
    assert ours["sq"] == pytest.approx(sq)


def test_counts_are_summed_over_images_before_the_ratio():
    many = match(discs(0, 20), discs(0, 20))
    none = match(square, blank)
    n = many.n_truth
    assert scores([many, none])["ap50"] == pytest.approx(n / (n + 1))


def test_two_halves_of_an_object_are_one_hit_at_one_half():
    halves = square.copy()
    halves[:, 4:] *= 2
    assert scores([match(square, halves)])["ap50"] == 1 / 2  # TP 1, FP 1, FN 0
    assert scores([match(square, halves)])["pq"] == 0  # Kirillov et al. pair only above 0.5


@pytest.mark.parametrize(
    ("truth", "predicted", "value", "count_error"),
    [(blank, blank, 1, 0), (square, blank, 0, 1), (blank, square, 0, np.inf), (square, 5 * square, 1, 0)],
)
def test_nothing_annotated_nothing_predicted(truth, predicted, value, count_error):
    ours = scores([match(truth, predicted)])
    assert ours.pop("count_error") == count_error
    assert set(ours.values()) == {value}


def test_ignored_pixels_count_for_neither_side():
    truth, predicted = np.zeros((20, 20), int), np.zeros((20, 20), int)
    truth[2:8, 2:8] = predicted[2:8, 2:8] = 1
    predicted[12:18, 12:18] = 2
    ignore = np.zeros((20, 20), bool)
    assert scores([match(truth, predicted, ignore)])["ap50"] == 1 / 2
    ignore[10:] = True
    assert set(scores([match(truth, predicted, ignore)]).values()) == {0, 1}
    assert scores([match(truth, predicted, ignore)])["ap50"] == 1


def test_three_dimensions_are_measured_alike():
    truth = np.repeat(discs(0, 6)[None], 3, axis=0)
    predicted = np.repeat(discs(0, 6, jitter=1)[None], 3, axis=0)
    volume, plane = scores([match(truth, predicted)]), scores([match(truth[0], predicted[0])])
    assert volume["ap50"] == plane["ap50"]
    assert volume["aji"] == pytest.approx(plane["aji"])


def test_bootstrap_brackets_the_score_and_repeats_with_its_seed():
    matches = [match(discs(seed, 10), discs(seed, 10, jitter=2)) for seed in range(8)]
    low, high = bootstrap(matches, "ap75", seed=3)
    assert low < scores(matches)["ap75"] < high
    assert bootstrap(matches, "ap75", seed=3) == (low, high)
    narrow = bootstrap(matches, "ap75", seed=3, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    with pytest.raises(ValueError, match="ap33"):
        bootstrap(matches, "ap33", seed=3)


def test_bootstrap_of_equal_images_is_a_point():
    low, high = bootstrap([match(discs(1, 10), discs(1, 10, jitter=2))] * 5, "pq", seed=0, n=50)
    assert low == pytest.approx(high)


def test_nothing_to_measure_is_refused():
    with pytest.raises(ValueError, match="nothing to measure"):
        scores([])
    with pytest.raises(ValueError, match="shape"):
        match(blank, blank[1:])
