from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops

from abbe.data.volumes import NucleiVolume, nuclei_volume
from abbe.errors import AbbeError
from abbe.report.objects import COLUMNS, meaning_of
from abbe.report.volumes import VOLUME_COLUMNS, volumes_table

VOXEL = (2.0, 0.5, 0.5)


@pytest.fixture(scope="module")
def nuclei() -> np.ndarray:
    config = NucleiVolume(shape=(16, 64, 64), count=15, diameter=9.0, voxel=VOXEL)
    return nuclei_volume(config).labels


def test_columns_equal_scikit_image(nuclei: np.ndarray) -> None:
    image = np.random.default_rng(0).uniform(0, 100, (2, *nuclei.shape)).astype(np.float32)
    table = volumes_table(nuclei, image, pixel_size=VOXEL, name="a.tif", channels=("DAPI", "GFP"))
    in_um = regionprops(nuclei, np.moveaxis(image, 0, -1), spacing=VOXEL)
    in_voxels = regionprops(nuclei)
    assert len(table) == len(in_um) > 5
    for row, um, px in zip(table.itertuples(), in_um, in_voxels):
        assert (row.image, row.label, row.volume) == ("a.tif", um.label, um.num_pixels)
        assert (row.centroid_z, row.centroid_y, row.centroid_x) == pytest.approx(px.centroid)
        assert (row.centroid_z_um, row.centroid_y_um, row.centroid_x_um) == pytest.approx(um.centroid)
        assert row.volume_um3 == pytest.approx(um.area)
        assert (row.equivalent_diameter_um, row.equivalent_diameter) == pytest.approx(
            (um.equivalent_diameter_area, px.equivalent_diameter_area)
        )
        axes = (px.axis_major_length, px.axis_minor_length)
        assert (row.major_axis, row.minor_axis) == pytest.approx(axes, abs=1e-5)  # of a flat one it is not quite 0
        axes = (um.axis_major_length, um.axis_minor_length)
        assert (row.major_axis_um, row.minor_axis_um) == pytest.approx(axes, abs=1e-5)
        assert row.major_axis >= row.middle_axis >= row.minor_axis
        ends = zip(px.bbox[:3], px.bbox[3:], nuclei.shape)
        assert row.touches_border == any(start == 0 or stop == extent for start, stop, extent in ends)
        assert row.mean_GFP == pytest.approx(um.intensity_mean[1], rel=1e-5)
        assert (row.min_DAPI, row.max_DAPI) == (um.intensity_min[0], um.intensity_max[0])


def test_nuclei_are_as_round_as_they_were_made(nuclei: np.ndarray) -> None:
    """Ellipsoids of axes within a factor of 1.65 have a sphericity above 0.93; voxels as cubes would flatten them."""
    whole = volumes_table(nuclei, pixel_size=VOXEL).query("not touches_border")
    assert whole["sphericity"].between(0.9, 1).all()
    flattened = volumes_table(nuclei).query("not touches_border")
    assert flattened["sphericity"].median() < whole["sphericity"].median()
    balls = 6 * whole["volume_um3"] / whole["equivalent_diameter_um"] / whole["surface_um2"]
    np.testing.assert_allclose(np.minimum(balls, 1), whole["sphericity"])


def test_nothing_found_gives_all_columns_and_no_rows() -> None:
    def table(labels: np.ndarray) -> pd.DataFrame:
        return volumes_table(labels, np.ones((2, 3, 8, 8)), pixel_size=VOXEL, channels=("a", "b"), name="empty.tif")

    empty, some = table(np.zeros((3, 8, 8), np.int32)), table(np.ones((3, 8, 8), np.int32))
    assert len(empty) == 0
    assert list(empty.columns) == list(some.columns)
    assert pd.concat([empty, some], ignore_index=True).dtypes.tolist() == some.dtypes.tolist()


def test_columns_are_those_told() -> None:
    table = volumes_table(np.ones((3, 8, 8), np.int32), np.ones((3, 8, 8)), pixel_size=VOXEL)
    assert list(table.columns[: len(VOLUME_COLUMNS)]) == list(VOLUME_COLUMNS)
    assert list(table.columns[len(VOLUME_COLUMNS) :]) == [f"{name}_intensity" for name in ("mean", "min", "max", "sum")]
    assert not any("_um" in column for column in volumes_table(np.ones((3, 8, 8), np.int32)).columns)


def test_meanings_follow_the_kind_of_table() -> None:
    assert meaning_of("volume") == meaning_of("volume", volumes=True) == VOLUME_COLUMNS["volume"]
    assert meaning_of("area", volumes=True) == COLUMNS["area"]
    assert meaning_of("major_axis") == COLUMNS["major_axis"]
    assert meaning_of("major_axis", volumes=True) == VOLUME_COLUMNS["major_axis"]
    assert meaning_of("mean_DAPI", volumes=True)[1] == "mean of its pixels in channel DAPI"


@settings(deadline=None, max_examples=10)
@given(z=st.integers(0, 5), y=st.integers(0, 9), x=st.integers(0, 9))
def test_part_of_a_volume_measures_as_the_whole(nuclei: np.ndarray, z: int, y: int, x: int) -> None:
    part = nuclei[:, :40, :40]
    whole = np.zeros((21, 49, 49), np.int32)
    whole[z : z + 16, y : y + 40, x : x + 40] = part
    found = volumes_table(part, pixel_size=VOXEL, offset=(z, y, x), extent=(21, 49, 49))
    pd.testing.assert_frame_equal(found, volumes_table(whole, pixel_size=VOXEL), rtol=1e-9)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(AbbeError, match=r"2-D int64, but volumes are measured on 3-D \(Z, Y, X\)"):
        volumes_table(np.ones((3, 4), np.int64))
    with pytest.raises(AbbeError, match=r"image has shape \(5, 4\)"):
        volumes_table(np.ones((2, 3, 4), int), np.ones((5, 4)))
