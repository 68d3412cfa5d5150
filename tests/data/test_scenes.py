"""Simulated scenes: in range, the same by seed, of any shape, sampled well, and finer than what a microscope leaves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data.scenes import (
    KINDS,
    WIDTHS,
    Points,
    SimulatedScene,
    compressed,
    deposit,
    scene,
    simulated_scenes,
    widened,
)
from abbe.ops.degradation import blur
from abbe.ops.point_spread import point_spread


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**40), st.integers(1, 150), st.integers(1, 150), st.sets(st.sampled_from(sorted(KINDS))))
def test_any_shape_is_light_from_0_to_1(seed: int, height: int, width: int, kinds: set[str]) -> None:
    found = scene(seed, (height, width), sorted(kinds))
    assert found.shape == (height, width)
    assert found.dtype == np.float32
    assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_shows_something_in_nearly_every_scene(kind: str) -> None:
    found = [scene(seed, (128, 128), [kind]) for seed in range(12)]
    assert sum(np.ptp(one) > 0.3 for one in found) >= 10
    assert not np.array_equal(found[0], found[1])


def test_seeds_decide_and_parts_share_none() -> None:
    assert np.array_equal(SimulatedScene(3, (40, 50)).render(), SimulatedScene(3, (40, 50)).render())
    seeds = [one.seed for number in range(4) for one in simulated_scenes(50, number)]
    assert len(set(seeds)) == 200


def power(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Power of an image under a window, and the frequencies in cycles per pixel."""
    window = np.hanning(len(image))[:, None] * np.hanning(len(image))
    found = np.abs(np.fft.fft2((image - image.mean()) * window)) ** 2
    axis = np.fft.fftfreq(len(image))
    return found, np.hypot(axis[:, None], axis)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_sample_what_is_drawn(kind: str) -> None:
    found = [power(scene(seed, (128, 128), [kind])) for seed in range(8)]
    shares = [spectrum[frequency > 0.45].sum() / spectrum.sum() for spectrum, frequency in found]
    assert np.mean(shares) < 0.02


@pytest.mark.parametrize("kind", ["filaments", "spots", "membranes"])
def test_there_is_detail_that_a_microscope_takes_away(kind: str) -> None:
    kernel = point_spread(1.0, 1000.0, (0.5 / 3,) * 2)  # resolves 3 pixels: nothing beyond a third of a cycle
    shares = []
    for seed in range(8):
        image = scene(seed, (128, 128), [kind])
        (sharp, frequency), (seen, _) = power(image), power(blur(image[None], kernel)[0])
        shares.append([part[frequency > 0.15].sum() / sharp.sum() for part in (sharp, seen)])
    sharp_share, seen_share = np.mean(shares, axis=0)
    assert sharp_share > 0.02
    assert seen_share < sharp_share / 4


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(1, 17), st.floats(1, 27), st.floats(0.1, 9)), min_size=1, max_size=20))
def test_points_keep_their_light_and_their_place(points: list[tuple[float, float, float]]) -> None:
    y, x, light = np.array(points).T
    drawn = deposit(Points(y, x, light), (20, 30))
    assert drawn.sum() == pytest.approx(light.sum(), rel=1e-4)
    rows, columns = np.indices(drawn.shape)
    assert (drawn * rows).sum() / drawn.sum() == pytest.approx(np.average(y, weights=light), abs=1e-3)
    assert (drawn * columns).sum() / drawn.sum() == pytest.approx(np.average(x, weights=light), abs=1e-3)


def test_points_outside_leave_the_picture_alone() -> None:
    outside = Points(np.array([-5.0, 3.0, 99.0]), np.array([3.0, -1.5, 3.0]), np.ones(3))
    assert not deposit(outside, (8, 8)).any()


@pytest.mark.parametrize("number", range(len(WIDTHS)))
def test_lines_and_spots_are_about_as_bright_whatever_their_width(number: int) -> None:
    place = np.arange(0, 60, 0.5)
    line = Points(np.full(120, 30.3), place, np.full(120, 0.5))
    assert widened(line, np.full(120, number), 1, (60, 60))[:, 30].max() == pytest.approx(1, rel=0.2)
    places = 30 + np.arange(0, 1, 0.25)
    spots = [Points(np.array([y]), np.array([x]), np.ones(1)) for y in places for x in places]
    peaks = [widened(spot, np.array([number]), 2, (60, 60)).max() for spot in spots]
    assert np.mean(peaks) == pytest.approx(1, rel=0.25)


def test_bright_pixels_are_compressed_in_order_and_never_cut() -> None:
    light = np.random.default_rng(0).gamma(0.5, 1, (64, 64))
    found = compressed(light)
    order = np.argsort(light, axis=None)
    assert (np.diff(found.ravel()[order]) >= 0).all()
    assert np.unique(found).size > 0.99 * light.size
