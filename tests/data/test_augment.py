from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from abbe.data.augment import (
    DAB,
    STAINS,
    AugmentConfig,
    _draw_displacement,
    augment,
    change_intensity,
)
from abbe.data.sample import Sample
from abbe.data.warp import Warp, mirror, span, upsample
from abbe.train.settings import build_config

NOTHING = AugmentConfig(
    flips=False,
    quarter_turns=False,
    **{f.name: 0.0 for f in fields(AugmentConfig) if "probability" in f.name},
)
ALWAYS = AugmentConfig(**{f.name: 1.0 for f in fields(AugmentConfig) if "probability" in f.name})


def make_sample(shape: tuple[int, ...], channels: int = 1, seed: int = 0) -> Sample:
    """Every pixel's label is unique, so that a label tells where it came from."""
    generator = np.random.default_rng(seed)
    labels = np.arange(1, np.prod(shape) + 1, dtype=np.int32).reshape(shape)
    image = generator.random((channels, *shape), dtype=np.float32)
    return Sample(image, labels, labels % 5 == 0, pixel_size=(0.5,) * len(shape), name="a")


def disks(extent: int = 200) -> Sample:
    y, x = np.mgrid[:extent, :extent]
    labels = np.zeros((extent, extent), np.int32)
    for number, (cy, cx) in enumerate([(60, 60), (60, 130), (130, 100)], 1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 < 20**2] = number
    return Sample(ndimage.gaussian_filter((labels > 0).astype(np.float32), 1)[None], labels)


def test_nothing_is_the_identity() -> None:
    sample = make_sample((40, 53), 2)
    result = augment(sample, NOTHING, np.random.default_rng(0), (40, 53))
    np.testing.assert_array_equal(result.image, sample.image)
    np.testing.assert_array_equal(result.labels, sample.labels)
    np.testing.assert_array_equal(result.ignore, sample.ignore)
    assert result.pixel_size == sample.pixel_size
    assert result.name == "a"


@given(seed=st.integers(0, 2**32), height=st.integers(1, 30), width=st.integers(1, 30))
@settings(deadline=None, max_examples=40)
def test_crops_flips_and_turns_are_exact(seed: int, height: int, width: int) -> None:
    sample = make_sample((30, 30))
    config = replace(NOTHING, flips=True, quarter_turns=True)
    result = augment(sample, config, np.random.default_rng(seed), (height, width))
    assert result.labels is not None
    assert sample.labels is not None
    # Unique labels tell the place, whose grey value must have come along unchanged.
    np.testing.assert_array_equal(result.image[0], sample.image[0].ravel()[result.labels - 1])
    variants = [np.rot90(v, k) for v in (sample.labels, sample.labels[::-1]) for k in range(4)]
    corner = result.labels[0, 0]
    assert any(
        np.array_equal(v[y : y + height, x : x + width], result.labels)
        for v in variants
        for y, x in np.argwhere(v == corner)
    )


def test_all_eight_symmetries_occur() -> None:
    sample = make_sample((4, 4))
    config = replace(NOTHING, flips=True, quarter_turns=True)
    generator = np.random.default_rng(0)
    seen = {augment(sample, config, generator, (4, 4)).labels.tobytes() for _ in range(200)}  # type: ignore[union-attr]
    assert len(seen) == 8


@given(seed=st.integers(0, 2**32), count=st.integers(1, 60), extent=st.integers(1, 12))
@settings(deadline=None, max_examples=40)
def test_mirror_is_numpys_reflection_and_its_span_contains_it(seed: int, count: int, extent: int) -> None:
    before = seed % 40
    place = np.arange(-before, extent + count)
    expected = np.pad(np.arange(extent), (before, count), mode="reflect" if extent > 1 else "edge")
    folded = mirror(place, extent)
    np.testing.assert_array_equal(folded, expected)
    part = place[seed % place.size :]
    low, high = span(part, 0.0, extent)
    assert 0 <= low <= mirror(part, extent).min()
    assert mirror(part, extent).max() < high <= extent


def test_a_crop_larger_than_the_image_is_mirrored() -> None:
    sample = make_sample((5, 7))
    result = augment(sample, NOTHING, np.random.default_rng(1), (19, 23))
    places = np.argwhere(result.labels == 1)
    y, x = places[0]
    expected = np.pad(sample.labels, ((20, 40), (40, 40)), mode="reflect")  # type: ignore[arg-type]
    found = [
        np.array_equal(expected[a : a + 19, b : b + 23], result.labels)
        for a, b in np.argwhere(expected == 1) - (y, x)
        if min(a, b) >= 0 and a + 19 <= expected.shape[0] and b + 23 <= expected.shape[1]
    ]
    assert any(found)


@given(seed=st.integers(0, 2**32), channels=st.integers(1, 3))
@settings(deadline=None, max_examples=20)
def test_warp_equals_scipy(seed: int, channels: int) -> None:
    generator = np.random.default_rng(seed)
    image = generator.random((channels, 37, 45), dtype=np.float32)
    matrix = generator.normal(size=(2, 2))
    matrix *= 0.8 / np.sqrt(abs(np.linalg.det(matrix)))
    displacement = upsample(generator.normal(0, 3, (2, 3, 3)), (20, 31))
    warp = Warp((20, 31), matrix, np.array([18.0, 25.0]), displacement, False)
    for channel, result in zip(image, warp.linear(image)):
        expected = ndimage.map_coordinates(channel, warp.places, order=1, mode="mirror")
        np.testing.assert_allclose(result, expected, atol=2e-4)
    expected = ndimage.map_coordinates(image[0], warp.places, order=0, mode="mirror", prefilter=False)
    assert np.mean(warp.nearest(image[0]) == expected) > 0.999  # ties between two pixels may differ


@given(seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=15)
def test_warp_of_stacks_equals_scipy(seed: int) -> None:
    generator = np.random.default_rng(seed)
    image = generator.random((1, 9, 27, 25), dtype=np.float32)
    matrix = generator.normal(size=(3, 3))
    matrix *= 0.8 / np.cbrt(abs(np.linalg.det(matrix)))
    displacement = upsample(generator.normal(0, 2, (3, 3, 3, 3)), (6, 11, 13))
    warp = Warp((6, 11, 13), matrix, np.array([4.0, 13.0, 12.0]), displacement, False)
    expected = ndimage.map_coordinates(image[0], warp.places, order=1, mode="mirror")
    np.testing.assert_allclose(warp.linear(image)[0], expected, atol=1e-4)
    expected = ndimage.map_coordinates(image[0], warp.places, order=0, mode="mirror", prefilter=False)
    assert np.mean(warp.nearest(image[0]) == expected) > 0.99


def test_shrinking_averages_instead_of_skipping_pixels() -> None:
    checkerboard = (np.indices((80, 80)).sum(0) % 2).astype(np.float32)[None]
    warp = Warp((30, 30), 2 * np.eye(2), np.array([39.5, 39.5]), None, False)
    np.testing.assert_allclose(warp.linear(checkerboard), 0.5, atol=1e-4)


def test_upsample_passes_through_the_coarse_grid() -> None:
    coarse = np.random.default_rng(0).normal(size=(2, 3, 3))
    fine = upsample(coarse, (21, 41))
    np.testing.assert_allclose(fine[:, ::10, ::20], coarse, atol=1e-12)


def test_equal_generators_give_equal_crops() -> None:
    sample = make_sample((60, 60), 3)
    one, two = (augment(sample, ALWAYS, np.random.default_rng([1, 2]), (32, 32)) for _ in range(2))
    other = augment(sample, ALWAYS, np.random.default_rng([1, 3]), (32, 32))
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert not np.array_equal(one.image, other.image)


def test_the_sample_itself_stays_as_it_was() -> None:
    sample = make_sample((30, 30), 3)
    before = sample.image.copy()
    for seed in range(20):
        augment(sample, replace(ALWAYS, affine_probability=0.5), np.random.default_rng(seed), (30, 30))
    np.testing.assert_array_equal(sample.image, before)


def test_labels_follow_the_image() -> None:
    sample = disks()
    config = replace(NOTHING, affine_probability=1.0, elastic_probability=1.0, elastic_sigma=4.0)
    for seed in range(10):
        result = augment(sample, config, np.random.default_rng(seed), (96, 96))
        agreement = (result.image[0] > 0.5) == (result.labels > 0)
        assert agreement.mean() > 0.98
        assert set(np.unique(result.labels)) <= {0, 1, 2, 3}


@pytest.mark.parametrize("magnification", [0.5, 1.0, 2.0])
def test_scale_changes_area_and_pixel_size_together(magnification: float) -> None:
    sample = replace(disks(), pixel_size=(0.5, 0.5))
    config = replace(NOTHING, affine_probability=1.0, scale=(magnification, magnification), anisotropy=0.0, shear=0.0)
    result = augment(sample, config, np.random.default_rng(0), (int(200 * magnification),) * 2)
    assert result.pixel_size == pytest.approx((0.5 / magnification,) * 2)
    area = (sample.labels == 1).sum() * magnification**2
    counts = [(result.labels == number).sum() for number in (1, 2, 3)]
    # At least one disk lies whole in a crop as large as the image.
    assert min(abs(count / area - 1) for count in counts) < 0.05


def test_crops_show_objects_as_often_as_asked() -> None:
    labels = np.zeros((400, 400), np.int32)
    labels[300:345, 300:345] = 7
    sample = Sample(np.zeros((1, 400, 400), np.float32), labels)
    for probability, low, high in ((1.0, 1.0, 1.0), (0.0, 0.0, 0.3)):
        config = replace(NOTHING, foreground_probability=probability, flips=True)
        generator = np.random.default_rng(0)
        shown = [7 in augment(sample, config, generator, (64, 64)).labels for _ in range(100)]  # type: ignore[operator]
        assert low <= np.mean(shown) <= high


def test_an_image_without_labels_or_objects_is_cropped_too() -> None:
    image = np.random.default_rng(0).random((1, 50, 50), dtype=np.float32)
    config = replace(ALWAYS)
    assert augment(Sample(image), config, np.random.default_rng(0), (20, 24)).image.shape == (1, 20, 24)
    empty = Sample(image, np.zeros((50, 50), np.int32))
    assert augment(empty, config, np.random.default_rng(0), (20, 24)).labels.max() == 0  # type: ignore[union-attr]


@given(seed=st.integers(0, 2**32), size=st.tuples(st.integers(1, 5), st.integers(1, 20), st.integers(1, 20)))
@settings(deadline=None, max_examples=40)
def test_crops_flips_and_turns_of_stacks_are_exact(seed: int, size: tuple[int, int, int]) -> None:
    sample = make_sample((5, 20, 20))
    config = replace(NOTHING, flips=True, quarter_turns=True)
    result = augment(sample, config, np.random.default_rng(seed), size)
    assert result.labels is not None
    assert sample.labels is not None
    np.testing.assert_array_equal(result.image[0], sample.image[0].ravel()[result.labels - 1])
    planes, places = np.divmod(result.labels - 1, 400)
    assert (planes == planes[:, :1, :1]).all()  # planes stay planes, in order or reversed
    assert (places == places[:1]).all()
    assert set(np.diff(planes[:, 0, 0])) in ({1}, {-1}, set())


def test_a_turned_stack_keeps_its_planes() -> None:
    planes = np.broadcast_to(np.arange(9, dtype=np.int32)[:, None, None] + 1, (9, 40, 40))
    sample = Sample(planes[None].astype(np.float32), planes.copy(), pixel_size=(2.0, 0.5, 0.5))
    config = replace(NOTHING, flips=True, affine_probability=1.0, scale=(1.0, 1.0), foreground_probability=1.0)
    seen = set()
    for seed in range(20):
        result = augment(sample, config, np.random.default_rng(seed), (4, 16, 16))
        assert result.image.shape == (1, 4, 16, 16)
        assert result.labels is not None
        order = result.labels[:, 0, 0]
        assert (result.labels == order[:, None, None]).all()
        np.testing.assert_allclose(result.image[0], result.labels, rtol=1e-5)
        seen.add(tuple(np.diff(order)))
        assert result.pixel_size == pytest.approx((2.0, 0.5, 0.5))
    assert seen == {(1, 1, 1), (-1, -1, -1)}


def test_a_stack_grows_along_all_axes() -> None:
    z, y, x = np.mgrid[:40, :80, :80]
    labels = (((z - 20) / 6) ** 2 + ((y - 40) / 12) ** 2 + ((x - 40) / 12) ** 2 < 1).astype(np.int32)
    sample = Sample(labels[None].astype(np.float32), labels, pixel_size=(1.0, 0.5, 0.5))
    config = replace(NOTHING, affine_probability=1.0, scale=(1.5, 1.5), foreground_probability=1.0)
    result = augment(sample, config, np.random.default_rng(3), (40, 80, 80))
    assert result.labels is not None
    assert result.labels.sum() / labels.sum() == pytest.approx(1.5**3, rel=0.05)
    assert result.pixel_size == pytest.approx((1 / 1.5, 0.5 / 1.5, 0.5 / 1.5))
    extents = [np.ptp(where) + 1 for where in np.nonzero(result.labels)]
    assert extents[0] == pytest.approx(18, abs=2)


def test_labels_of_stacks_follow_the_image_through_elastic_warps() -> None:
    generator = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(generator.normal(size=(20, 60, 60)), 4)
    labels = (smooth > 0).astype(np.int32)
    sample = Sample(labels[None].astype(np.float32), labels, pixel_size=(2.0, 0.5, 0.5))
    config = replace(NOTHING, affine_probability=1.0, elastic_probability=1.0, elastic_sigma=4.0)
    for seed in range(5):
        result = augment(sample, config, np.random.default_rng(seed), (12, 32, 32))
        assert result.labels is not None
        assert ((result.image[0] > 0.5) != (result.labels > 0)).mean() < 0.02


def test_displacements_are_equally_long_in_micrometres() -> None:
    sample = replace(make_sample((8, 60, 60)), pixel_size=(4.0, 0.5, 0.5))
    fields = [
        _draw_displacement(sample, (8, 60, 60), AugmentConfig(), np.random.default_rng(seed)) for seed in range(40)
    ]
    lengths = np.std(fields, axis=(0, 2, 3, 4)) * sample.pixel_size  # type: ignore[operator]
    np.testing.assert_allclose(lengths, lengths.mean(), rtol=0.15)


def test_a_thin_stack_is_mirrored_along_z() -> None:
    sample = make_sample((3, 8, 8))
    result = augment(sample, NOTHING, np.random.default_rng(0), (5, 8, 8))
    planes = (result.labels[:, 0, 0] - 1) // 64  # type: ignore[index]
    assert set(np.abs(np.diff(planes))) == {1}


def one_step(**settings: object) -> AugmentConfig:
    return replace(NOTHING, **settings)  # type: ignore[arg-type]


def test_grey_value_curves_rise_and_keep_both_ends() -> None:
    ramp = np.linspace(0.1, 1.3, 5000, dtype=np.float32).reshape(1, 50, 100)
    for config in (one_step(curve_probability=1.0), one_step(gamma_probability=1.0)):
        for seed in range(5):
            changed = change_intensity(ramp, config, np.random.default_rng(seed)).ravel()
            assert (np.diff(changed) >= 0).all()
            assert changed[0] == pytest.approx(0.1, abs=1e-5)
            assert changed[-1] == pytest.approx(1.3, abs=1e-4)


def test_noise_has_the_variance_of_shot_and_read_noise() -> None:
    image = np.full((1, 300, 300), 0.8, np.float32)
    config = one_step(noise_probability=1.0, noise=0.0, photons=(100.0, 100.0))
    noise = change_intensity(image, config, np.random.default_rng(0)) - image
    assert noise.var() == pytest.approx(0.8 / 100, rel=0.03)
    assert abs(noise.mean()) < 0.002


@pytest.mark.parametrize("shape", [(2, 30, 41), (1, 3, 30, 30), (1, 2, 50)])
def test_blur_equals_scipy(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    config = one_step(blur_probability=1.0, blur=(1.5, 1.5))
    blurred = change_intensity(image, config, np.random.default_rng(0))
    assert blurred.shape == shape
    if min(shape[-2:]) > 5:
        sigma = (0,) * (len(shape) - 2) + (1.5, 1.5)
        expected = ndimage.gaussian_filter(image, sigma, mode="mirror", radius=(0,) * (len(shape) - 2) + (5, 5))
        np.testing.assert_allclose(blurred, expected, atol=1e-5)


def test_colour_steps_know_grey_from_colour() -> None:
    colour = np.random.default_rng(0).random((3, 20, 20), dtype=np.float32)
    grey = np.repeat(colour[:1], 3, axis=0)
    for config in (one_step(grey_probability=1.0), one_step(stain_probability=1.0)):
        np.testing.assert_array_equal(change_intensity(grey, config, np.random.default_rng(0)), grey)
        assert not np.array_equal(change_intensity(colour, config, np.random.default_rng(0)), colour)
    pseudo = one_step(pseudo_colour_probability=1.0)
    np.testing.assert_array_equal(change_intensity(colour, pseudo, np.random.default_rng(0)), colour)
    coloured = change_intensity(grey, pseudo, np.random.default_rng(0))
    assert not np.array_equal(coloured[0], coloured[1])
    # A line in colour space: every channel is a straight function of the grey value.
    for channel in coloured:
        assert abs(np.corrcoef(channel.ravel(), grey[0].ravel())[0, 1]) == pytest.approx(1, abs=1e-4)


def test_eosin_becomes_brown_and_haematoxylin_stays() -> None:
    concentration = np.random.default_rng(0).random((3, 400)) * [[0.6], [0.4], [0.0]]
    image = np.exp(-(STAINS.T @ concentration)).astype(np.float32).reshape(3, 20, 20)
    config = one_step(dab_probability=1.0, dab_strength=(2.0, 2.0))
    changed = change_intensity(image, config, np.random.default_rng(3))
    expected = np.outer(STAINS[0], concentration[0]) + 2 * np.outer(DAB, concentration[1])
    np.testing.assert_allclose(-np.log(changed.reshape(3, -1)), expected, atol=1e-5)


def test_stain_jitter_moves_along_the_stains() -> None:
    concentration = np.random.default_rng(0).random((3, 400)) * [[0.6], [0.4], [0.0]]
    image = np.exp(-(STAINS.T @ concentration)).astype(np.float32).reshape(3, 20, 20)
    changed = change_intensity(image, one_step(stain_probability=1.0), np.random.default_rng(3))
    after = np.linalg.solve(STAINS.T, -np.log(changed.reshape(3, -1)))
    for stain in (0, 1):
        slope, _ = np.polyfit(concentration[stain], after[stain], 1)
        residual = after[stain] - np.polyval(np.polyfit(concentration[stain], after[stain], 1), concentration[stain])
        assert 0.8 <= slope <= 1.2
        assert np.abs(residual).max() < 0.01


def test_inversion_is_its_own_inverse() -> None:
    image = np.random.default_rng(0).random((1, 9, 9), dtype=np.float32)
    config = one_step(invert_probability=1.0)
    twice = change_intensity(
        change_intensity(image, config, np.random.default_rng(0)), config, np.random.default_rng(0)
    )
    np.testing.assert_allclose(twice, image, atol=1e-6)


@given(
    seed=st.integers(0, 2**32),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    constant=st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_any_image_gives_a_finite_crop(
    seed: int, shape: tuple[int, int, int], size: tuple[int, int], constant: bool
) -> None:
    generator = np.random.default_rng(seed)
    image = np.zeros(shape, np.float32) if constant else generator.normal(0.5, 0.5, shape).astype(np.float32)
    sample = Sample(image, generator.integers(0, 3, shape[1:], dtype=np.int32))
    result = augment(sample, ALWAYS, generator, size)
    assert result.image.shape == (shape[0], *size)
    assert result.image.dtype == np.float32
    assert np.isfinite(result.image).all()
    assert result.labels is not None
    assert result.labels.shape == size
    assert result.labels.dtype == np.int32


def test_photographs_are_mirrored_left_and_right_and_shifted_by_whole_pixels() -> None:
    """As in the training of the CIFAR networks: 4 of 32 pixels to either side, the border mirrored."""
    image = np.arange(32 * 32, dtype=np.float32).reshape(1, 32, 32)
    config = replace(NOTHING, flips="x", translation=4 / 32)
    padded = np.pad(image[0], 4, mode="reflect")
    places = {(y, x, flip) for y in range(9) for x in range(9) for flip in (1, -1)}
    seen = set()
    for seed in range(60):
        crop = augment(Sample(image), config, np.random.default_rng(seed), (32, 32)).image[0]
        found = [(y, x, f) for y, x, f in places if np.array_equal(padded[y : y + 32, x : x + 32][:, ::f], crop)]
        assert len(found) == 1
        seen.add(found[0])
    assert {flip for *_, flip in seen} == {1, -1}
    assert len({place[:2] for place in seen}) > 30


def test_flips_of_a_recipe_are_a_switch_or_an_axis() -> None:
    for text, value in (("true", True), ("false", False), ("x", "x"), (True, True), (False, False)):
        assert build_config(AugmentConfig, {"flips": text}, "augment").flips == value
