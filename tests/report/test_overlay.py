from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.errors import AbbeError
from abbe.report import pixels
from abbe.report.overlay import PALETTE, overlay, overlay_of
from abbe.report.pixels import ArrayPixels


def disks(size: int, pitch: int = 16, radius: float = 5) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    inside = (y % pitch - pitch / 2) ** 2 + (x % pitch - pitch / 2) ** 2 < radius**2
    number = 1 + (y // pitch) * (size // pitch) + x // pitch
    return np.where(inside, number, 0).astype(np.int32)


def is_contour(picture: np.ndarray) -> np.ndarray:
    return (picture[:, :, None] == PALETTE).all(axis=-1).any(axis=-1)


@pytest.mark.parametrize("ground", [0, 255])
def test_contours_stand_out_on_black_and_on_white(ground: int) -> None:
    labels = disks(64)
    image = np.full((3, 64, 64), ground, np.uint8)
    picture = overlay(image, labels, limits=((0, 255),) * 3).astype(int)
    contour = is_contour(picture)
    rim_or_ground = picture[~contour].sum(axis=-1)
    assert contour.any()
    # On white the darkened rim, on black the bright line itself makes the edge.
    assert abs(picture[contour].sum(axis=-1).mean() - rim_or_ground.min()) > 200


def test_every_object_is_outlined_and_its_inside_left_alone() -> None:
    labels = disks(64)
    image = np.random.default_rng(0).integers(0, 256, (3, 64, 64), dtype=np.uint8)
    picture = overlay(image, labels, limits=((0, 255),) * 3)
    contour = is_contour(picture)
    assert set(np.unique(labels[contour])) >= set(np.unique(labels)) - {0}
    assert (labels[contour] > 0).all()
    y, x = 8, 8  # the centre of the first disk
    np.testing.assert_array_equal(picture[y, x], image[:, y, x])


def test_touching_objects_have_different_colours() -> None:
    labels = np.repeat([[1, 2]], 8, axis=0).repeat(8, axis=1)
    picture = overlay(np.zeros(labels.shape), labels)
    assert (picture[4, 7] != picture[4, 8]).any()


@settings(deadline=None, max_examples=25)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    channels=st.integers(1, 6),
    max_side=st.integers(1, 90),
    budget=st.integers(1, 4000),
)
def test_bands_make_no_difference(height: int, width: int, channels: int, max_side: int, budget: int) -> None:
    generator = np.random.default_rng(height * 100 + width)
    image = generator.integers(0, 60_000, (channels, height, width), dtype=np.uint16)
    labels = generator.integers(0, 4, (height, width)).astype(np.uint16)
    whole = overlay(image, labels, max_side)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "BAND_VALUES", budget)
        banded = overlay_of(ArrayPixels(image), labels, max_side)
    assert whole.dtype == np.uint8
    assert whole.shape[2] == 3
    assert max(whole.shape[:2]) <= max_side or max_side < 2
    np.testing.assert_array_equal(banded, whole)


def test_shrinking_averages_the_picture_and_keeps_contours_whole() -> None:
    labels = disks(256, pitch=64, radius=24)
    image = np.random.default_rng(0).integers(0, 256, (256, 256)).astype(np.float64)
    picture = overlay(image, labels, max_side=64, limits=((0.0, 255.0),))
    contour = is_contour(picture)
    assert picture.shape == (64, 64, 3)
    assert set(np.unique(labels[2::4, 2::4][contour])) == set(np.unique(labels)) - {0}
    means = image.reshape(64, 4, 64, 4).mean(axis=(1, 3))
    plain = overlay(image, np.zeros_like(labels), max_side=64, limits=((0.0, 255.0),))
    assert np.abs(plain[..., 0] - means).max() <= 1


def test_a_large_image_is_read_in_bounded_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "BAND_VALUES", 20_000)
    largest = 0

    class Generated:
        height, width, n_channels, dtype = 1000, 800, 2, np.dtype(np.uint16)

        def region(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
            nonlocal largest
            band = np.ones((2, y1 - y0, x1 - x0), np.uint16)
            largest = max(largest, band.size)
            return band

    assert overlay_of(Generated(), np.zeros((1000, 800), np.uint8), 100).shape == (100, 80, 3)
    assert largest <= 20_000


@pytest.mark.parametrize(
    "image",
    [
        np.full((20, 20), np.nan, np.float32),
        np.full((20, 20), np.inf),
        np.full((20, 20), 7, np.uint16),
        np.zeros((20, 20), bool),
        np.where(np.eye(20) > 0, np.nan, np.linspace(-1e30, 1e30, 20)),
        np.zeros((300, 20, 20), np.uint8),
        np.full((20, 20), 2**64 - 1, np.uint64),
        np.full((20, 20), -(2**63), np.int64),
    ],
)
@pytest.mark.filterwarnings("error")
def test_strange_images_are_drawn_all_the_same(image: np.ndarray) -> None:
    before = image.copy()
    picture = overlay(image, disks(20, 10, 3))
    assert picture.shape == (20, 20, 3)
    assert is_contour(picture).any()
    np.testing.assert_array_equal(image, before)


def test_grey_levels_stay_in_order() -> None:
    ramp = np.tile(np.linspace(100, 4000, 64), (64, 1))
    shades = overlay(ramp.astype(np.uint16), np.zeros((64, 64), np.int32))[0, :, 0].astype(int)
    assert shades[0] == 0
    assert shades[-1] == 255
    assert (np.diff(shades) >= 0).all()


@pytest.mark.parametrize("dtype", ["uint32", "int32", "float64"])
@pytest.mark.parametrize("max_side", [64, 32])
def test_a_high_offset_does_not_matter(dtype: str, max_side: int) -> None:
    small = np.random.default_rng(0).integers(0, 256, (64, 64))
    shades = [
        overlay((small + offset).astype(dtype), np.zeros((64, 64), np.int32), max_side).astype(int)
        for offset in (0, 2**31 - 256)
    ]
    assert np.abs(shades[0] - shades[1]).max() <= 1


def test_sizes_must_agree() -> None:
    with pytest.raises(AbbeError, match="its labels are 5 × 5"):
        overlay(np.zeros((4, 4)), np.zeros((5, 5), np.int32))
