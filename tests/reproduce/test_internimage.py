"""Where points fall and how far gradients reach, on cases that can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from abbe.methods.backbones.dcnv3 import Window
from abbe.reproduce.claims import ClaimSettings
from abbe.reproduce.internimage import Budget, PixelNetwork, run
from abbe.reproduce.receptive_fields import area_of, choose_probes, receptive_fields, spread
from abbe.reproduce.sampling_points import (
    NEAR,
    distances,
    near_outline,
    on_the_same,
    rearranged,
    regular_grid,
    sampling_points,
)
from abbe.reproduce.scenes import STRIDE, Scenes, simulate, tiles

TINY = Budget(crop=32, fields=1, steps=2, batch=2, width=8, blocks=2, probes=4)
WINDOW = Window(groups=2)


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return simulate([0], 128, seed=0)


def zeros(labels: torch.Tensor) -> torch.Tensor:
    """Offsets of points that stay."""
    return torch.zeros(*labels.shape, WINDOW.groups * WINDOW.points * 2)


# ------------------------------------------------------------------------------------------------ receptive fields


@pytest.mark.parametrize(("layers", "side"), [(1, 3), (2, 5), (4, 9)])
def test_a_stack_of_3x3_convolutions_sees_one_pixel_more_a_layer(layers: int, side: int):
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(layers)))
    image = torch.randn(1, 1, 21, 21, requires_grad=True)
    energy = spread(network(image)[0, 0, 10, 10], image)
    assert energy.sum() == pytest.approx(1, abs=1e-5)
    rows, columns = np.nonzero(energy)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10 - side // 2, 10 + side // 2) * 2
    assert area_of(energy, 1.0) == side**2


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=30), st.floats(0.05, 0.95))
@settings(max_examples=40, deadline=None)
def test_an_area_is_the_smallest_set_that_holds_the_share(values: list[float], share: float):
    energy = np.array(values)
    area = area_of(energy, share)
    largest = np.sort(energy)[::-1]
    assert largest[:area].sum() >= share * energy.sum() * (1 - 1e-5)
    assert area == 1 or largest[: area - 1].sum() < share * energy.sum()


def test_even_energy_fills_its_share():
    assert area_of(np.ones((10, 10)), 0.5) == 50


def test_the_plain_twin_sees_what_its_layers_allow(scenes: Scenes):
    """Four 3 x 3 convolutions on each second pixel, and the stem's 3 x 3 on all: 1 + 2 + 4 * 2 * 2 pixels a side."""
    torch.manual_seed(0)
    network = PixelNetwork(Budget(width=8), deformable=False).eval()
    fields = receptive_fields(network, scenes, choose_probes(scenes, 5, seed=0))
    side = 1 + 2 * (1 + 4 * STRIDE)
    assert fields.areas.max() <= side**2
    rows, columns = np.nonzero(fields.mean)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == side
    assert (fields.areas[:, 0] < fields.areas[:, 1]).all()


def test_probes_are_pixels_of_nuclei_far_from_the_border(scenes: Scenes):
    rows, columns = scenes.labels.shape[1:]
    for picture, y, x in choose_probes(scenes, 50, seed=0):
        assert scenes.labels[picture, y, x] > 0
        assert rows // 4 <= y < rows - rows // 4
        assert columns // 4 <= x < columns - columns // 4


# -------------------------------------------------------------------------------------------------------- points


def test_points_that_stay_are_the_grid_around_the_pixel():
    labels = torch.zeros(1, 5, 5, dtype=torch.long)
    grid = regular_grid(WINDOW)
    expected = {(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)}
    assert all({tuple(point) for point in one.int().tolist()} == expected for one in grid)
    assert distances(zeros(labels), WINDOW)[0, 2, 2] == pytest.approx((4 + 4 * 2**0.5) / 9)


def test_shares_of_points_by_hand():
    """Columns 0 to 3 are one nucleus: the pixel (2, 3) at its border has six of its nine points on it."""
    labels = torch.zeros(1, 6, 8, dtype=torch.long)
    labels[:, :, :4] = 1
    one = torch.zeros_like(labels, dtype=torch.bool)
    one[0, 2, 3] = True
    assert on_the_same(zeros(labels), labels, one, WINDOW)[0] == pytest.approx(6 / 9)
    weights = torch.zeros(1, 6, 8, WINDOW.groups, WINDOW.points)
    weights[..., WINDOW.points // 2] = 1  # all on the middle
    assert on_the_same(zeros(labels), labels, one, WINDOW, weights)[0] == 1
    one[0, 2, 3], one[0, 0, 0] = False, True  # what lies outside of the picture is not on the nucleus
    assert on_the_same(zeros(labels), labels, one, WINDOW)[0] == pytest.approx(4 / 9)
    inwards = zeros(labels)
    inwards[..., 0::2] = -2.0  # x
    one[0, 0, 0], one[0, 2, 3] = False, True
    assert on_the_same(inwards, labels, one, WINDOW)[0] == pytest.approx(1)


def test_offsets_are_exchanged_among_the_chosen_pixels_only_and_the_grid_reaches_as_far(scenes: Scenes):
    generator = torch.Generator().manual_seed(0)
    labels = scenes.labels[:2]
    offset = torch.randn(zeros(labels).shape, generator=generator)
    inside = labels > 0
    patterns = rearranged(offset, inside, WINDOW, generator)
    exchanged = patterns["of another pixel"]
    assert torch.equal(exchanged[~inside], offset[~inside])
    assert torch.equal(exchanged[inside].sum(1).sort().values, offset[inside].sum(1).sort().values)
    assert not torch.equal(exchanged[inside], offset[inside])
    wanted = distances(offset, WINDOW)[inside].mean()
    torch.testing.assert_close(distances(patterns["regular grid"], WINDOW)[inside].mean(), wanted)


def test_pixels_near_an_outline_are_those_from_which_it_is_seen():
    labels = torch.zeros(1, 20, 20, dtype=torch.long)
    labels[:, :, 10:] = 4
    assert near_outline(labels)[0].any(0).nonzero().flatten().tolist() == list(range(10 - NEAR, 10 + NEAR))


def test_a_fresh_network_follows_nothing(scenes: Scenes):
    """Offsets begin at zero, and so all patterns are the regular grid."""
    torch.manual_seed(0)
    network = PixelNetwork(Budget(width=8, blocks=2), deformable=True).eval()
    points = sampling_points(network, [block.spatial.layer for block in network.blocks], scenes, seed=0)
    assert points.shares.more.to_numpy() == pytest.approx(0, abs=1e-6)
    assert points.reach == pytest.approx(STRIDE * (4 + 4 * 2**0.5) / 9)
    assert scenes.labels[points.picture][points.centres[0]] > 0
    assert scenes.labels[points.picture][points.centres[1]] == 0


# ------------------------------------------------------------------------------------------------------- the whole


def test_tiles_are_the_field():
    field = np.arange(6 * 10).reshape(6, 10)
    cut = tiles(field, 3)
    assert cut.shape == (6, 3, 3)
    assert np.array_equal(np.block([[cut[0], cut[1]], [cut[3], cut[4]]]), field[:, :6])


def test_scenes_are_nuclei_of_two_kinds(scenes: Scenes):
    assert set(scenes.kinds.unique().tolist()) == {0, 1, 2}
    assert torch.equal(scenes.kinds > 0, scenes.labels > 0)
    kinds_of = {int(label): scenes.kinds[scenes.labels == label].unique() for label in scenes.labels.unique()[1:20]}
    assert all(len(kinds) == 1 for kinds in kinds_of.values())
    coarse = scenes.images[:, 0, ::STRIDE, ::STRIDE]
    means = [float(coarse[scenes.kinds == kind].mean()) for kind in (0, 1, 2)]
    assert means == sorted(means)


def test_a_tiny_run_gives_table_and_figure_and_repeats_itself():
    tables = []
    for _ in range(2):
        found = run(ClaimSettings(seed=2), lambda line: None, TINY)
        tables.append(found.table)
    assert not found.holds  # two steps teach nothing
    assert tables[0].equals(tables[1])
    assert len(found.figure.axes) == 4
