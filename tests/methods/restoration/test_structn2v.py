"""All that shares the noise of a pixel is hidden with it, and line noise goes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.contract import Method
from abbe.data.sample import Sample
from abbe.errors import AbbeError
from abbe.methods.restoration.noise2void import box_sides, stratified_places
from abbe.methods.restoration.structn2v import VARIANTS, StructN2V, StructN2VOptions, blind_element, build

shapes = st.sampled_from([(1, 40, 33), (2, 7, 30), (1, 1, 21), (1, 6, 12, 13)])
shares = st.sampled_from([0.00198, 0.015, 0.05])

fills = st.sampled_from(["uniform", "window"])
elements = st.sampled_from(
    [
        StructN2VOptions(reach=3),
        StructN2VOptions(direction="vertical", reach=2),
        StructN2VOptions(element=((1, 0, 1), (0, 1, 0), (0, 0, 1))),
    ]
)


@settings(deadline=None, max_examples=40)
@given(shape=shapes, share=shares, options=elements, fill=fills, seed=st.integers(0, 99))
def test_the_element_around_each_place_is_hidden_and_nothing_else(shape, share, options, fill, seed):
    element = options.hidden_pixels()
    image = 10 + np.random.default_rng(seed).random(shape)
    found = blind_element(image, element, share, 2, np.random.default_rng(seed), fill)
    places = stratified_places(shape, box_sides(shape, share), np.random.default_rng(seed))
    mask, hidden = np.zeros(shape, bool), np.zeros(shape, bool)
    middle = np.array(element.shape) // 2
    for place in places.T:
        mask[tuple(place)] = True
        for spot in np.argwhere(element) - middle:
            other = place.copy()
            other[-2:] += spot
            if (other >= 0).all() and (other < shape).all():
                hidden[tuple(other)] = True
    np.testing.assert_array_equal(found.mask, mask)
    np.testing.assert_array_equal(found.image[~hidden], image[~hidden])
    assert (found.image[hidden] != image[hidden]).all()
    changed = blind_element(np.where(hidden, -99, image), element, share, 2, np.random.default_rng(seed), fill)
    np.testing.assert_array_equal(changed.image, found.image)  # whatever was hidden left no trace


def test_values_are_uniform_within_two_deviations():
    image, element = np.full((1, 64, 64), 9.0), StructN2VOptions().hidden_pixels()
    generator, values = np.random.default_rng(0), []
    for _ in range(200):
        seen = blind_element(image, element, 0.015, 2, generator).image
        values.append(seen[seen != 9])
    drawn = np.concatenate(values)
    assert drawn.min() >= -2
    assert drawn.max() <= 2
    np.testing.assert_allclose(np.histogram(drawn, 8, (-2, 2))[0] / len(drawn), 1 / 8, rtol=0.03)


def test_values_of_the_window_are_those_of_pixels_that_are_seen():
    image = np.arange(64 * 64, dtype=float).reshape(1, 64, 64)
    element = StructN2VOptions(reach=4).hidden_pixels()
    seen, mask = blind_element(image, element, 0.00198, 2, np.random.default_rng(0), "window")
    hidden = seen != image
    sources = np.array(np.unravel_index(seen[hidden].astype(int), image.shape))
    places = np.array(hidden.nonzero())
    assert np.abs(sources - places).max() == 2
    assert not hidden[tuple(sources)].any()
    assert hidden[mask].all()


def test_elements():
    assert StructN2VOptions(reach=2).hidden_pixels().tolist() == [[True] * 5]
    assert StructN2VOptions(direction="vertical", reach=1).hidden_pixels().tolist() == [[True]] * 3
    assert StructN2VOptions(element=[[1, 0, 1]]).hidden_pixels().tolist() == [[True, True, True]]


@pytest.mark.parametrize("element", [((1, 1), (1, 1)), ((1, 1, 1), (1,)), (1, 1, 1), ((), ())])
def test_elements_that_are_no_odd_grid_are_refused(element):
    with pytest.raises(AbbeError, match="element"):
        StructN2VOptions(element=element)


@pytest.mark.parametrize("name", ["reach", "radius", "share"])
def test_options_of_nothing_are_refused(name):
    with pytest.raises(AbbeError, match=f"options.{name}"):
        StructN2VOptions(**{name: 0})


def test_stacks_take_elements_of_planes_and_of_stacks():
    image = np.full((1, 9, 16, 16), 9, np.float32)
    for element, extent in (((1,) * 5,), 5), ([[[1]], [[1]], [[1]]], 3):
        method = StructN2V(build(VARIANTS["structn2v_tiny"]), StructN2VOptions(element=element, share=1 / 4096))
        tensors = method.prepare(Sample(image), np.random.default_rng(3))
        hidden = (tensors["image"] != 9).sum()
        assert 0 < hidden <= extent * tensors["mask"].sum()


def test_a_short_training_takes_stripes_away(gain_of_training):
    """Noise2Void keeps them, see its tests with the same image."""
    torch.manual_seed(0)
    method = StructN2V(build(VARIANTS["structn2v_tiny"]), StructN2VOptions(reach=8, share=0.01, fill="window"))
    assert isinstance(method, Method)
    assert gain_of_training(method, "stripes", steps=120) > 3
