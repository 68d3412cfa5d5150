"""Kernels of blur against the optics they come from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.ops.point_spread import gaussian_kernel, motion_kernel, point_spread


@settings(deadline=None, max_examples=25)
@given(st.floats(0.2, 1.45), st.floats(400, 700), st.floats(0.05, 0.2), st.sampled_from(["widefield", "confocal"]))
def test_point_spread_sums_to_one_and_is_symmetric(aperture, emission, pixel, microscope) -> None:
    kernel = point_spread(aperture, emission, (pixel, pixel), microscope=microscope)
    assert kernel.sum() == pytest.approx(1, abs=1e-4)
    assert all(extent % 2 for extent in kernel.shape)
    np.testing.assert_allclose(kernel, kernel[::-1], atol=1e-7)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-7)


@pytest.mark.parametrize("aperture", [0.5, 1.4])
def test_first_dark_ring_is_where_airy_found_it(aperture) -> None:
    step = 0.005
    line = point_spread(aperture, 520, (step, step), reach=(0, 400))[0, 400:]
    dark = np.argmax(np.diff(line) > 0) * step
    assert dark == pytest.approx(0.61 * 0.52 / aperture, rel=0.02)


def test_stack_in_focus_is_the_plane() -> None:
    plane = point_spread(1.0, 520, (0.1, 0.1), reach=(12, 12))
    stack = point_spread(1.0, 520, (0.3, 0.1, 0.1), reach=(3, 12, 12))
    np.testing.assert_allclose(stack[3] / stack[3].sum(), plane, atol=2e-4)


def test_axis_is_dark_where_the_pupils_halves_cancel() -> None:
    step, aperture, index, wave = 0.01, 1.0, 1.518, 0.52
    axis = point_spread(aperture, 1000 * wave, (step, 0.1, 0.1), refractive_index=index, reach=(250, 0, 0))[250:, 0, 0]
    dark = np.argmax(np.diff(axis) > 0) * step
    assert dark == pytest.approx(2 * index * wave / aperture**2, rel=0.03)


def test_light_of_a_widefield_plane_is_the_same_at_every_depth() -> None:
    stack = point_spread(0.8, 520, (0.4, 0.1, 0.1), reach=(4, 80, 80)).sum(axis=(1, 2))
    assert stack.min() > 0.9 * stack.max()


def test_confocal_sections_and_is_narrower() -> None:
    sizes = {"reach": (6, 40, 40)}
    wide, confocal = (
        point_spread(1.0, 520, (0.3, 0.05, 0.05), microscope=kind, **sizes) for kind in ("widefield", "confocal")
    )
    assert confocal.sum(axis=(1, 2))[0] < 0.3 * wide.sum(axis=(1, 2))[0]
    assert (confocal[6] > confocal[6].max() / 2).sum() < (wide[6] > wide[6].max() / 2).sum()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0.5, 40))
def test_motion_is_a_path_of_its_length(seed, length) -> None:
    kernel = motion_kernel(length, np.random.default_rng(seed))
    assert kernel.sum() == pytest.approx(1, abs=1e-4)
    assert kernel.min() >= 0
    assert all(np.ptp(np.nonzero(kernel)[axis]) <= length + 2 for axis in (0, 1))


def test_gaussian_has_its_width() -> None:
    kernel = gaussian_kernel(2.0)
    places = np.arange(len(kernel)) - len(kernel) // 2
    assert np.sqrt(kernel.sum(axis=0) @ places**2) == pytest.approx(2, rel=0.01)
