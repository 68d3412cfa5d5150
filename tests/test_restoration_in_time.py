"""Series restored by a network that sees all their times together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from abbe.data.image import Image
from abbe.data.read import read
from abbe.methods.restoration.restore import Restoration
from abbe.model import Model
from abbe.restoration import Restorer
from abbe.restoration_in_time import TimeRestorer, restorer_for
from abbe.restore_batch import planes
from abbe.settings import RestoreSettings
from abbe.weights.file import Description


class Later(nn.Module):
    """Adds to each image of a stack the one before it."""

    in_channels = 1
    multiple = (1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.cat([torch.zeros_like(x[:, :, :1]), x[:, :, :-1]], dim=2)


def model(axes: str) -> Model:
    description = Description("later", "noise2void_3d", normalization={"kind": "none"}, axes=axes)
    return Model(Restoration(Later()).eval(), description)


@pytest.mark.parametrize("axes", ["TYX", "TZYX", "ZTYX", "TCYX", "TZCYX", "QYX"])
def test_what_came_before_is_seen_whatever_the_other_axes(axes) -> None:
    pixels = np.random.default_rng(0).random([5, 2, 3][: len(axes) - 2] + [20, 24], np.float32)
    image = Image(pixels, axes, name="a.tif")
    found = restorer_for(model("CTYX")).restore(image, RestoreSettings(precision="exact"))
    time = axes.index("Q" if axes == "QYX" else "T")
    before = np.zeros_like(pixels)
    np.moveaxis(before, time, 0)[1:] = np.moveaxis(pixels, time, 0)[:-1]
    order = [axes.replace("Q", "T").index(axis) for axis in found.axes]
    np.testing.assert_allclose(found.pixels, (pixels + before).transpose(order), atol=1e-6)
    assert found.series.image.axes == axes.replace("Q", "T")


def test_the_report_compares_planes_of_one_place() -> None:
    pixels = np.random.default_rng(0).random((4, 3, 20, 24), np.float32)
    found = restorer_for(model("CTYX")).restore(read(pixels, axes="TZYX"), RestoreSettings(precision="exact"))
    before, after = planes(found)
    place = (4 // 2, 3 // 2)
    np.testing.assert_array_equal(before, pixels[place])
    np.testing.assert_allclose(after, pixels[place] + pixels[place[0] - 1, place[1]], atol=1e-6)


def test_other_models_see_planes_of_stacks() -> None:
    assert isinstance(restorer_for(model("CTYX")), TimeRestorer)
    assert type(restorer_for(model("CZYX"))) is Restorer
