from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from abbe.report.images import (
    IMAGE_COLUMNS,
    UNKNOWN_PIXEL_SIZE,
    image_row,
    in_volumes,
    split_warnings,
    warnings_for,
)
from abbe.report.objects import objects_table
from abbe.report.pixels import survey
from abbe.report.volumes import volumes_table


def squares(size: int, side: int, pitch: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    margin = (pitch - side) // 2
    inside = ((y % pitch - margin) % pitch < side) & ((x % pitch - margin) % pitch < side)
    return np.where(inside, 1 + (y // pitch) * math.ceil(size / pitch) + x // pitch, 0).astype(np.int32)


def warned(image: np.ndarray, labels: np.ndarray) -> str:
    return "; ".join(warnings_for(survey(image), objects_table(labels), pixel_size=(0.5, 0.5)))


NOISE = np.random.default_rng(0).integers(100, 3000, (200, 200), dtype=np.uint16)
GOOD = squares(200, 12, 20)


def test_row_counts_and_measures() -> None:
    objects = objects_table(GOOD, NOISE)
    row = image_row("a.tif", objects, survey(NOISE), pixel_size=(0.5, 0.5), seconds=1.5, warnings=["odd", "dark"])
    assert list(row) == list(IMAGE_COLUMNS)
    assert row["count"] == 100
    assert row["density_per_megapixel"] == pytest.approx(100 / 0.04)
    assert row["density_per_mm2"] == pytest.approx(100 / 0.01)  # 200 pixels of 0.5 µm are 0.1 mm
    assert row["median_area"] == 144
    assert row["median_area_um2"] == 36
    assert row["foreground"] == pytest.approx(0.36)
    assert row["mean_intensity"] == pytest.approx(NOISE.mean())
    assert row["touching_border"] == 0
    assert row["pixel_size_um"] == 0.5
    assert split_warnings(row["warnings"]) == ["odd", "dark"]


def test_row_without_objects_or_pixel_size() -> None:
    row = image_row("a.tif", objects_table(np.zeros((9, 9), np.int32)), survey(np.zeros((9, 9))))
    assert (row["count"], row["foreground"], row["touching_border"]) == (0, 0.0, 0)
    unknown = ("median_area", "median_area_um2", "density_per_mm2", "pixel_size_um", "seconds")
    assert all(math.isnan(row[column]) for column in unknown)


def test_a_good_image_is_not_warned_of() -> None:
    assert warned(NOISE, GOOD) == ""


@pytest.mark.parametrize(
    ("image", "labels", "warning"),
    [
        (NOISE, np.zeros_like(GOOD), "no objects found"),
        (np.full((200, 200), 9, np.uint8), GOOD, "image is constant"),
        (NOISE // 600, GOOD, "very low contrast"),
        (1e6 + NOISE / 3000.0, GOOD, "very low contrast"),
        (np.where(NOISE < 300, 255, NOISE // 30).astype(np.uint8), GOOD, "saturated"),
        (np.where(NOISE < 300, np.nan, NOISE), GOOD, "NaN or infinite"),
        (NOISE, squares(200, 4, 20), "very small"),
        (np.zeros((400, 400)) + np.arange(400), squares(400, 190, 200), "very large"),
        (NOISE, squares(200, 20, 20), "objects cover 100 %"),
        (NOISE[:40, :40], GOOD[6:46, 6:46], "cut by the image's edge"),
    ],
)
def test_what_is_unusual_is_said(image: np.ndarray, labels: np.ndarray, warning: str) -> None:
    assert warning in warned(image, labels)


def test_bright_ground_and_binary_images_are_not_unusual() -> None:
    tissue = np.where(GOOD > 0, NOISE // 20, 255).astype(np.uint8)
    assert warned(tissue, GOOD) == ""
    assert warned(GOOD > 0, GOOD) == ""


def test_unknown_pixel_size_is_said_but_no_reason_to_look_again() -> None:
    found = warnings_for(survey(NOISE), objects_table(GOOD))
    assert found == [UNKNOWN_PIXEL_SIZE]
    assert split_warnings("; ".join(found)) == []
    assert split_warnings(math.nan) == []


VOXEL = (2.0, 0.5, 0.5)
CUBES = np.zeros((10, 200, 200), np.int32)
CUBES[2:8] = GOOD


def test_row_of_a_volume() -> None:
    image = np.stack([NOISE] * 10)[None]
    row = image_row("a.tif", volumes_table(CUBES), survey(image), pixel_size=VOXEL)
    assert list(row) == [in_volumes(column) for column in IMAGE_COLUMNS]
    assert (row["count"], row["depth"], row["frames"], row["height"], row["width"]) == (100, 10, 1, 200, 200)
    assert row["density_per_megavoxel"] == pytest.approx(100 / 0.4)
    assert row["density_per_mm3"] == pytest.approx(100 / (0.1 * 0.1 * 0.02))
    assert row["median_volume"] == 144 * 6
    assert row["median_volume_um3"] == pytest.approx(144 * 6 * 0.5)
    assert row["foreground"] == pytest.approx(0.36 * 0.6)
    assert row["pixel_size_um"] == 0.5
    assert warnings_for(survey(image), volumes_table(CUBES), pixel_size=VOXEL) == []


def test_row_of_a_series_counts_all_frames() -> None:
    objects = pd.concat([objects_table(GOOD)] * 5, ignore_index=True)
    one, series = (survey(images) for images in (NOISE, [NOISE] * 5))
    row, expected = (image_row("a", table, found) for table, found in ((objects, series), (objects_table(GOOD), one)))
    assert (row.pop("count"), expected.pop("count")) == (500, 100)
    assert (row.pop("frames"), expected.pop("frames")) == (5, 1)
    for column, value in row.items():
        assert value == pytest.approx(expected[column], nan_ok=True), column
    assert warnings_for(series, objects) == warnings_for(one, objects_table(GOOD))


def test_sizes_of_other_dimensions_are_not_mixed() -> None:
    volumes = image_row("a", volumes_table(CUBES), survey(np.stack([NOISE] * 10)[None]), pixel_size=VOXEL[1:])
    assert math.isnan(volumes["density_per_mm3"])
    assert volumes["pixel_size_um"] == 0.5
    planes = image_row("a", objects_table(GOOD), survey(NOISE), pixel_size=VOXEL)
    assert planes["median_area_um2"] == 36


def test_volumes_that_are_unusual_are_said() -> None:
    image = survey(np.stack([NOISE] * 10)[None])
    assert "no objects found" in warnings_for(image, volumes_table(np.zeros_like(CUBES)))
    (cut, _) = warnings_for(image, volumes_table(np.stack([GOOD] * 10)))
    assert cut == "100 % of the objects are cut by the image's edge, the first or the last plane"
    (small, _) = warnings_for(image, volumes_table(np.where(np.arange(10)[:, None, None] == 5, squares(200, 4, 20), 0)))
    assert "very small (median diameter 3.1 px)" in small
