from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data.image import Image
from abbe.data.select import select
from abbe.errors import AbbeError
from abbe.report import overlay as overlay_module
from abbe.report import pixels
from abbe.report.overlay import PALETTE, contact_sheet, overlay, overlay_of, picture_of
from abbe.report.pixels import ArrayPixels
from abbe.settings import ImageSettings


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
        patch.setattr(overlay_module, "_BLOCK", budget % 9 + 1)
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


# --- volumes and series -------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(
    depth=st.integers(1, 4),
    side=st.integers(1, 40),
    channels=st.integers(1, 6),
    max_side=st.integers(1, 50),
    budget=st.integers(1, 3000),
)
def test_a_volume_is_drawn_as_its_projection(depth: int, side: int, channels: int, max_side: int, budget: int) -> None:
    generator = np.random.default_rng(side)
    image = generator.integers(0, 60_000, (channels, depth, side, side + 1), dtype=np.uint16)
    labels = np.zeros((depth, side, side + 1), np.int32)
    labels[generator.integers(depth)] = generator.integers(0, 4, labels.shape[1:])
    limits = ((100.0, 50_000.0),) * channels
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "SLAB_VALUES", budget)
        picture = overlay_of(Image(image, "CZYX"), labels, max_side, limits=limits)
    factor = -(-max(labels.shape) // max_side)
    projected = np.max([_shrunk(image[:, z], factor) for z in range(depth)], axis=0)
    seen = labels.max(axis=0)[factor // 2 :: factor, factor // 2 :: factor]
    if seen.shape == projected.shape[1:]:  # else the last block is cut, and its nearest pixel another
        expected = overlay_of(projected, seen, limits=limits).astype(int)
        assert np.abs(picture - expected).max() <= 3  # rounded before the colours are added up, not after
    assert max(picture.shape[:2]) <= max_side


def _shrunk(plane: np.ndarray, factor: int) -> np.ndarray:
    height, width = plane.shape[1:]
    blocks = [
        [plane[:, y : y + factor, x : x + factor].mean(axis=(1, 2)) for x in range(0, width, factor)]
        for y in range(0, height, factor)
    ]
    return np.moveaxis(np.array(blocks), -1, 0)


def test_what_lies_in_front_is_outlined_whole() -> None:
    labels = np.zeros((3, 30, 30), np.int32)
    labels[1, 5:20, 5:20], labels[2, 10:25, 10:25] = 1, 2
    image = np.zeros((1, 3, 30, 30), np.uint8)
    picture = overlay_of(image, labels, limits=((0, 255),))
    first = (picture == PALETTE[1]).all(axis=-1)
    square = np.zeros((30, 30), bool)
    square[5:20, 5:20] = True
    square[6:19, 6:19] = False
    np.testing.assert_array_equal(first, square)
    assert (picture == PALETTE[2]).all(axis=-1)[24, 12:24].all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [np.nan, np.inf, 7.0])
def test_strange_volumes_are_drawn_all_the_same(value: float) -> None:
    labels = np.stack([disks(20, 10, 3)] * 2)
    assert is_contour(overlay_of(np.full((2, 2, 20, 20), value), labels)).any()
    assert overlay_of(np.zeros((2, 20, 20), bool), labels).shape == (20, 20, 3)


def test_sizes_of_volumes_must_agree() -> None:
    with pytest.raises(AbbeError, match="v: 2 × 4 × 4 pixels, but its labels are 3 × 4 × 4"):
        overlay_of(Image(np.zeros((1, 2, 4, 4)), "CZYX", name="v"), np.zeros((3, 4, 4), np.int32))


@settings(deadline=None, max_examples=20)
@given(
    n=st.integers(1, 30),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    max_side=st.integers(9, 300),
    volumes=st.booleans(),
)
def test_a_contact_sheet_shows_up_to_nine_frames_within_its_size(
    n: int, height: int, width: int, max_side: int, volumes: bool
) -> None:
    asked = []

    def labels_of(index: int) -> np.ndarray:
        asked.append(index)
        return np.ones((2, height, width) if volumes else (height, width), np.int32)

    shape = (1, 2, height, width) if volumes else (1, height, width)
    frames = [Image(np.zeros(shape, np.uint8), "CZYX" if volumes else "CYX") for _ in range(n)]
    sheet = contact_sheet(frames, labels_of, max_side, limits=((0, 1),))
    assert sheet.dtype == np.uint8
    assert sheet.ndim == 3
    assert max(sheet.shape[:2]) <= max_side
    assert len(asked) == min(n, 9)
    assert (asked[0], asked[-1]) == (0, n - 1)
    steps = np.diff(asked)
    assert not len(steps) or steps.max() - steps.min() <= 1


def test_frames_stand_in_order_with_their_numbers() -> None:
    frames = [Image(np.full((1, 40, 40), 60 * index, np.uint8), "CYX") for index in range(4)]
    sheet = contact_sheet(frames, lambda index: disks(40, 20, 5), 400, limits=((0, 255),))
    assert sheet.shape == (2 * (40 + 26) + 6, 2 * 46 + 6, 3)
    tops, lefts = (26, 26 + 66), (6, 52)
    for index, (top, left) in enumerate((top, left) for top in tops for left in lefts):
        frame = sheet[top : top + 40, left : left + 40]
        assert (frame[20, 20] == 60 * index).all()
        assert is_contour(frame).any()
        assert (sheet[top - 20 : top, left : left + 40] > 150).any()  # a number is written
    captioned = contact_sheet(frames, lambda index: disks(40, 20, 5), 400, captions=["t 1", "t 2", "t 3", "t 4"])
    assert captioned.shape == sheet.shape
    assert (captioned != sheet).any()


def test_channels_are_stretched_each_by_itself_and_time_points_together() -> None:
    """A dim channel is as bright in the sheet as the other; the second half of a bleaching series is darker."""
    ramp = np.linspace(0, 1, 40 * 40).reshape(40, 40)
    levels = np.array([[40_000, 400], [20_000, 200]])  # time, channel
    image = Image((levels[..., None, None] * ramp).astype(np.uint16), "TCYX")
    series = select(image, ImageSettings(time="all", channel="all"))
    sheet = picture_of(series, np.zeros((2, 2, 40, 40), np.int32), 400, limits=((0.0, 40_000.0),))
    (first, dim), (bleached, _) = ([sheet[top : top + 40, left : left + 40] for left in (6, 52)] for top in (26, 92))
    assert np.abs(first.astype(int) - dim).max() <= 3
    assert first.max() == 255
    assert abs(int(bleached.max()) - 128) <= 3
