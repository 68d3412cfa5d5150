from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import label, regionprops

from abbe.data.placement import hashed
from abbe.data.synthetic import (
    FluorescenceField,
    LazyField,
    Simulated,
    expose,
    fluorescence_field,
)
from abbe.errors import AbbeError

SHAPE = (700, 1100)


@pytest.fixture(scope="module")
def field() -> LazyField:
    return LazyField(SHAPE, FluorescenceField(density=8.0), seed=5)


@pytest.fixture(scope="module")
def whole(field: LazyField) -> tuple[np.ndarray, np.ndarray]:
    return field[:, :], field.labels_region(0, SHAPE[0], 0, SHAPE[1])


@pytest.fixture(scope="module")
def simulated() -> Simulated:
    return fluorescence_field(FluorescenceField(shape=(600, 600), seed=2))


@given(data=st.data())
@settings(deadline=None, max_examples=15)
def test_a_region_holds_what_the_whole_holds(
    data: st.DataObject, field: LazyField, whole: tuple[np.ndarray, np.ndarray]
) -> None:
    y0, x0 = (data.draw(st.integers(0, extent - 1)) for extent in SHAPE)
    y1, x1 = data.draw(st.integers(y0, SHAPE[0])), data.draw(st.integers(x0, SHAPE[1]))
    np.testing.assert_array_equal(field[y0:y1, x0:x1], whole[0][y0:y1, x0:x1])
    np.testing.assert_array_equal(field.labels_region(y0, y1, x0, x1), whole[1][y0:y1, x0:x1])


def test_a_field_read_elsewhere_first_or_after_pickling_is_the_same(
    whole: tuple[np.ndarray, np.ndarray],
) -> None:
    fresh = LazyField(SHAPE, FluorescenceField(density=8.0), seed=5, kept=1)
    np.testing.assert_array_equal(fresh[600:, 1000:], whole[0][600:, 1000:])
    again = pickle.loads(pickle.dumps(fresh))
    np.testing.assert_array_equal(again[:50, 500:530], whole[0][:50, 500:530])


def test_a_field_is_seamless_where_blocks_meet() -> None:
    # The largest step of light between two columns is no larger at the border of a block than elsewhere.
    config = FluorescenceField(density=8.0, illumination=0.0, texture=0.0, numerical_aperture=0.1)
    field = LazyField((1100, 1100), config, seed=1)
    expected = field.expected_region(0, 1100, 0, 1100)
    jumps = np.abs(np.diff(expected, axis=1)).max(axis=0)
    assert jumps[511] <= np.percentile(jumps, 99)
    assert jumps[1023] <= np.percentile(jumps, 99)
    labels = field.labels_region(0, 1100, 0, 1100)
    cut = np.intersect1d(labels[:, 511], labels[:, 512])
    assert len(cut) > 5  # objects lie across the seam and keep their label


def test_indexing_is_that_of_an_array(field: LazyField, whole: tuple[np.ndarray, np.ndarray]) -> None:
    image = whole[0]
    assert field.shape == image.shape
    assert field.dtype == image.dtype
    assert field.ndim == 2
    for key in (5, slice(3, 9), (4, 7), (-1, slice(None)), (slice(690, 800), slice(-4, None)), ..., (..., 3)):
        found = field[key]
        np.testing.assert_array_equal(found, image[key])
        assert np.shape(found) == np.shape(image[key])
    with pytest.raises(IndexError, match="step"):
        field[::2]
    with pytest.raises(IndexError, match="outside"):
        field[700]


def test_every_label_is_one_piece_and_as_large_as_a_nucleus(simulated: Simulated) -> None:
    labels = simulated.labels
    assert label(labels, connectivity=2).max() == labels.max()
    inside = [r for r in regionprops(labels) if min(r.bbox[:2]) > 0 and max(r.bbox[2:]) < 600]
    diameters = np.array([r.equivalent_diameter_area for r in inside])
    assert abs(np.median(diameters) / 24 - 1) < 0.08
    assert abs(np.log(diameters).std() - 0.15) < 0.05
    assert np.mean([r.solidity for r in inside]) > 0.93


def test_labels_are_the_pixels_that_shine() -> None:
    config = FluorescenceField(
        shape=(512, 512),
        numerical_aperture=1e3,
        haze=0.0,
        illumination=0.0,
        background=0.0,
        seed=1,
        density=20.0,
    )
    result = fluorescence_field(config)
    np.testing.assert_array_equal(result.expected > config.offset, result.labels > 0)


def test_clumps_touch_and_singles_do_not() -> None:
    def touching(clumping: float) -> float:
        config = FluorescenceField(shape=(800, 800), density=3.0, clumping=clumping, gap=0.5, seed=4)
        labels = fluorescence_field(config).labels
        near = ndimage.maximum_filter(labels, 5)
        far = -ndimage.maximum_filter(np.where(labels > 0, -labels, -(2**30)), 5)
        pairs = (far < near) & (labels > 0)
        return len(np.unique(labels[pairs])) / labels.max()

    assert touching(0.6) > 0.5
    assert touching(0.0) < 0.15


@pytest.mark.parametrize(("clumping", "low"), [(0.0, 0.85), (0.4, 0.75), (0.7, 0.6)])
def test_sparse_fields_have_the_density_asked_for(clumping: float, low: float) -> None:
    config = FluorescenceField(shape=(2000, 2000), density=2.0, diameter=6.0, clumping=clumping, seed=1)
    count = fluorescence_field(config).labels.max()
    # Proposed is a Poisson number of clumps of a few each; of satellites, some overlap each other.
    assert low * 800 < count < 1.15 * 800


def test_more_density_gives_more_nuclei() -> None:
    counts = [fluorescence_field(FluorescenceField(shape=(800, 800), density=d)).labels.max() for d in (0, 2, 6, 20)]
    assert counts[0] == 0
    assert counts == sorted(counts)


def test_noise_has_the_variance_of_camera_theory() -> None:
    # Grey value = offset + gain (Poisson(light) + read noise): variance = gain (mean - offset) + (gain read)².
    config = FluorescenceField(gain=2.5, offset=90.0, read_noise=3.0)
    generator = np.random.default_rng(0)
    for light in (0.5, 3.0, 7.9, 8.1, 40.0, 900.0):
        values = expose(np.full((400, 400), light, np.float32), config, generator).astype(float)
        assert values.mean() == pytest.approx(90 + 2.5 * light, abs=0.1 + 0.001 * light)
        assert values.var() == pytest.approx(2.5**2 * (light + 9), rel=0.02)


def test_bright_shot_noise_is_as_skew_as_poisson() -> None:
    config = FluorescenceField(gain=1.0, offset=1000.0, read_noise=0.0)
    values = expose(np.full((700, 700), 10.0, np.float32), config, np.random.default_rng(0)).astype(float)
    centred = values - values.mean()
    skewness = (centred**3).mean() / (centred**2).mean() ** 1.5
    assert skewness == pytest.approx(10**-0.5, rel=0.1)


def test_the_image_is_its_expectation_with_noise(simulated: Simulated) -> None:
    residual = simulated.image.astype(float) - simulated.expected
    assert abs(residual.mean()) < 0.1
    light = (simulated.expected - 100) / 2
    assert (residual**2 / (4 * (light + 4))).mean() == pytest.approx(1, rel=0.02)


def test_the_grey_value_never_wraps() -> None:
    config = FluorescenceField(shape=(200, 200), photons=1e6)
    assert fluorescence_field(config).image.max() == 65535


def test_equal_seeds_give_equal_fields_and_others_do_not() -> None:
    config = FluorescenceField(shape=(200, 200), seed=7)
    one, two, three = (fluorescence_field(c) for c in (config, config, replace(config, seed=8)))
    np.testing.assert_array_equal(one.image, two.image)
    assert not np.array_equal(one.labels, three.labels)


def test_impossible_fields_are_refused() -> None:
    with pytest.raises(AbbeError, match="clumping"):
        LazyField((100, 100), FluorescenceField(clumping=0.9))
    with pytest.raises(AbbeError, match="labels"):
        LazyField((10**6, 10**6))


def test_hash_is_uniform_and_independent_of_its_neighbours() -> None:
    values = hashed(3, np.arange(100_000), 1)
    assert values.min() >= 0
    assert values.max() < 1
    counts = np.histogram(values, 50, (0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 90  # chi squared, 49 degrees: 99.97 %
    for other in (hashed(4, np.arange(100_000), 1), hashed(3, np.arange(100_000), 2), np.roll(values, 1)):
        assert abs(np.corrcoef(values, other)[0, 1]) < 0.015
