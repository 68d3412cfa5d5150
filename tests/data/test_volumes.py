"""Simulated stacks: the truth is exact, nuclei are what was asked for, and the light behaves as in a microscope."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from abbe.data.datasets import PairDataset, find_pairs
from abbe.data.synthetic import FluorescenceField
from abbe.data.volumes import NucleiVolume, count_for, nuclei_volume, varied_volume, varied_volumes, write_volumes
from abbe.ops.labels import border_labels, boundaries

PLAIN = NucleiVolume(
    shape=(40, 120, 120),
    voxel=(1.0, 0.25, 0.25),
    count=30,
    diameter_spread=0.0,
    elongation=1.0,
    irregularity=0.0,
    clumping=0.0,
    fading=0.0,
    unevenness=0.0,
    camera=FluorescenceField(texture=0.0, brightness_spread=0.0, haze=0.0, illumination=0.0),
    seed=3,
)


def test_nuclei_are_single_pieces_with_numbers_from_one() -> None:
    made = nuclei_volume(NucleiVolume(shape=(24, 96, 96), count=60, clumping=0.8, seed=1))
    assert made.image.shape == made.labels.shape == made.expected.shape == (24, 96, 96)
    assert (made.image.dtype, made.labels.dtype, made.expected.dtype) == (np.uint16, np.int32, np.float32)
    assert np.array_equal(np.unique(made.labels), np.arange(made.labels.max() + 1))
    assert made.labels.max() > 15
    for number in range(1, made.labels.max() + 1):
        assert ndimage.label(made.labels == number)[1] == 1


def test_round_nuclei_have_the_volume_of_balls_whatever_the_voxel() -> None:
    for voxel in ((1.0, 0.25, 0.25), (2.0, 0.4, 0.4), (0.5, 0.5, 0.5)):
        shape = tuple(round(extent / step) for extent, step in zip((40, 30, 30), voxel))
        made = nuclei_volume(replace(PLAIN, voxel=voxel, shape=shape))
        whole = np.setdiff1d(np.arange(1, made.labels.max() + 1), border_labels(made.labels))
        volumes = np.bincount(made.labels.ravel())[whole] * np.prod(voxel)
        assert np.median(volumes) == pytest.approx(np.pi / 6 * 8**3, rel=0.05)


def test_clumps_touch_and_singles_rarely_do() -> None:
    def touching(clumping: float) -> float:
        labels = nuclei_volume(replace(PLAIN, clumping=clumping, count=12)).labels
        near = ndimage.grey_dilation(labels, size=(1, 3, 3))
        other = (near != labels) & (labels > 0) & (near > 0)
        return len(np.unique(labels[other])) / labels.max()

    assert touching(0.9) > 2 * touching(0.0)


def test_light_inside_is_the_photons_asked_for() -> None:
    config = replace(PLAIN, blur=(0.01, 0.01, 0.01))
    made, camera = nuclei_volume(config), config.camera
    photons = (made.expected - camera.offset) / camera.gain
    inside = ndimage.binary_erosion(made.labels > 0, iterations=2)
    assert photons[made.labels == 0].mean() == pytest.approx(camera.background, rel=0.01)
    assert photons[inside].mean() == pytest.approx(camera.photons + camera.background, rel=0.1)
    residual = (made.image - made.expected)[made.labels == 0]
    assert residual.mean() == pytest.approx(0, abs=0.2)
    assert residual.var() == pytest.approx(camera.gain**2 * (camera.background + camera.read_noise**2), rel=0.05)


def test_light_spreads_along_z_and_fades_with_depth() -> None:
    sharp, spread = (nuclei_volume(replace(PLAIN, blur=(z, 0.1, 0.1))) for z in (0.1, 2.0))
    assert np.array_equal(sharp.labels, spread.labels)
    edge = boundaries(sharp.labels)
    assert spread.expected[edge].mean() < sharp.expected[edge].mean()
    faded = nuclei_volume(replace(PLAIN, fading=0.02)).expected - PLAIN.camera.offset
    clear = nuclei_volume(PLAIN).expected - PLAIN.camera.offset
    left = faded / clear
    np.testing.assert_allclose(left[1:] / left[:-1], np.exp(-0.02), rtol=1e-3)


def test_equal_seeds_give_equal_stacks_and_others_do_not() -> None:
    small = replace(PLAIN, shape=(8, 40, 40))
    assert np.array_equal(nuclei_volume(small).image, nuclei_volume(small).image)
    assert not np.array_equal(nuclei_volume(small).image, nuclei_volume(replace(small, seed=4)).image)


def test_varied_stacks_fill_their_field() -> None:
    for seed in range(30):
        config = varied_volume(seed)
        extents = np.array(config.shape) * config.voxel
        np.testing.assert_allclose(extents, (24, 48, 48), rtol=0.05)
        assert 0.5 <= config.voxel[0] <= 2.0
        assert 0.25 <= config.voxel[1] == config.voxel[2] <= 0.5
        assert 8 <= config.camera.photons <= 400
    assert count_for(0.5, 8.0, (20.0, 20.0, 20.0)) == 15


def test_written_stacks_are_read_back_with_their_voxels(tmp_path: Path) -> None:
    small = {name: replace(config, shape=(6, 24, 24)) for name, config in varied_volumes(2, 5).items()}
    write_volumes(tmp_path / "train", small)
    pairs = find_pairs(tmp_path)
    assert [pair.split for pair in pairs] == ["train", "train"]
    for sample, config in zip(
        PairDataset(pairs, lambda pixels: pixels.astype(np.float32), 1, volume=True), small.values()
    ):
        made = nuclei_volume(config)
        assert np.array_equal(sample.image[0], made.image)
        assert np.array_equal(sample.labels, made.labels)
        assert sample.pixel_size == pytest.approx(config.voxel)
