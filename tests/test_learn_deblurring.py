"""A microscope in words, and the recipe that learns to undo its blur at the noise of an image."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe import learn_deblurring
from abbe.data.normalize import Normalization, Statistics
from abbe.errors import AbbeError
from abbe.learn import describe
from abbe.learn_deblurring import (
    PointSpreadOptions,
    deblurring_recipe,
    exposure,
    parse_point_spread,
)
from abbe.ops.noise import Noise, estimate_noise
from abbe.train.recipe import dump_recipe, load_recipe, parse_recipe

OIL = PointSpreadOptions(1.4, 520.0)


def test_a_microscope_in_words() -> None:
    assert parse_point_spread("na=1.4,emission=520") == OIL
    told = parse_point_spread(" NA = 0.8 , emission=600, index=1.0, microscope=Confocal, pixel=0.2,")
    assert told == PointSpreadOptions(0.8, 600.0, 1.0, "confocal", 0.2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "na and emission missing"),
        ("na=1.4", "emission missing"),
        ("na=1.4,emission=520,pinhole=1", "pinhole=1"),
        ("na=1.4,emision=520", "did you mean 'emission'"),
        ("na=1.4,520", "na=1.4,emission=520"),
        ("na=1.4,na=1.3,emission=520", "twice"),
        ("na=wide,emission=520", "'wide'"),
        ("na=0,emission=520", "above 0"),
        ("na=nan,emission=520", "above 0"),
        ("na=-1,emission=520", "above 0"),
        ("na=1.4,emission=520,index=1.33", "not below the refractive index 1.33"),
        ("na=1.4,emission=0.52", "in nm that may be 520"),
        ("na=1.4,emission=9", "expected nm from 200 to 2000"),
        ("na=1.4,emission=520,pixel=65", "in µm that may be 0.065"),
        ("na=1.4,emission=520,pixel=0", "expected µm"),
        ("na=1.4,emission=520,microscope=electron", "widefield"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(AbbeError) as caught:
        parse_point_spread(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=40)
@given(st.text(max_size=30))
def test_any_text_is_read_or_refused_in_a_sentence(text: str) -> None:
    with contextlib.suppress(AbbeError):
        assert parse_point_spread(text)


def test_pixels_that_miss_what_is_resolved_are_warned_of() -> None:
    assert OIL.resolution == pytest.approx(0.1857, abs=1e-4)  # 520 nm / 2.8
    assert OIL.warning(0.0928) is None
    assert "Nyquist" in (OIL.warning(0.094) or "")
    assert "Nyquist" in (PointSpreadOptions(1.4, 520.0, microscope="confocal").warning(0.06) or "")
    assert "ten times finer" in (OIL.warning(0.005) or "")


def test_the_pixel_size_is_the_microscopes_or_the_images() -> None:
    assert PointSpreadOptions(1.4, 520.0, pixel_size=0.1).pixels(0.3) == 0.1
    assert OIL.pixels(0.3) == 0.3
    with pytest.raises(AbbeError, match="pixel size unknown"):
        OIL.pixels(None)
    with pytest.raises(AbbeError, match="expected µm"):
        OIL.pixels(100.0)


def noise(gain: float, intercept: float) -> Noise:
    return Noise(gain, intercept, (0.0,) * 8, (0.0,) * 8, 500.0)


def middle(ends: list[float]) -> float:
    return math.sqrt(ends[0] * ends[1])


@settings(deadline=None, max_examples=40)
@given(st.floats(0.05, 20), st.floats(0, 400), st.floats(10, 500), st.floats(200, 60000), st.floats(0, 1))
def test_exposure_is_the_noise_that_the_network_sees(gain, read, offset, scale, value) -> None:
    found = exposure(noise(gain, read), Statistics(np.array([offset]), np.array([scale])))
    seen = (gain * (offset + scale * value) + read) / scale**2
    photons, sigma = (middle(found[name]) if found[name][0] else 0.0 for name in ("photons", "sigma"))
    if scale / gain < learn_deblurring.MOST_PHOTONS and sigma:
        assert value / photons + (sigma / 255) ** 2 == pytest.approx(seen, rel=1e-3)
    assert all(0 <= low < high for low, high in found.values())


def test_exposure_without_light_or_noise_is_still_a_range() -> None:
    for one in (noise(0.0, 0.0), noise(0.0, 100.0), noise(1e-9, -5.0)):
        found = exposure(one, Statistics(np.array([100.0]), np.array([1000.0])))
        assert all(0 <= low < high < 1e9 for low, high in found.values())


def test_measured_noise_is_that_of_the_image() -> None:
    generator = np.random.default_rng(0)
    ramp = np.tile(np.linspace(50, 1000, 256), (256, 1))  # photons
    image = 100 + 2 * generator.poisson(ramp) + generator.normal(0, 10, ramp.shape)
    contrast = Normalization("percentile").measure(image[None])
    found = exposure(estimate_noise(image), contrast)
    assert middle(found["photons"]) == pytest.approx(contrast.scale[0] / 2, rel=0.1)


def test_a_recipe_for_a_microscope() -> None:
    contrast = Statistics(np.array([100.0]), np.array([1000.0]))
    recipe = deblurring_recipe(PointSpreadOptions(0.8, 600.0, 1.0, "confocal"), 0.2, 10, [(noise(2, 9), contrast)])
    assert recipe.train.minutes == 10
    options = describe(recipe).options
    assert (options["numerical_aperture"], options["emission"]) == (0.8, 600.0)
    assert (options["pixel_size"], options["microscope"]) == ((0.2, 0.2), "confocal")
    assert options["resolution"] is None
    assert options["haze"] == (0.0, 0.0)
    assert middle(recipe.options["photons"]) == pytest.approx(500)
    assert parse_recipe(dump_recipe(recipe)).options == recipe.options


def test_a_recipe_for_unknown_noise_keeps_the_bundled_range() -> None:
    recipe = deblurring_recipe(OIL, 0.1, 1)
    assert recipe.options["photons"] == load_recipe("deblur").options["photons"]
    assert recipe.train.minutes == 1
    for minutes in (0, -1, math.nan):
        with pytest.raises(AbbeError, match="minutes"):
            deblurring_recipe(OIL, 0.1, minutes)
    with pytest.raises(AbbeError, match="pixel size unknown"):
        deblurring_recipe(OIL, None, 1)
