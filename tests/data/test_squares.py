from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data.squares import around, inside, mirror_out, pad_square, scale_to, square


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 40),
    st.integers(1, 4),
    st.sampled_from(["crop", "pad", "stretch"]),
)
def test_any_picture_becomes_a_square_within_its_values(height: int, width: int, size: int, channels: int, fit) -> None:
    pixels = np.random.default_rng(height * 100 + width).random((channels, height, width), dtype=np.float32)
    found = square(pixels, size, fit)
    assert found.shape == (channels, size, size)
    assert pixels.min() - 1e-5 <= found.min() <= found.max() <= pixels.max() + 1e-5
    kept = scale_to(pixels, size, fit)
    assert min(kept.shape[1:]) >= size
    assert kept.shape[1:] == (size, size) or fit == "crop"


def test_a_square_of_the_right_size_stays_as_it_is() -> None:
    pixels = np.random.default_rng(0).random((2, 9, 9), dtype=np.float32)
    for fit in ("crop", "pad", "stretch"):
        assert np.array_equal(square(pixels, 9, fit), pixels)


def test_padding_mirrors_and_keeps_the_picture_in_the_middle() -> None:
    pixels = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    found = pad_square(pixels, 5)
    assert np.array_equal(found[0, 1:3, 1:4], pixels[0])
    assert np.array_equal(found[0, 1], np.pad(pixels[0, 0], 1, mode="reflect"))


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_squares_around_objects_equal_a_cut_of_the_mirrored_image(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 30))
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = ((top, data.draw(st.integers(top + 1, height))), (left, data.draw(st.integers(left + 1, width))))
    side = data.draw(st.none() | st.integers(1, 25))
    margin = data.draw(st.floats(0, 0.5))
    wanted = around(box, side, margin)
    assert len({stop - start for start, stop in wanted}) == 1
    assert side is None or wanted[0][1] - wanted[0][0] == side
    assert all(abs((a + b) - (c + d)) <= 1 for (a, b), (c, d) in zip(wanted, box))  # the same middle
    image = np.random.default_rng(0).random((2, height, width))
    part = inside(wanted, image.shape[1:])
    (y0, y1), (x0, x1) = part
    crop = mirror_out(image[:, y0:y1, x0:x1], part, wanted)
    for (start, stop), (low, high), extent in zip(wanted, part, image.shape[1:]):
        assert 0 <= low < high <= extent
        assert crop.shape[1] == stop - start
    seen = crop[:, y0 - wanted[0][0] : y1 - wanted[0][0], x0 - wanted[1][0] : x1 - wanted[1][0]]
    assert np.array_equal(seen, image[:, y0:y1, x0:x1])


def test_margins_grow_the_square() -> None:
    assert around(((10, 20), (0, 4)), margin=0.5) == ((5, 25), (-8, 12))
    assert around(((10, 20), (0, 4)), side=6, margin=0.5) == ((12, 18), (-1, 5))
