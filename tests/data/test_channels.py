"""Channels are repeated or made grey, never guessed."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.color import rgb2gray

from abbe.data.channels import match_channels
from abbe.errors import AbbeError


def picture(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_what_fits_is_left_alone(channels: int) -> None:
    image = picture(channels, 4, 5)
    assert match_channels(image, channels) is image


@pytest.mark.parametrize("shape", [(1, 4, 5), (1, 3, 4, 5)])
def test_grey_is_repeated_for_colours(shape: tuple[int, ...]) -> None:
    found = match_channels(picture(*shape), 3)
    assert found.shape == (3, *shape[1:])
    assert all(np.array_equal(channel, picture(*shape)[0]) for channel in found)


def test_colours_become_luminance() -> None:
    image = picture(3, 4, 5)
    found = match_channels(image, 1)
    np.testing.assert_allclose(found[0], rgb2gray(image.transpose(1, 2, 0)), rtol=1e-5)
    assert found.dtype == np.float32


@pytest.mark.parametrize(
    ("channels", "wanted", "told"), [(300, 3, "1 or 3 channels"), (2, 1, "1 or 3 channels"), (1, 4, "4 channels")]
)
def test_all_else_has_to_be_chosen(channels: int, wanted: int, told: str) -> None:
    with pytest.raises(AbbeError, match=f"^a.tif: {channels} channels, but the model takes {told}; .*--channel"):
        match_channels(picture(channels, 2, 2), wanted, "a.tif")
