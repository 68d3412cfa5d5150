"""Eight ways to turn an image, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from abbe.methods.restoration.noise2void import VARIANTS, Noise2Void, build
from abbe.tiling.prepare import Predictor
from abbe.tiling.turned import Turned, turn, turn_back, ways


@pytest.mark.parametrize("shape", [(1, 1, 6, 9), (2, 1, 3, 6, 9)])
def test_every_way_is_another_and_leads_back(shape) -> None:
    image = np.random.default_rng(0).random(shape)
    seen = {turn(image, way).tobytes() for way in ways()}
    assert len(seen) == 8
    for way in ways():
        np.testing.assert_array_equal(turn_back(turn(image, way), way), image)


class Leaning(nn.Module):
    """Adds the pixel to the left: its answer depends on how the image lies."""

    multiple = 1
    in_channels = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.roll(x, 1, -1)


def test_the_mean_turns_with_the_image() -> None:
    image = np.random.default_rng(0).random((1, 1, 24, 24)).astype(np.float32)
    turned = Turned(Predictor(Noise2Void(Leaning()), precision="exact", backend="torch"))
    found = turned(image)["restored"]
    for way in ways():
        np.testing.assert_allclose(turned(turn(image, way))["restored"], turn(found, way), atol=1e-6)


def test_an_even_answer_stays_as_it_is() -> None:
    torch.manual_seed(0)
    method = Noise2Void(build(VARIANTS["noise2void_tiny"])).eval()
    image = np.full((1, 1, 16, 16), 0.5, np.float32)
    plain = Predictor(method, precision="exact", backend="torch")
    assert Turned(plain)(image)["restored"].shape == plain(image)["restored"].shape
    assert Turned(plain).device == plain.device
