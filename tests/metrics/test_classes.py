from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from abbe.metrics.classes import (
    bootstrap,
    confusion,
    fit_temperature,
    mean_recall,
    reliability,
    scores,
)

SETS = st.tuples(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 6))


def drawn(seed: int, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return softmax(generator.normal(0, 2, (n, k)), axis=1), generator.integers(0, k, n)


@settings(deadline=None, max_examples=40)
@given(SETS)
def test_scores_equal_their_definitions(case: tuple[int, int, int]) -> None:
    probability, truth = drawn(*case)
    told = probability.argmax(axis=1)
    matrix = confusion(truth, told, probability.shape[1])
    assert all(matrix[t, p] == np.sum((truth == t) & (told == p)) for t, p in np.ndindex(matrix.shape))
    found = scores(probability, truth)
    assert found["top1"] == pytest.approx(np.mean(told == truth)) == pytest.approx(np.trace(matrix) / matrix.sum())
    recalls = [np.mean(told[truth == kind] == kind) for kind in np.unique(truth)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert found["nll"] == pytest.approx(-np.mean([np.log(row[kind]) for row, kind in zip(probability, truth)]))


@settings(deadline=None, max_examples=40)
@given(SETS)
def test_calibration_error_equals_a_loop_over_bins(case: tuple[int, int, int]) -> None:
    probability, truth = drawn(*case)
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == truth
    error = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    bins = reliability(probability, truth)
    assert bins.error == pytest.approx(error, abs=1e-12)
    assert bins.count.sum() == len(truth)


def test_certainty_that_is_always_right_is_calibrated() -> None:
    probability = np.eye(3)[[0, 1, 2, 0]]
    assert scores(probability, np.array([0, 1, 2, 0])) == pytest.approx(
        {"top1": 1, "balanced_accuracy": 1, "calibration_error": 0, "nll": 0}
    )


@settings(deadline=None, max_examples=20)
@given(st.floats(0.3, 5), st.integers(0, 1000))
def test_temperature_of_overconfident_logits_is_found(temperature: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    honest = generator.normal(0, 1.5, (20000, 4))
    truth = (softmax(honest, axis=1).cumsum(axis=1) > generator.random((20000, 1))).argmax(axis=1)
    assert fit_temperature(honest * temperature, truth) == pytest.approx(temperature, rel=0.1)
    # a constant added to a row of logits, as in logarithms of probabilities, changes nothing
    assert fit_temperature(log_softmax(honest * temperature, axis=1), truth) == pytest.approx(temperature, rel=0.1)


@settings(deadline=None, max_examples=20)
@given(SETS)
def test_intervals_hold_the_score_of_the_whole_and_know_groups(case: tuple[int, int, int]) -> None:
    probability, truth = drawn(*case)
    low, high = bootstrap(probability, truth, np.zeros(len(truth)))["top1"]
    assert low == high == pytest.approx(scores(probability, truth)["top1"])  # one group only: nothing varies
    low, high = bootstrap(probability, truth, np.arange(len(truth)))["balanced_accuracy"]
    assert 0 <= low <= high <= 1


def test_thousands_of_classes_cost_no_more_than_those_that_occur() -> None:
    """Counts of pairs of classes would be 3.8 GB here for every image."""
    generator = np.random.default_rng(0)
    probability = softmax(generator.normal(0, 2, (20, 21841)), axis=1)
    truth = np.where(np.arange(20) % 2, probability.argmax(axis=1), 7)
    found, intervals = scores(probability, truth), bootstrap(probability, truth, np.arange(20))
    assert found["top1"] == 0.5
    assert found["balanced_accuracy"] == pytest.approx(10 / 11)
    assert intervals["top1"][0] < 0.5 < intervals["top1"][1]


def test_a_class_that_is_absent_does_not_count() -> None:
    assert float(mean_recall(np.array([3, 0, 2]), np.array([4, 0, 2]))) == pytest.approx((0.75 + 1) / 2)
    assert np.isnan(mean_recall(np.zeros(2), np.zeros(2)))
    with pytest.raises(ValueError, match="nothing to measure"):
        scores(np.zeros((0, 3)), np.zeros(0, int))
