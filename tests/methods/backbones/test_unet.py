from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import disk
from torch.nn import functional as F

from abbe.contract import Method
from abbe.data.sample import Sample
from abbe.errors import AbbeError
from abbe.methods.backbones.unet import (
    VARIANTS,
    UNet,
    UNetConfig,
    UNetSegmentation,
    build,
    connected_regions,
    weighted_cross_entropy,
)

TINY = UNetConfig(width=2, dropout=0.0)


def tiny(**changes):
    torch.manual_seed(0)
    return UNet(UNetConfig(**{"width": 2, "dropout": 0.0, **changes})).eval()


def reference(state, x, depth, padding):
    """The U-Net again, from plain functions and the weights alone."""

    def double(x, prefix):
        for layer in (0, 2):
            weight, bias = state[f"{prefix}.{layer}.weight"], state[f"{prefix}.{layer}.bias"]
            x = F.relu(F.conv2d(x, weight, bias, padding=padding))
        return x

    skips = []
    for level in range(depth):
        x = double(x, f"contracting.{level}")
        skips.append(x)
        x = F.max_pool2d(x, 2)
    x = double(x, f"contracting.{depth}")
    for step, skip in enumerate(reversed(skips)):
        x = F.conv_transpose2d(x, state[f"up_convolutions.{step}.weight"], state[f"up_convolutions.{step}.bias"], 2)
        border = (skip.shape[-1] - x.shape[-1]) // 2
        x = torch.cat([x, F.pad(skip, [-border] * 4)], 1)
        x = double(x, f"expanding.{step}")
    return F.conv2d(x, state["head.weight"], state["head.bias"])


# -------------------------------------------------------------------------------------------- the paper's net


def test_paper_sizes():
    """Fig. 1: 572² to 388² and 2 classes; section 2: 23 convolutional layers."""
    with torch.device("meta"):
        network = build(VARIANTS["unet_2015"])
        assert network(torch.empty(1, 1, 572, 572)).shape == (1, 2, 388, 388)
    layers = [m for m in network.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))]
    assert len(layers) == 23
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())


def test_paper_parameters():
    """31.0 million, layer by layer from Fig. 1."""
    widths = [64, 128, 256, 512, 1024]
    down = sum(9 * a * b + b + 9 * b * b + b for a, b in zip([1, *widths], widths))
    up = sum(4 * 2 * w * w + w + 9 * 2 * w * w + w + 9 * w * w + w for w in widths[:-1])
    with torch.device("meta"):
        network = build(VARIANTS["unet_2015"])
    assert sum(p.numel() for p in network.parameters()) == down + up + 64 * 2 + 2 == 31_030_658


@pytest.mark.parametrize(
    ("config", "extent"),
    [
        (TINY, 188),
        (UNetConfig(in_channels=3, out_channels=4, width=3, depth=2), 60),
        (UNetConfig(width=3, depth=3, padding="same"), 48),
        (UNetConfig(width=2, depth=1), 36),
        (VARIANTS["unet_2015_tiny"], 92),
        (VARIANTS["unet_2015"], 188),
        (UNetConfig(width=32, padding="same"), 64),
    ],
)
def test_forward_and_gradient_equal_plain_functions(config, extent, randomised, assert_same):
    network = randomised(UNet(config))
    state, padding = network.state_dict(), 0 if config.padding == "valid" else 1
    torch.manual_seed(1)
    x = torch.rand(2 if config.width < 8 else 1, config.in_channels, extent, extent)
    assert_same(network, lambda x: reference(state, x, config.depth, padding), x)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_layout_and_compiler_change_nothing(padding, randomised):
    torch.manual_seed(1)
    network, x = randomised(UNet(UNetConfig(width=4, depth=2, padding=padding))), torch.rand(2, 1, 60, 44)
    expected = network(x)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)
    network = network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("extent", [187, 189, 570, 571, 573, 16, 100])
def test_extents_that_do_not_fit_are_refused_with_the_nearest(extent):
    with torch.device("meta"):
        network = UNet(TINY)
        with pytest.raises(ValueError, match="nearest") as caught:
            network(torch.empty(1, 1, extent, 188))
        valid = [n for n in range(188, 700) if (n - 60) % 16 == 0]  # Ronneberger's arithmetic: 16 k + 60
        below = max([n for n in valid if n < extent], default=188)
        above = min(n for n in valid if n > extent)
        assert f"({below}, 188)" in str(caught.value)
        assert f"({above}, 188)" in str(caught.value)
        for n in (below, above):
            assert network(torch.empty(1, 1, n, 188)).shape[2:] == (n - 184, 4)


@settings(deadline=None, max_examples=20)
@given(depth=st.integers(1, 5), extent=st.integers(1, 400), padding=st.sampled_from(["valid", "same"]))
def test_the_geometry_tells_which_extents_fit(depth, extent, padding):
    with torch.device("meta"):
        network = UNet(UNetConfig(width=1, depth=depth, padding=padding))
        geometry = network.geometry
        lost = 2 * geometry.halo[0] if geometry.crops else 0
        fits = extent > lost and (extent - geometry.remainder[0]) % geometry.multiple[0] == 0
        x = torch.empty(1, 1, extent, extent)
        if fits:
            assert network(x).shape[2:] == (extent - lost,) * 2
        else:
            with pytest.raises(ValueError, match="nearest"):
                network(x)


def test_every_parameter_gets_a_gradient():
    network = tiny().train()
    network(torch.rand(1, 1, 188, 188)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_initial_weights_have_the_deviation_of_he():
    """Section 3: a standard deviation of √(2/N), with N = 9 · 64 = 576 for 3×3 and 64 channels."""
    torch.manual_seed(0)
    network = UNet(UNetConfig(width=64, depth=1))
    assert network.contracting[0][2].weight.std().item() == pytest.approx((2 / 576) ** 0.5, rel=0.02)
    assert network.up_convolutions[0].weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.02)
    assert not network.head.bias.any()


def test_activations_keep_their_size_through_the_initial_network():
    torch.manual_seed(0)
    network = UNet(UNetConfig(width=16, depth=4, dropout=0.0)).eval()
    with torch.no_grad():
        assert 0.2 < network(torch.randn(1, 1, 252, 252)).std() < 10


def test_dropout_only_in_training():
    torch.manual_seed(0)
    network = UNet(UNetConfig(width=4, depth=2))
    x = torch.rand(1, 1, 60, 60)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


# ----------------------------------------------------------------------------------------------- overlap-tile


@functools.cache
def whole_image():
    """A network, an image of 164² mirrored by 92 pixels on all sides, and the network's maps of it."""
    network = tiny().double()
    image = np.random.default_rng(0).random((1, 164, 164))
    mirrored = torch.from_numpy(np.pad(image, [(0, 0), (92, 92), (92, 92)], mode="reflect"))[None]
    with torch.no_grad():
        return network, mirrored, network(mirrored)


@settings(deadline=None, max_examples=10)
@given(top=st.integers(0, 10), left=st.integers(0, 10), height=st.integers(0, 4), width=st.integers(0, 4))
def test_a_tile_equals_the_whole_of_a_mirrored_image(top, left, height, width):
    """Fig. 2: the missing context is mirrored; tiles start at multiples of 16 and see real neighbours."""
    network, mirrored, whole = whole_image()
    assert whole.shape[2:] == (164, 164)
    y, x = min(16 * top, 160 - 16 * height), min(16 * left, 160 - 16 * width)
    h, w = 16 * height + 4, 16 * width + 4
    with torch.no_grad():
        tile = network(mirrored[..., y : y + h + 184, x : x + w + 184])
    # Float64: what is left is the order of the additions, not a seam.
    torch.testing.assert_close(tile, whole[..., y : y + h, x : x + w], rtol=0, atol=1e-12)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_halo_of_the_padded_net_is_enough_and_not_too_much(depth):
    network = tiny(depth=depth, padding="same")
    (halo, _), (multiple, _) = network.geometry.halo, network.geometry.multiple
    margin = -(-halo // multiple) * multiple
    x = torch.rand(1, 1, 3 * margin, 4 * margin)
    with torch.no_grad():
        whole, tile = network(x), network(x[..., margin:])
    difference = (whole[..., margin:] - tile).abs().amax((0, 1, 2))
    assert difference[halo:].max() < 1e-6
    assert difference[halo - 1] > 1e-6


# ------------------------------------------------------------------------------------------------- the method


def touching_disks():
    """Two disks whose borders touch, on a field with noise."""
    labels = np.zeros((48, 48), np.int32)
    labels[disk((24, 14), 10)], labels[disk((24, 33), 10)] = 1, 2
    noise = np.random.default_rng(0).normal(0, 0.05, labels.shape)
    image = (labels > 0) - 0.4 * np.isin(np.indices(labels.shape)[1], (23, 24)) + noise
    return Sample(image[None].astype(np.float32), labels)


def method():
    torch.manual_seed(0)
    return UNetSegmentation(build(VARIANTS["unet_2015_tiny"]))


def test_is_a_method():
    assert isinstance(method(), Method)
    assert UNetSegmentation(build(VARIANTS["unet_2015"])).geometry.halo == (92, 92)


def test_prepare_separates_and_weighs_the_gap_most():
    sample = touching_disks()
    tensors = method().prepare(sample, np.random.default_rng(0))
    assert tensors["image"].shape == (1, 48, 48)
    assert tensors["target"].dtype == torch.int64
    objects = connected_regions(tensors["target"].numpy())
    assert objects.max() == 2
    gap = (tensors["target"].numpy() == 0) & (sample.labels > 0)
    assert gap.any()
    weight = tensors["weight"].numpy()
    assert weight[gap].min() > 8 > 1 > weight[0, 0]


def test_samples_of_other_extents_are_mirrored_and_the_rest_weighs_nothing():
    sample = touching_disks()
    cut = Sample(sample.image[:, :46, :41], sample.labels[:46, :41], ignore=sample.labels[:46, :41] == 2)
    tensors = method().prepare(cut, np.random.default_rng(0))
    assert tensors["image"].shape == (1, 48, 44)
    np.testing.assert_array_equal(tensors["image"][:, 0], tensors["image"][:, 2])
    np.testing.assert_array_equal(tensors["image"][:, 1:-1, 1:-2], cut.image)
    weight = tensors["weight"].numpy()
    assert not weight[0].any()
    assert not weight[1:-1, 1:-2][cut.ignore].any()
    assert (weight[1:-1, 1:-2][~cut.ignore] > 0).all()


def test_samples_without_labels_are_refused():
    with pytest.raises(AbbeError, match="plate1"):
        method().prepare(Sample(np.zeros((1, 60, 60), np.float32), name="plate1"), np.random.default_rng(0))


def test_the_loss_is_the_weighted_mean():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    target = torch.randint(3, (2, 4, 5), generator=generator)
    weight = torch.rand(2, 4, 5, generator=generator) * (torch.rand(2, 4, 5, generator=generator) > 0.3)
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(1, keepdims=True)
    total, count = 0.0, 0
    for b, y, x in np.ndindex(2, 4, 5):
        w = float(weight[b, y, x])
        total -= w * np.log(p[b, target[b, y, x], y, x])
        count += w > 0
    assert weighted_cross_entropy(logits, target, weight).item() == pytest.approx(total / count, rel=1e-5)


def test_the_loss_of_a_sample_without_any_annotation_is_zero():
    loss = weighted_cross_entropy(
        torch.randn(1, 2, 3, 3), torch.zeros(1, 3, 3, dtype=torch.int64), torch.zeros(1, 3, 3)
    )
    assert loss == 0


def test_predict_gives_probabilities_on_the_cropped_grid():
    with torch.no_grad():
        probabilities = method().predict(torch.rand(2, 1, 60, 44))["probabilities"]
    assert probabilities.shape == (2, 2, 20, 4)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 20, 4))


def test_decode_drops_small_objects_and_numbers_the_others():
    labels = touching_disks().labels
    classes = (labels == 1) | (labels == 2) & (np.indices(labels.shape)[1] > 27)
    classes[0, 0] = True
    probabilities = np.stack([~classes, classes]).astype(np.float32)
    assert method().decode({"probabilities": probabilities})["labels"].max() == 3
    decoded = method().decode({"probabilities": probabilities}, min_area=2)["labels"]
    assert decoded.dtype == np.int32
    assert set(np.unique(decoded)) == {0, 1, 2}
    assert decoded[0, 0] == 0


def test_a_tiny_net_learns_to_separate_two_touching_disks():
    sample, learner = touching_disks(), method()
    context = [(20, 20), (20, 20)]
    padded = Sample(np.pad(sample.image, [(0, 0), *context], mode="reflect"), np.pad(sample.labels, context))
    tensors = learner.prepare(padded, np.random.default_rng(0))
    batch = {name: tensor[None] for name, tensor in tensors.items()}
    optimizer = torch.optim.Adam(learner.parameters(), 0.01)
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        optimizer.zero_grad()
        learner.training_step(batch, generator=generator)["loss"].backward()
        optimizer.step()
    learner.eval()
    with torch.no_grad():
        outputs = learner.predict(batch["image"])
    decoded = learner.decode({name: value[0].numpy() for name, value in outputs.items()}, min_area=20)
    assert decoded["labels"].max() == 2
    measured = learner.score([decoded], [{"labels": sample.labels}])
    assert measured["ap50"] == 1.0
