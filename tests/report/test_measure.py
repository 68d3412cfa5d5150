"""Measuring in bands gives the table of the whole."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from abbe.data.read import read
from abbe.report.measure import measure_labels, pixel_size_of, whole_objects
from abbe.report.objects import objects_table


def blobs(shape: tuple[int, int], seed: int, coarseness: float = 2.0) -> np.ndarray:
    """Random regions with shuffled numbers and gaps among them."""
    rng = np.random.default_rng(seed)
    labels, number = ndimage.label(ndimage.gaussian_filter(rng.normal(size=shape), coarseness) > 0.02)
    numbers = np.r_[0, rng.permutation(3 * number)[:number] + 1].astype(np.int32)
    return numbers[labels]


@given(st.integers(1, 60), st.integers(1, 50), st.integers(0, 999), st.integers(1, 4000))
@settings(deadline=None, max_examples=40)
def test_bands_of_any_height_give_the_table_of_the_whole(height: int, width: int, seed: int, band: int) -> None:
    labels = blobs((height, width), seed)
    pixels = np.random.default_rng(seed).integers(0, 999, (2, height, width)).astype(np.uint16)
    image = read(pixels, axes="CYX").planar()
    found = measure_labels(labels, image, name="a", band=band)
    pd.testing.assert_frame_equal(found, objects_table(labels, pixels, name="a"), rtol=1e-9)


@given(st.integers(1, 60), st.integers(1, 40), st.integers(0, 999), st.integers(1, 30))
@settings(deadline=None, max_examples=40)
def test_windows_hold_every_object_once_and_whole(height: int, width: int, seed: int, rows: int) -> None:
    labels = blobs((height, width), seed)
    areas = np.bincount(labels.ravel())
    seen: list[int] = []
    for start, part in whole_objects(labels, rows):
        numbers, sizes = np.unique(part[part > 0], return_counts=True)
        assert np.array_equal(sizes, areas[numbers])
        window = labels[start : start + len(part)]
        assert np.array_equal(part[part > 0], window[part > 0])
        seen += numbers.tolist()
    assert sorted(seen) == np.unique(labels[labels > 0]).tolist()


def test_windows_stay_small_where_objects_are() -> None:
    labels = np.kron(np.arange(1, 101).reshape(100, 1), np.ones((4, 5), np.int32)).astype(np.int32)
    assert max(len(part) for _, part in whole_objects(labels, 10)) <= 10 + 4


def test_no_objects_give_the_same_columns() -> None:
    pixels = np.zeros((20, 30), np.uint8)
    image = read(pixels).planar()
    empty = measure_labels(np.zeros((20, 30), np.int32), image, band=100)
    assert len(empty) == 0
    assert list(empty.columns) == list(measure_labels(np.ones((20, 30), np.int32), image).columns)


@pytest.mark.parametrize("sizes", [{}, {"y": 0.5}, {"y": 0.5, "x": 0.25, "z": 2.0}])
def test_the_pixel_size_of_a_plane(sizes: dict[str, float]) -> None:
    image = read(np.zeros((4, 5), np.uint8)).planar()
    image.pixel_size = sizes
    assert pixel_size_of(image) == ((0.5, 0.25) if len(sizes) == 3 else None)
