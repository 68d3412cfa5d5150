"""Objects from dense maps: the targets are what they say, exact maps give the objects back, a toy is learned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction
from torch import nn

from abbe.contract import Method
from abbe.data.sample import Sample
from abbe.data.synthetic import FluorescenceField, fluorescence_field
from abbe.errors import AbbeError
from abbe.methods.backbones.unet_3d import UNet3DConfig, build
from abbe.methods.backbones.unet_residual import UNetResidual
from abbe.methods.segmentation.instances import (
    InstancesConfig,
    InstanceSegmentation,
    dice_loss,
    keep_large,
    lay_out,
    relative_depth,
    smooth,
    split_regions,
)
from abbe.metrics.instances import match

decode = InstanceSegmentation(nn.Identity()).decode


def touching_discs(gap: int = 0) -> np.ndarray:
    y, x = np.mgrid[:48, :64]
    labels = np.zeros((48, 64), np.int32)
    labels[np.hypot(y - 23.5, x - 20) < 11.5] = 1
    labels[(np.hypot(y - 23.5, x - 42 - gap) < 11.5) & (labels == 0)] = 2
    return labels


def exact_maps(labels: np.ndarray) -> dict[str, np.ndarray]:
    depth = smooth(torch.from_numpy(relative_depth(labels))[None, None])[0].numpy()
    return {"foreground": np.where(labels > 0, 9.0, -9.0).astype(np.float32)[None], "depth": depth}


def brute_depth(labels: np.ndarray) -> np.ndarray:
    """For each pixel all distances to pixels of the image that are not of its object."""
    depth = np.zeros(labels.shape)
    places = np.argwhere(np.ones(labels.shape, bool))
    for number in np.unique(labels[labels > 0]):
        inside, outside = np.argwhere(labels == number), places[(labels != number).ravel()]
        if not len(outside):
            depth[labels == number] = 1
            continue
        distance = np.sqrt(((inside[:, None] - outside[None]) ** 2).sum(-1)).min(axis=1)
        depth[tuple(inside.T)] = distance / distance.max()
    return depth


# ------------------------------------------------------------------------------------------------------- targets


@given(st.integers(1, 18), st.integers(1, 18), st.integers(0, 5), st.integers(0, 999))
@settings(deadline=None, max_examples=40)
def test_depth_is_the_distance_to_the_border_by_brute_force(height: int, width: int, number: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.int32)
    for label in range(1, number + 1):
        y, x = rng.integers(0, height), rng.integers(0, width)
        labels[y : y + rng.integers(1, 9), x : x + rng.integers(1, 9)] = 3 * label  # with gaps in the numbers
    np.testing.assert_allclose(relative_depth(labels), brute_depth(labels), atol=1e-6)


def test_depth_is_one_in_the_middle_whatever_the_size() -> None:
    y, x = np.mgrid[:120, :160]
    labels = np.where(np.hypot(y - 60, x - 50) < 40, 1, 0) + np.where(np.hypot(y - 20, x - 140) < 6, 2, 0)
    depth = relative_depth(labels.astype(np.int32))
    assert depth[60, 50] == depth[20, 140] == 1
    assert depth[labels == 0].max() == 0


def test_the_edge_of_the_image_is_no_border() -> None:
    labels = np.zeros((20, 30), np.int32)
    labels[:, :10] = 1  # a stripe that goes on above, below and to the left
    np.testing.assert_allclose(relative_depth(labels)[:, :10], np.tile(np.arange(10, 0, -1) / 10, (20, 1)), rtol=1e-6)
    assert (relative_depth(np.ones((5, 6), np.int32)) == 1).all()


@given(st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)), st.integers(1, 3), st.integers(0, 999))
@settings(deadline=None, max_examples=30)
def test_depth_in_stacks_is_measured_in_micrometres(shape: tuple[int, int, int], number: int, seed: int) -> None:
    rng, voxel = np.random.default_rng(seed), (2.0, 0.5, 0.7)
    labels = np.zeros(shape, np.int32)
    for label in range(1, number + 1):
        z, y, x = (rng.integers(0, extent) for extent in shape)
        labels[z : z + rng.integers(1, 4), y : y + rng.integers(1, 6), x : x + rng.integers(1, 6)] = label
    places = np.argwhere(np.ones(shape)) * voxel
    expected = np.zeros(shape)
    for label in range(1, labels.max() + 1):
        inside, outside = places[labels.ravel() == label], places[labels.ravel() != label]
        if len(inside):
            nearest = np.sqrt(((inside[:, None] - outside[None]) ** 2).sum(-1)).min(1) if len(outside) else np.ones(1)
            expected[labels == label] = nearest / nearest.max()
    np.testing.assert_allclose(relative_depth(labels, voxel), expected, atol=1e-6)
    sample = Sample(np.zeros((1, *shape), np.float32), labels, pixel_size=voxel)
    made = InstanceSegmentation(nn.Identity()).prepare(sample, rng)
    np.testing.assert_allclose(made["maps"][1], expected, atol=1e-6)


def test_prepare_gives_foreground_depth_and_what_is_known() -> None:
    labels, ignore = touching_discs(), np.zeros((48, 64), bool)
    ignore[:10] = True
    image = np.zeros((1, 48, 64), np.float32)
    method = InstanceSegmentation(nn.Identity())
    made = method.prepare(Sample(image, labels, ignore), np.random.default_rng(0))
    foreground, depth, known = made["maps"].numpy()
    assert np.array_equal(foreground, labels > 0)
    np.testing.assert_allclose(depth, relative_depth(labels))
    assert np.array_equal(known, ~ignore)
    with pytest.raises(AbbeError, match="^a: has no labels"):
        method.prepare(Sample(image, name="a"), np.random.default_rng(0))


# ------------------------------------------------------------------------------------------------------- decoding


def test_touching_discs_come_apart() -> None:
    labels = touching_discs()
    assert ndimage.label(labels > 0)[1] == 1
    matches = match(labels, decode(exact_maps(labels))["labels"])
    assert matches.n_predicted == 2
    assert sorted(matches.iou)[-2] > 0.9


def test_touching_balls_come_apart() -> None:
    z, y, x = np.mgrid[:16, :40, :60]
    labels = np.zeros(z.shape, np.int32)
    for number, (cz, cy, cx) in enumerate([(7, 18, 15), (8, 20, 34), (9, 22, 50)], 1):
        labels[((z - cz) / 5) ** 2 + ((y - cy) / 10) ** 2 + ((x - cx) / 10) ** 2 < 1] = number
    assert ndimage.label(labels > 0)[1] == 1
    depth = smooth(torch.from_numpy(relative_depth(labels, (2.0, 1.0, 1.0)))[None, None])[0].numpy()
    found = InstanceSegmentation(nn.Identity()).decode(
        {"foreground": np.where(labels > 0, 9.0, -9.0)[None], "depth": depth}
    )
    assert found["labels"].max() == 3
    assert (found["labels"] != labels).mean() < 0.01


def test_exact_maps_of_a_crowded_field_give_its_objects_back() -> None:
    config = FluorescenceField(shape=(400, 400), density=10.0, clumping=0.7, gap=0.0, diameter=20.0, seed=3)
    labels = keep_large(fluorescence_field(config).labels, 60)
    matches = match(labels, decode(exact_maps(labels), min_area=16)["labels"])
    assert matches.n_truth > 60
    assert ndimage.label(labels > 0)[1] < matches.n_truth  # some touch
    assert (matches.iou > 0.9).sum() >= 0.98 * matches.n_truth
    assert abs(matches.n_predicted - matches.n_truth) <= 0.02 * matches.n_truth


def random_maps(shape: tuple[int, int], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    maps = [ndimage.gaussian_filter(rng.normal(size=shape), 2) for _ in range(2)]
    foreground, depth = (one / one.std() for one in maps)
    return {"foreground": foreground[None].astype(np.float32), "depth": (0.5 + 0.25 * depth)[None].astype(np.float32)}


@given(st.integers(0, 9999), st.integers(0, 40))
@settings(deadline=None, max_examples=25)
def test_every_region_is_decoded_by_itself(same_objects: Callable[..., bool], seed: int, min_area: int) -> None:
    """Any choice of regions decodes to what the whole has in them, also when they are moved."""
    maps = random_maps((50, 60), seed)
    whole = decode(maps, min_area=min_area)
    chosen = np.random.default_rng(seed).random(whole["regions"].max() + 1) < 0.5
    chosen[0] = False
    part = chosen[whole["regions"]]
    expected = np.where(part, whole["labels"], 0)
    assert same_objects(decode(maps, exclude=~part, min_area=min_area)["labels"], expected)
    moved = {name: np.pad(values, ((0, 0), (7, 3), (5, 11)), constant_values=-9) for name, values in maps.items()}
    found = decode(moved, exclude=~np.pad(part, ((7, 3), (5, 11))), min_area=min_area)
    assert same_objects(found["labels"][7:-3, 5:-11], expected)


def summits_by_reconstruction(depth: np.ndarray, prominence: float) -> np.ndarray:
    """Number what rises at least ``prominence`` above its surroundings, by scikit-image's reconstruction."""
    sides = ndimage.generate_binary_structure(2, 1)
    flat = reconstruction(depth - prominence, depth, footprint=sides)
    return ndimage.label(local_maxima(flat, connectivity=1))[0]


@given(st.integers(0, 9999), st.sampled_from([0.05, 0.15, 0.4]))
@settings(deadline=None, max_examples=40)
def test_every_prominent_summit_has_its_basin(seed: int, prominence: float) -> None:
    """As many objects as an independent computation finds prominent summits, and one of those in each."""
    depth = random_maps((40, 50), seed)["depth"][0].astype(np.float64)
    one_region = np.ones(depth.shape, np.int32)
    basins = split_regions(one_region, 1, depth.astype(np.float32), prominence)
    summits = summits_by_reconstruction(depth.astype(np.float32).astype(np.float64), prominence)
    pairs = np.unique(np.stack([summits, basins])[:, summits > 0], axis=1)
    assert pairs.shape[1] == summits.max() == basins.max()
    assert np.array_equal(np.unique(pairs[1]), np.arange(1, basins.max() + 1))


def test_objects_are_numbered_in_the_order_of_their_regions() -> None:
    maps = random_maps((60, 70), 5)
    found = decode(maps, min_area=0)
    of_region = {int(label): int(region) for label, region in zip(found["labels"].flat, found["regions"].flat)}
    in_order = [of_region[label] for label in sorted(of_region)]
    assert in_order == sorted(in_order)
    assert len(in_order) > len(set(in_order))  # some regions hold several


def test_a_hill_behind_a_shallow_saddle_is_no_object_of_its_own() -> None:
    row = [0.2, 0.9, 0.7, 0.8, 0.3, 0.6, 0.1]
    maps = {"foreground": np.ones((1, 3, 7)), "depth": np.array([[[0.0] * 7, row, [0.0] * 7]], np.float32)}

    def objects(prominence: float) -> int:
        method = InstanceSegmentation(nn.Identity(), InstancesConfig(prominence=prominence, min_area=1))
        return int(method.decode(maps)["labels"].max())

    assert [objects(prominence) for prominence in (0.05, 0.15, 0.25, 0.35)] == [3, 2, 2, 1]


@given(st.integers(0, 9999), st.integers(0, 60))
@settings(deadline=None, max_examples=25)
def test_objects_are_connected_numbered_and_large_enough(seed: int, min_area: int) -> None:
    maps = random_maps((60, 50), seed)
    found = decode(maps, min_area=min_area)
    labels, regions = found["labels"], found["regions"]
    assert labels.dtype == regions.dtype == np.int32
    areas = np.bincount(labels.ravel())[1:]
    assert (areas >= max(min_area, 1)).all()
    assert not (labels[maps["foreground"][0] <= 0] > 0).any()
    for number, box in enumerate(ndimage.find_objects(labels), 1):
        assert ndimage.label(labels[box] == number)[1] == 1
    if min_area <= 1:
        assert np.array_equal(labels > 0, maps["foreground"][0] > 0)


def test_excluded_pixels_are_background() -> None:
    labels = touching_discs(4)
    exclude = labels == 1
    found = decode(exact_maps(labels), exclude=exclude)["labels"]
    assert found.max() == 1
    assert np.array_equal(found > 0, labels == 2)


@pytest.mark.parametrize(("min_area", "kept"), [(None, 1), (0, 3), (4, 3), (5, 2), (36, 1), (37, 0)])
def test_small_objects_are_dropped(min_area: int | None, kept: int) -> None:
    labels = np.zeros((30, 30), np.int32)
    labels[2:4, 2:4], labels[10:13, 10:13], labels[20:26, 20:26] = 1, 2, 3
    assert decode(exact_maps(labels), min_area=min_area)["labels"].max() == kept


@pytest.mark.parametrize("side", [20, 270])
def test_many_objects_do_not_wrap(side: int) -> None:
    """400 and 72,900 objects: more than 8 and than 16 bits hold."""
    labels = np.zeros((3 * side, 3 * side), np.int32)
    labels[1::3, 1::3] = 1
    found = decode(
        {"foreground": np.where(labels, 9.0, -9.0)[None], "depth": labels[None].astype(np.float32)}, min_area=1
    )["labels"]
    assert found.max() == side**2
    assert np.array_equal(np.sort(found[found > 0]), np.arange(1, side**2 + 1))


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60)), min_size=1, max_size=20), st.integers(1, 3000))
@settings(deadline=None, max_examples=40)
def test_boxes_are_laid_out_apart_and_waste_little(shapes: list[tuple[int, int]], length: int) -> None:
    """Also beside a box as long as an image: the whole never grows with the square of its length."""
    for long in ((length, 5), (5, length)):
        boxes = [*shapes, long]
        places, (height, width) = lay_out(boxes)
        picture = np.zeros((height + 1, width + 1), int)
        for (y, x), place in zip(boxes, places, strict=True):
            assert picture[place].shape == (y, x)
            picture[place[0].start : place[0].stop + 1, place[1].start : place[1].stop + 1] += 1  # and a pixel apart
        assert picture.max() == 1
        area = sum((y + 1) * (x + 1) for y, x in boxes)
        assert height * width <= 3 * area + (max(y for y, _ in boxes) + 1) * (max(x for _, x in boxes) + 1)


def test_nothing_is_nothing() -> None:
    maps = {"foreground": -np.ones((1, 9, 9), np.float32), "depth": np.ones((1, 9, 9), np.float32)}
    assert decode(maps)["labels"].max() == 0
    assert decode({name: values[:, :1, :1] for name, values in maps.items()})["labels"].shape == (1, 1)


def test_the_threshold_of_the_foreground_is_a_probability() -> None:
    method = InstanceSegmentation(nn.Identity(), InstancesConfig(foreground=0.8, min_area=1))
    probability = np.array([[[0.75, 0.79, 0.81, 0.9]]])
    maps = {"foreground": np.log(probability / (1 - probability)), "depth": np.zeros((1, 1, 4))}
    assert method.decode(maps)["labels"].tolist() == [[0, 0, 1, 1]]


# -------------------------------------------------------------------------------------------------------- learning


def test_smoothing_keeps_constants_up_to_the_border() -> None:
    torch.testing.assert_close(smooth(torch.full((1, 1, 6, 7), 0.3)), torch.full((1, 1, 6, 7), 0.3))


@pytest.mark.parametrize("shape", [(9, 14), (5, 9, 14), (1, 1, 6)])
def test_smoothing_is_two_means_along_each_axis(shape: tuple[int, ...]) -> None:
    maps = np.random.default_rng(0).normal(size=shape)
    expected = maps
    for axis in (*range(len(shape)), *range(len(shape))):
        expected = ndimage.uniform_filter1d(expected, 3, axis, mode="nearest")
    np.testing.assert_allclose(smooth(torch.from_numpy(maps)[None, None])[0, 0].numpy(), expected, atol=1e-12)


def test_dice_loss_ends_at_zero_and_one() -> None:
    target = torch.zeros(1, 40, 40)
    target[:, 10:30, 10:30] = 1
    assert float(dice_loss(target, target)) == pytest.approx(0, abs=1e-6)
    assert float(dice_loss(1 - target, target)) > 0.999


def test_what_nobody_annotated_has_no_gradient() -> None:
    known = torch.ones(1, 16, 16)
    known[:, :, 8:] = 0
    raw = torch.randn(1, 2, 16, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)

    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return raw

    maps = torch.stack([(known * 0 + 1), known * 0.5, known], dim=1)
    batch = {"image": torch.zeros(1, 1, 16, 16), "maps": maps}
    InstanceSegmentation(Fixed()).training_step(batch, generator=torch.Generator())["loss"].backward()
    assert raw.grad is not None
    assert not raw.grad[..., 8:].any()
    assert raw.grad[..., :8].all()


def test_an_image_without_annotation_has_a_finite_loss() -> None:
    method = InstanceSegmentation(UNetResidual(1, 2, (4, 4), (1, 1), 4))
    batch = {"image": torch.zeros(2, 1, 8, 8), "maps": torch.zeros(2, 3, 8, 8)}
    losses = method.training_step(batch, generator=torch.Generator())
    assert all(torch.isfinite(value) for value in losses.values())


def test_two_touching_balls_are_learned() -> None:
    torch.manual_seed(0)
    method = InstanceSegmentation(build(UNet3DConfig(width=4, levels=(1, 2, 2))))
    assert isinstance(method, Method)
    labels = np.broadcast_to(touching_discs()[::2, ::2], (8, 24, 32)).copy()
    labels[[0, 7]] = 0
    rng = np.random.default_rng(0)
    image = ((labels > 0) + 0.1 * rng.normal(size=labels.shape)).astype(np.float32)[None]
    batch = {name: tensor[None] for name, tensor in method.prepare(Sample(image, labels), rng).items()}
    optimizer = torch.optim.Adam(method.parameters(), 1e-2)
    for _ in range(60):
        loss = method.train().training_step(batch, generator=torch.Generator())["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        maps = {name: values[0].numpy() for name, values in method.eval().predict(batch["image"]).items()}
    assert method.score([method.decode(maps)], [{"labels": labels}])["ap75"] == 1


def test_two_touching_discs_are_learned() -> None:
    torch.manual_seed(0)
    method = InstanceSegmentation(UNetResidual(1, 2, (12, 16, 16), (1, 1, 1), 8))
    assert isinstance(method, Method)
    labels = touching_discs()
    rng = np.random.default_rng(0)
    image = ((labels > 0) + 0.1 * rng.normal(size=labels.shape)).astype(np.float32)[None]
    sample = method.prepare(Sample(image, labels), rng)
    batch = {name: tensor[None] for name, tensor in sample.items()}
    optimizer = torch.optim.Adam(method.parameters(), 1e-2)
    for _ in range(120):
        loss = method.train().training_step(batch, generator=torch.Generator())["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        maps = {name: values[0].numpy() for name, values in method.eval().predict(batch["image"]).items()}
    found = method.decode(maps)
    assert method.score([found], [{"labels": labels}])["map50_90"] > 0.9
