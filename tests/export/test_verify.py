"""What a file is tried with, and how a difference is told."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from abbe.export.subject import find_subject
from abbe.export.verify import difference, quiet, samples, simulate

VALUES = st.floats(-1e3, 1e3, width=32)


@settings(deadline=None, max_examples=40)
@given(hnp.arrays(np.float32, (3, 4), elements=VALUES), st.floats(0.5, 100, width=32))
def test_a_difference_has_no_unit(expected: np.ndarray, factor: float) -> None:
    assume(np.abs(expected).max() > 1)
    found = expected + np.float32(1)
    one, other = difference(found, expected), difference(found * factor, expected * factor)
    assert one == pytest.approx(other, rel=1e-2)
    assert difference(expected, expected) == 0


@pytest.mark.parametrize(
    "found", [np.zeros((2, 3)), np.full((2, 2), np.nan), np.array([[1, 2], [3, np.inf]])], ids=["shape", "nan", "inf"]
)
def test_what_cannot_be_compared_is_infinitely_different(found: np.ndarray) -> None:
    assert difference(found, np.ones((2, 2))) == float("inf")


def test_anything_is_far_from_an_output_of_zeros() -> None:
    assert difference(np.full(3, 1e-3), np.zeros(3)) > 1


@pytest.mark.parametrize("name", ["unet_2015_tiny", "unet_falk_3d_tiny", "vit_rope_tiny", "roformer_tiny"])
def test_samples_fit_the_network_and_differ_in_every_extent_where_those_are_free(name: str) -> None:
    subject = find_subject(name)
    one, three = samples(subject, True)
    assert len(one) == 1
    assert len(three) == 3
    assert all(a != b for a, b in zip(one.shape[-len(subject.axes) :], three.shape[-len(subject.axes) :]))
    assert [len(output) for output in subject.plain(three)] == [3] * len(subject.outputs)


def test_channels_of_a_sample_are_not_alike() -> None:
    subject = find_subject("resnet_tiny")
    raw, ready = simulate(subject, 1, (32, 32))
    assert raw.shape == ready.shape == (1, 3, 32, 32)
    assert raw[0, 0].mean() > raw[0, 1].mean() > raw[0, 2].mean()
    assert np.array_equal(simulate(subject, 1, (32, 32)).ready, ready)


def test_exporters_are_kept_quiet_and_then_as_they_were(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("torch")
    before = logger.level
    with warnings.catch_warnings(record=True) as told, quiet():
        warnings.warn("traced", stacklevel=1)
        logger.error("traced")
    assert told == []
    assert caplog.text == ""
    assert logger.level == before
