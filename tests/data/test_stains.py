"""Colours taken apart into dyes, against scikit-image and by what the dyes were made of."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import hdx_from_rgb, separate_stains

from abbe.data.read import read
from abbe.data.select import select
from abbe.data.stains import DAB, EOSIN, HAEMATOXYLIN, is_brown_and_blue, take_apart
from abbe.settings import ImageSettings


def stained(amounts: np.ndarray, dyes: list[np.ndarray], white: int = 255) -> np.ndarray:
    """(Y, X, 3) picture of a section with amounts (K, Y, X) of dyes, on a light ground."""
    colours = np.stack([dye / np.linalg.norm(dye) for dye in dyes])
    density = np.tensordot(amounts, colours, ((0,), (0,)))
    return np.clip(np.rint((white + 1) * 10**-density - 1), 0, 255).astype(np.uint8)


def patches(generator: np.random.Generator) -> np.ndarray:
    amounts = generator.uniform(0, 0.8, (2, 24, 24))
    amounts[:, :4] = 0  # ground
    return amounts


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1).map(np.random.default_rng), st.integers(200, 255))
def test_amounts_of_the_dyes_come_back(generator, white) -> None:
    amounts = patches(generator)
    image = read(stained(amounts, [HAEMATOXYLIN, DAB], white)).planar()
    found = take_apart(image)
    assert (found.channels, found.rgb, found.extents) == (("haematoxylin", "DAB"), False, (24, 24))
    np.testing.assert_allclose(found.box(((0, 24), (0, 24))), amounts, atol=0.03)


def test_fractions_have_the_amounts_of_whole_numbers() -> None:
    picture = stained(patches(np.random.default_rng(0)), [HAEMATOXYLIN, DAB])
    fractions = read((picture / 255).astype(np.float32).transpose(2, 0, 1), axes="CYX").planar()
    box = ((0, 24), (0, 24))
    found, wanted = (take_apart(image).box(box) for image in (fractions, read(picture).planar()))
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_light_is_measured_once_a_frame(monkeypatch) -> None:
    calls = []
    monkeypatch.setattr("abbe.data.select.take_apart", lambda image: calls.append(1) or take_apart(image))
    series = select(skimage.data.immunohistochemistry(), ImageSettings()).separated("h-dab")
    for _ in range(5):
        series.seen(0), series.measured(0)
    assert len(calls) == 1


def test_equals_skimage_up_to_the_light() -> None:
    tissue = skimage.data.immunohistochemistry()[:64, :64]
    ours = take_apart(read(tissue).planar()).box(((0, 64), (0, 64)))
    theirs = np.moveaxis(separate_stains(tissue, hdx_from_rgb), -1, 0)[:2]
    for mine, other in zip(ours, theirs):
        assert np.corrcoef(mine.ravel(), other.ravel())[0, 1] > 0.98


def test_parts_equal_the_whole() -> None:
    image = take_apart(read(skimage.data.immunohistochemistry()).planar())
    everything = image.box(((0, 512), (0, 512)))
    np.testing.assert_array_equal(image.box(((100, 230), (31, 97))), everything[:, 100:230, 31:97])


def test_brown_and_blue_is_told_from_other_pictures() -> None:
    generator = np.random.default_rng(0)
    brown = read(stained(patches(generator), [HAEMATOXYLIN, DAB])).planar()
    pink = read(stained(patches(generator), [HAEMATOXYLIN, EOSIN])).planar()
    dark = read(stained(patches(generator), [HAEMATOXYLIN, DAB]) // 3).planar()
    assert is_brown_and_blue(brown)
    assert is_brown_and_blue(read(skimage.data.immunohistochemistry()).planar())
    assert not is_brown_and_blue(pink)
    assert not is_brown_and_blue(dark)
    assert not is_brown_and_blue(read(np.full((8, 8, 3), 255, np.uint8)).planar())


@pytest.mark.parametrize(("stains", "seen"), [("auto", "h-dab"), ("off", "off"), ("h-dab", "h-dab")])
def test_series_shows_the_network_one_dye(stains, seen) -> None:
    series = select(skimage.data.immunohistochemistry(), ImageSettings()).separated(stains)
    assert series.stains == seen
    assert series[0].n_channels == 3
    assert series.seen(0).n_channels == (1 if seen == "h-dab" else 3)
    assert series.measured(0).n_channels == (2 if seen == "h-dab" else 3)


def test_grey_images_have_no_dyes() -> None:
    grey = select(np.arange(1024, dtype=np.uint16).reshape(32, 32), ImageSettings())
    assert grey.separated("h-dab").stains == "off"
    assert grey.separated("auto").stains == "off"
