from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from abbe.contract import Method
from abbe.data.sample import Sample
from abbe.methods.backbones.unet_falk import (
    NORMALIZATION,
    VARIANTS,
    FalkConfig,
    FalkDetection,
    FalkSegmentation,
    FalkUNet,
    build,
    centres,
    count_matches,
    draw_disks,
)

GENERATOR = np.random.default_rng(0)


def reference(state, x, config):
    """The network again, from plain functions and the weights alone."""
    axes = len(config.levels)
    convolve, transpose, pool = {
        2: (F.conv2d, F.conv_transpose2d, F.max_pool2d),
        3: (F.conv3d, F.conv_transpose3d, F.max_pool3d),
    }[axes]
    depth = max(config.levels)
    extents = [tuple(1 if level < depth - n else 2 for n in config.levels) for level in range(depth)]

    def double(x, prefix):
        for layer in (0, 2):
            x = convolve(x, state[f"{prefix}.{layer}.weight"], state[f"{prefix}.{layer}.bias"])
            x = torch.where(x > 0, x, 0.1 * x)
        return x

    x, skips = x - 0.5, []
    for level in range(depth):
        x = double(x, f"contracting.{level}")
        skips.append(x)
        x = pool(x, extents[level])
    x = double(x, f"contracting.{depth}")
    for step, (skip, extent) in enumerate(zip(reversed(skips), reversed(extents))):
        prefix = f"up_convolutions.{step}.0"
        x = transpose(x, state[f"{prefix}.weight"], state[f"{prefix}.bias"], extent)
        x = torch.where(x > 0, x, 0.1 * x)
        for axis in range(2, 2 + axes):
            skip = skip.narrow(axis, (skip.shape[axis] - x.shape[axis]) // 2, x.shape[axis])
        x = double(torch.cat([x, skip], 1), f"expanding.{step}")
    return convolve(x, state["head.weight"], state["head.bias"])


# ------------------------------------------------------------------------------------------------ the network


def test_sizes_of_the_2d_network():
    """540² to 356², the tiles of the authors' 2-D cell network: 184 pixels are lost, as in 2015."""
    with torch.device("meta"):
        network = build(VARIANTS["unet_falk_2d"])
        assert network(torch.empty(1, 1, 540, 540)).shape == (1, 2, 356, 356)


def test_the_3d_network_works_in_the_plane_at_first():
    config = VARIANTS["unet_falk_3d"]
    assert config.kernels == [(1, 3, 3)] + [(3, 3, 3)] * 4
    assert config.pools == [(1, 2, 2)] + [(2, 2, 2)] * 3
    with torch.device("meta"):
        network = build(config)
        geometry = network.geometry
        assert geometry.multiple == (8, 16, 16)
        # Z goes through the lower four levels only, what a network of depth 3 loses: 88.
        assert geometry.halo == (44, 92, 92)
        shape = network(torch.empty(1, 1, 92, 188, 204)).shape
    assert shape == (1, 2, 4, 4, 20)


@settings(deadline=None, max_examples=25)
@given(levels=st.tuples(*[st.integers(0, 3)] * 3).filter(any), extra=st.integers(0, 9))
def test_the_geometry_of_any_anisotropy_tells_which_extents_fit(levels, extra):
    with torch.device("meta"):
        network = FalkUNet(FalkConfig(width=1, levels=levels))
        geometry = network.geometry
        for axis in range(3):
            shape = [2 * h + 1 + (r - 2 * h - 1) % m for h, m, r in
                     zip(geometry.halo, geometry.multiple, geometry.remainder)]  # fmt: skip
            smallest = shape[axis]
            shape[axis] += extra
            x = torch.empty(1, 1, *shape)
            if extra % geometry.multiple[axis]:
                with pytest.raises(ValueError, match="nearest"):
                    network(x)
            else:
                assert network(x).shape[2 + axis] == smallest + extra - 2 * geometry.halo[axis] > 0


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (FalkConfig(in_channels=2, width=3, levels=(3, 3)), (92, 108)),
        (VARIANTS["unet_falk_2d_tiny"], (60, 44)),
        (VARIANTS["unet_falk_2d"], (188, 188)),
        (VARIANTS["unet_falk_3d_tiny"], (24, 52, 44)),
        (FalkConfig(width=2, levels=(2, 2, 2), out_channels=3), (44, 44, 44)),
        (replace(VARIANTS["unet_falk_3d"], levels=(1, 2, 2)), (20, 44, 44)),
        (replace(VARIANTS["unet_falk_3d"], width=4), (92, 188, 188)),
        pytest.param(VARIANTS["unet_falk_3d"], (92, 188, 188), marks=pytest.mark.slow),
    ],
)
def test_forward_and_gradient_equal_plain_functions(config, shape, randomised, assert_same):
    network = randomised(build(config))
    state = network.state_dict()
    torch.manual_seed(0)
    x = torch.rand(2 if config.width < 4 else 1, config.in_channels, *shape)
    assert_same(network, lambda x: reference(state, x, config), x)


@pytest.mark.parametrize("name", ["unet_falk_2d_tiny", "unet_falk_3d_tiny"])
def test_layout_and_compiler_change_nothing(name, randomised):
    network = randomised(build(VARIANTS[name]))
    axes = len(network.config.levels)
    torch.manual_seed(0)
    x = torch.rand(2, 1, *[20, 44, 52][-axes:])
    expected = network(x)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)
    network = network.to(memory_format=torch.channels_last if axes == 2 else torch.channels_last_3d)
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["unet_falk_2d_tiny", "unet_falk_3d_tiny"])
def test_every_parameter_gets_a_gradient(name):
    torch.manual_seed(0)
    network = build(VARIANTS[name])
    network(torch.rand(1, 1, *[44, 44, 44][: len(network.config.levels)])).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_a_tile_of_a_stack_equals_the_whole():
    torch.manual_seed(0)
    network = build(VARIANTS["unet_falk_3d_tiny"]).double().eval()
    (depth, *_), (z, y, x) = network.geometry.halo, network.geometry.multiple
    stack = torch.rand(1, 1, 24, 52, 60, dtype=torch.float64)
    with torch.no_grad():
        whole = network(stack)
        tile = network(stack[:, :, z : z + 2 * depth + 4, y : y + 44, 2 * x : 2 * x + 44])
    expected = whole[:, :, z : z + tile.shape[2], y : y + 4, 2 * x : 2 * x + 4]
    torch.testing.assert_close(tile, expected, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------- the objective


def method(kind, name="unet_falk_2d_tiny"):
    torch.manual_seed(0)
    return kind(build(VARIANTS[name]))


@pytest.mark.parametrize("kind", [FalkSegmentation, FalkDetection])
def test_is_a_method(kind):
    assert isinstance(method(kind), Method)


def test_weights_of_touching_cells():
    """1 in the cells, about v_bal + (1 − v_bal) + λ = 51 on the ridge, v_bal far away, 0 where ignored."""
    labels = np.zeros((60, 92), np.int32)
    labels[10:30, 10:20], labels[10:30, 20:30] = 1, 2
    ignore = np.zeros(labels.shape, bool)
    ignore[40:50, 5:30] = True
    sample = Sample(np.zeros((1, *labels.shape), np.float32), labels, ignore)
    tensors = method(FalkSegmentation).prepare(sample, GENERATOR)
    target, weight = tensors["target"].numpy(), tensors["weight"].numpy()
    ridge = (target == 0) & (labels > 0)
    assert ridge[10:30, 18:22].any(axis=1).all()
    assert not ridge[:, :18].any()
    assert ndimage.label(target)[1] == 2
    assert (weight[ridge] > 45).all()
    assert (weight[target == 1] == 1).all()
    assert (weight[ignore] == 0).all()
    assert weight[55, 90] == pytest.approx(0.1, abs=1e-3)


def test_stacks_are_prepared_and_learnt_from():
    labels = np.zeros((10, 40, 40), np.int32)
    labels[3:6, 10:20, 10:20] = 1
    learner = method(FalkSegmentation, "unet_falk_3d_tiny")
    sample = Sample(np.random.default_rng(0).random((1, *labels.shape), dtype=np.float32), labels)
    tensors = learner.prepare(sample, GENERATOR)
    assert tensors["image"].shape == (1, 18, 44, 44)
    batch = {name: tensor[None] for name, tensor in tensors.items()}
    losses = learner.training_step(batch, generator=torch.Generator())
    losses["loss"].backward()
    assert losses["loss"] > 0


@settings(deadline=None, max_examples=30)
@given(
    points=arrays(np.float64, st.tuples(st.integers(0, 4), st.just(2)), elements=st.floats(-3, 14)),
    radius=st.integers(0, 3),
)
def test_disks_and_rings_by_brute_force(points, radius):
    labels, ring = draw_disks(points, (12, 10), radius)
    for y, x in np.ndindex(12, 10):
        distances = [np.hypot(y - py, x - px) for py, px in np.rint(points)]
        on = [number for number, distance in enumerate(distances, 1) if distance <= radius]
        assert labels[y, x] == (on[-1] if on else 0)
        assert ring[y, x] == (not on and any(distance <= 2 * radius for distance in distances))


def test_a_ball_in_three_dimensions():
    labels, ring = draw_disks(np.array([[5, 5, 5]]), (11, 11, 11), 2)
    assert labels.sum() == 33  # integer points in a ball of radius 2
    assert ring.sum() == 257 - 33  # and of radius 4


def test_detection_is_trained_on_disks_at_the_centres():
    labels = np.zeros((60, 60), np.int32)
    labels[10:21, 10:21], labels[30:51, 30:41] = 4, 9
    sample = Sample(np.zeros((1, 60, 60), np.float32), labels)
    tensors = method(FalkDetection).prepare(sample, GENERATOR)
    target, weight = tensors["target"].numpy(), tensors["weight"].numpy()
    assert target.sum() == 2 * 13  # integer points in a disk of radius 2
    assert target[15, 15] == target[40, 35] == 1
    assert (weight[target == 1] == 1).all()
    assert weight[15, 18] == 0  # in the ring
    assert weight[15, 20] > 0


def test_detections_decode_to_their_points_and_count():
    points = np.array([[5.0, 6.0], [20.0, 30.0], [41.0, 11.0]])
    labels, _ = draw_disks(points, (48, 48), 2)
    cells = np.where(labels > 0, 0.9, 0.1).astype(np.float32)
    decoded = method(FalkDetection).decode({"probabilities": np.stack([1 - cells, cells])})
    np.testing.assert_allclose(decoded["points"], points, atol=1e-4)
    np.testing.assert_allclose(decoded["confidence"], 0.9, rtol=1e-5)
    assert decoded["count"] == 3


def test_centres_lean_to_the_probable_side():
    cells = np.zeros((1, 7), np.float32)
    cells[0, 2:5] = 0.6, 0.8, 1.0
    decoded = method(FalkDetection).decode({"probabilities": np.stack([1 - cells, cells])})
    assert decoded["points"][0, 1] == pytest.approx((0.6 * 2 + 0.8 * 3 + 1.0 * 4) / 2.4)
    assert decoded["confidence"][0] == pytest.approx(0.8)


def test_an_empty_field_has_no_points():
    cells = np.zeros((8, 8), np.float32)
    decoded = method(FalkDetection).decode({"probabilities": np.stack([1 - cells, cells])})
    assert decoded["points"].shape == (0, 2)
    assert decoded["confidence"].shape == (0,)
    assert decoded["count"] == 0
    truth = [{"points": np.zeros((0, 2))}]
    expected = {"precision": 1, "recall": 1, "f1": 1, "count_error": 0}
    assert method(FalkDetection).score([decoded], truth) == expected


def test_score_of_known_detections():
    truth = [
        {"points": np.array([[10.0, 10.0], [20.0, 20.0], [30.0, 30.0]])},
        {"labels": np.eye(4, dtype=int)},
    ]
    decoded = [
        {"points": np.array([[12.0, 10.0], [12.5, 10.0], [20.0, 23.0]])},  # one hit, one double, one 3 px off
        {"points": np.array([[1.5, 1.5], [50.0, 50.0]])},
    ]
    measured = method(FalkDetection).score(decoded, truth)
    assert measured["precision"] == pytest.approx(2 / 5)
    assert measured["recall"] == pytest.approx(2 / 4)
    assert measured["f1"] == pytest.approx(2 * 2 / 9)
    assert measured["count_error"] == pytest.approx(1 / 4)


@settings(deadline=None, max_examples=40)
@given(*[arrays(np.int64, st.tuples(st.integers(0, 6), st.just(2)), elements=st.integers(0, 6))] * 2)
def test_the_number_of_matches_equals_an_exhaustive_assignment(true, predicted):
    close = np.linalg.norm(true[:, None] - predicted[None], axis=-1) < 3
    rows, columns = linear_sum_assignment(~close)
    assert count_matches(true, predicted, 3.0) == close[rows, columns].sum()


@given(arrays(np.int32, (6, 7), elements=st.integers(0, 4)))
@settings(deadline=None, max_examples=30)
def test_centres_equal_scipy(labels):
    numbers = np.unique(labels[labels > 0])
    expected = np.array(ndimage.center_of_mass(np.ones(labels.shape), labels, numbers)).reshape(-1, 2)
    np.testing.assert_allclose(centres(labels), expected, rtol=1e-5)


# --------------------------------------------------------------------------------------- grey values and size


@settings(deadline=None, max_examples=20)
@given(arrays(np.float32, (2, 3, 4), elements=st.floats(-1e4, 1e4, width=32)))
def test_min_max_maps_to_the_unit_interval(image):
    normalized = NORMALIZATION.normalize(image)
    assert normalized.dtype == np.float32
    if np.ptp(image) > 1e-3:
        assert normalized.min() == pytest.approx(0, abs=1e-5)
        assert normalized.max() == pytest.approx(1, abs=1e-5)
