from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import label as connected
from skimage.measure import regionprops

from abbe.errors import AbbeError
from abbe.report.intensities import channel_names
from abbe.report.objects import COLUMNS, SERIES_COLUMNS, meaning_of, objects_table

SKIMAGE = {
    "area": "area",
    "perimeter": "perimeter",
    "eccentricity": "eccentricity",
    "solidity": "solidity",
    "major_axis": "axis_major_length",
    "minor_axis": "axis_minor_length",
    "equivalent_diameter": "equivalent_diameter_area",
}


def blobs(seed: int, shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    """Disks of random place and size, later ones over earlier ones."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.int32)
    for number in range(1, 9):
        cy, cx, a, b = generator.uniform((0, 0, 3, 3), (*shape, 12, 12))
        labels[((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1] = number
    # Connected, and of a size at which every definition applies.
    labels = connected(labels, background=0)
    for region in regionprops(labels):
        if region.area < 20:
            labels[labels == region.label] = 0
    return labels


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_columns_equal_scikit_image(seed: int) -> None:
    labels = blobs(seed)
    image = np.random.default_rng(seed).uniform(0, 100, (2, *labels.shape)).astype(np.float32)
    table = objects_table(labels, image, name="a.tif", channels=("DAPI", "GFP"))
    regions = regionprops(labels, np.moveaxis(image, 0, -1))
    assert table["label"].tolist() == [region.label for region in regions]
    for row, region in zip(table.itertuples(), regions):
        assert (row.centroid_y, row.centroid_x) == pytest.approx(region.centroid)
        assert row.circularity == pytest.approx(min(1, 4 * math.pi * region.area / region.perimeter**2))
        assert row.mean_GFP == pytest.approx(region.intensity_mean[1], rel=1e-5)
        assert row.min_DAPI == region.intensity_min[0]
        assert row.max_DAPI == region.intensity_max[0]
        assert row.sum_DAPI == pytest.approx(region.intensity_mean[0] * region.area, rel=1e-5)
        y0, x0, y1, x1 = region.bbox
        assert row.touches_border == (y0 == 0 or x0 == 0 or y1 == labels.shape[0] or x1 == labels.shape[1])
        for ours, theirs in SKIMAGE.items():
            assert getattr(row, ours) == pytest.approx(getattr(region, theirs), rel=1e-6, abs=1e-6), ours
        if region.eccentricity > 0.1:  # an axis has no sign: π/2 and −π/2 are one
            assert math.cos(2 * (row.orientation - region.orientation)) == pytest.approx(1)


def test_numbers_may_have_gaps() -> None:
    labels = np.zeros((9, 9), np.uint32)
    labels[1:4, 1:4], labels[5:8, 5:8] = 7, 4_000_000_000
    assert objects_table(labels)["label"].tolist() == [7, 4_000_000_000]


def test_nothing_found_gives_all_columns_and_no_rows() -> None:
    def table(labels: np.ndarray) -> pd.DataFrame:
        image = np.ones((2, 8, 8))
        return objects_table(labels, image, pixel_size=(0.5, 0.5), channels=("a", "b"), name="empty.tif")

    empty, some = table(np.zeros((8, 8), np.int32)), table(np.ones((8, 8), np.int32))
    assert len(empty) == 0
    assert list(empty.columns) == list(some.columns)
    joined = pd.concat([empty, some], ignore_index=True)
    assert joined.dtypes.tolist() == some.dtypes.tolist()


def test_columns_are_those_told() -> None:
    table = objects_table(np.ones((8, 8), np.int32), np.ones((8, 8)), pixel_size=(1.0, 1.0))
    assert list(table.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert all(meaning_of(column)[1] for column in table.columns)
    assert meaning_of("confidence") == ("", "")
    assert all(meaning_of(column) == told for column, told in SERIES_COLUMNS.items())


def test_single_pixel_has_no_outline() -> None:
    labels = np.zeros((5, 5), np.int32)
    labels[2, 2] = 1
    row = objects_table(labels).iloc[0]
    assert row["area"] == 1
    assert math.isnan(row["circularity"])


def test_square_pixels_scale_lengths_and_areas() -> None:
    row = objects_table(blobs(1), pixel_size=(0.5, 0.5)).iloc[0]
    for column in ("centroid_y", "centroid_x", "perimeter", "major_axis", "minor_axis", "equivalent_diameter"):
        assert row[f"{column}_um"] == pytest.approx(0.5 * row[column])
    assert row["area_um2"] == pytest.approx(0.25 * row["area"])


def test_oblong_pixels_leave_lengths_without_direction_empty() -> None:
    row = objects_table(blobs(1), pixel_size=(1.0, 0.25)).iloc[0]
    assert row["area_um2"] == pytest.approx(0.25 * row["area"])
    assert row["centroid_y_um"] == pytest.approx(row["centroid_y"])
    assert row["centroid_x_um"] == pytest.approx(0.25 * row["centroid_x"])
    assert row["equivalent_diameter_um"] == pytest.approx(math.sqrt(4 * row["area_um2"] / math.pi))
    assert row[["perimeter_um", "major_axis_um", "minor_axis_um"]].isna().all()


def test_unknown_pixel_size_adds_no_columns() -> None:
    assert not any("_um" in column for column in objects_table(blobs(1)).columns)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000), y=st.integers(0, 30), x=st.integers(0, 30))
def test_part_of_an_image_measures_as_the_whole(seed: int, y: int, x: int) -> None:
    part = blobs(seed, (40, 40))
    whole = np.zeros((70, 70), np.int32)
    whole[y : y + 40, x : x + 40] = part
    expected = objects_table(whole)
    found = objects_table(part, offset=(y, x), extent=(70, 70))
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9)


def test_one_channel_is_intensity_whatever_its_name() -> None:
    labels = blobs(2)
    table = objects_table(labels, np.ones(labels.shape), channels=("DAPI",))
    assert (table["mean_intensity"] == 1).all()
    assert (table["sum_intensity"] == table["area"]).all()


@given(names=st.lists(st.text(max_size=8), max_size=6), n=st.integers(2, 8))
@settings(deadline=None, max_examples=40)
def test_channel_names_are_distinct_words(names: list[str], n: int) -> None:
    found = channel_names(n, names)
    assert len(found) == n == len({name.lower() for name in found})
    assert all(name.replace("_", "a").isalnum() for name in found)


def test_channel_names_are_kept_cleaned_and_numbered() -> None:
    assert channel_names(4, ("DAPI", "Alexa 488/GFP", "dapi")) == ["DAPI", "Alexa_488_GFP", "dapi_2", "channel4"]


@pytest.mark.parametrize(
    ("labels", "image"),
    [
        (np.zeros((2, 3, 4), np.int32), None),
        (np.zeros((3, 4)), None),
        (np.zeros((3, 4), np.int32), np.zeros((3, 5))),
        (np.zeros((3, 4), np.int32), np.zeros((3, 4, 2))),
    ],
)
def test_what_cannot_be_measured_is_refused(labels: np.ndarray, image: np.ndarray | None) -> None:
    with pytest.raises(AbbeError, match=r"labels"):
        objects_table(labels, image)
