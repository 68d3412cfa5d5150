"""AlexNet equals torchvision's, and the network of 2012 its two halves written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from abbe.methods.backbones.alexnet import VARIANTS, LocalResponseNorm, build
from abbe.nn.pyramid import Backbone
from abbe.weights.load import load_strict
from abbe.weights.rename import recognise
from abbe.weights.tables.alexnet import LAYOUTS

TORCHVISION, CAFFE = LAYOUTS
Draw = Callable[..., Any]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def forward_and_gradient(network: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    y = network(x)
    y.backward(noise(*y.shape, seed=1))
    assert x.grad is not None
    return [y.detach(), x.grad]


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm()


@pytest.mark.parametrize("extents", [(224, 224), (70, 99)])
def test_it_equals_torchvision(extents: tuple[int, int], randomised: Draw) -> None:
    config = replace(VARIANTS["alexnet"], num_classes=10, hidden=4096)
    with torch.device("meta"):  # the numbers come below
        ours, theirs = build(config), torchvision.models.alexnet(num_classes=10).eval()
    ours = randomised(ours.to_empty(device="cpu"))
    theirs.load_state_dict(TORCHVISION.to_theirs(ours.state_dict(), asdict(config)), assign=True)
    x = noise(1, 3, *extents)
    if extents == (224, 224):
        assert_same(forward_and_gradient(ours, x), forward_and_gradient(theirs, x))
    else:  # torchvision pools maps of any size too
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_normalisation_equals_pytorchs_and_is_there_for_16_bits() -> None:
    x = 30 * noise(2, 7, 5, 6)
    expected = nn.LocalResponseNorm(5, 5 * 1e-4, 0.75, 2.0)(x)  # divides its alpha by 5
    assert_same([LocalResponseNorm()(x)], [expected])
    leaf = x.bfloat16().requires_grad_()
    found = LocalResponseNorm()(leaf)
    found.sum().backward()
    assert found.dtype == leaf.grad.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)


def on_two_devices(tensors: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Compute the network of 2012 as its Figure 2 draws it, on tensors under Caffe's names."""

    def conv(x: torch.Tensor, n: int, **options: int) -> torch.Tensor:
        return F.relu(F.conv2d(x, tensors[f"conv{n}.weight"], tensors[f"conv{n}.bias"], **options))

    def halved(x: torch.Tensor, n: int, padding: int) -> torch.Tensor:
        parts = zip(x.chunk(2, 1), tensors[f"conv{n}.weight"].chunk(2), tensors[f"conv{n}.bias"].chunk(2), strict=True)
        return F.relu(torch.cat([F.conv2d(*part, padding=padding) for part in parts], 1))

    x = F.max_pool2d(response_normalised(conv(x, 1, stride=4)), 3, 2)
    x = F.max_pool2d(response_normalised(halved(x, 2, padding=2)), 3, 2)
    x = halved(halved(conv(x, 3, padding=1), 4, padding=1), 5, padding=1)
    x = F.max_pool2d(x, 3, 2).flatten(1)
    for n in (6, 7):
        x = F.relu(F.linear(x, tensors[f"fc{n}.weight"], tensors[f"fc{n}.bias"]))
    return F.linear(x, tensors["fc8.weight"], tensors["fc8.bias"])


def response_normalised(a: torch.Tensor) -> torch.Tensor:
    """Section 3.3: b_i = a_i / (k + α Σ_j a_j²)^β over the j from i - n/2 to i + n/2 that exist."""
    n, alpha, beta, k = 5, 1e-4, 0.75, 2
    rows = []
    for i in range(a.shape[1]):
        near = a[:, max(0, i - n // 2) : i + n // 2 + 1]
        rows.append(a[:, i] / (k + alpha * near.square().sum(1)) ** beta)
    return torch.stack(rows, 1)


@pytest.mark.parametrize("name", ["alexnet_2012", "alexnet_tiny"])
def test_the_original_is_two_halves_with_normalised_responses(name: str, randomised: Draw) -> None:
    with torch.device("meta"):  # the numbers come below
        ours = build(VARIANTS[name])
    ours = randomised(ours.to_empty(device="cpu"))
    x = 30 * noise(1, 3, 227, 227)  # so large that the normalisation matters
    theirs = CAFFE.to_theirs(ours.state_dict(), {})
    expected = forward_and_gradient(lambda x: on_two_devices(theirs, x), x)
    assert_same(forward_and_gradient(ours, x), expected)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_published_comes_back(name: str, layout: Any) -> None:
    config = replace(VARIANTS[name], hidden=10)
    network = build(config)
    theirs = layout.to_theirs(network.state_dict(), asdict(config))
    assert recognise(list(theirs), LAYOUTS, name) is layout
    again = build(config)
    load_strict(again, layout.to_ours(theirs, asdict(config), name), name)
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in network.state_dict().items())


@pytest.mark.parametrize(("name", "parameters"), [("alexnet", 61_100_840), ("alexnet_2012", 60_965_224)])
def test_it_has_the_parameters_of_its_source(name: str, parameters: int) -> None:
    """torchvision's documentation; and Section 1's "60 million parameters", counted out of Section 3.5."""
    with torch.device("meta"):
        network = build(VARIANTS[name])
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize(("name", "extents"), [("alexnet_2012", 227), ("alexnet", 224)])
def test_the_papers_images_give_the_papers_maps(name: str, extents: int) -> None:
    network = build(replace(VARIANTS[name], hidden=4)).eval()
    assert isinstance(network, Backbone)
    maps = network.pyramid(noise(1, 3, extents, extents))
    assert [tuple(each.shape[1:]) for each in maps] == [
        (width, side, side) for width, side in zip(network.widths, (55, 27, 13), strict=True)
    ]
    assert network.pool(maps[-1]).shape[-2:] == (6, 6)


@pytest.mark.parametrize("name", ["alexnet_tiny", "alexnet"])
def test_the_smallest_image_is_taken_and_a_smaller_one_refused(name: str) -> None:
    network = build(replace(VARIANTS[name], hidden=4, num_classes=3)).eval()
    assert network(noise(1, 3, network.smallest, 90)).shape == (1, 3)
    with pytest.raises(ValueError, match=r"extents \(\d+, 90\) are below \d+"):
        network(noise(1, 3, network.smallest - 1, 90))


@pytest.mark.parametrize("channels", [1, 5])
def test_channels_and_classes_are_free(channels: int) -> None:
    config = replace(VARIANTS["alexnet_tiny"], in_channels=channels)
    assert build(replace(config, num_classes=7)).eval()(noise(2, channels, 80, 80)).shape == (2, 7)
    assert build(replace(config, num_classes=0)).eval()(noise(2, channels, 80, 80)).shape == (2, config.hidden)


def test_layout_and_compiler_change_nothing(randomised: Draw) -> None:
    network, x = randomised(build(VARIANTS["alexnet_tiny"])), noise(2, 3, 75, 100)
    expected = network(x)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-5)
    network = network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(x.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-5, atol=1e-5)


def test_units_are_left_out_only_while_training() -> None:
    network, x = build(VARIANTS["alexnet_tiny"]), noise(1, 3, 80, 80)
    draws = [(torch.manual_seed(seed), network.train()(x))[1] for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(network.eval()(x), network(x))


def test_it_begins_as_section_5_says() -> None:
    network = build(replace(VARIANTS["alexnet_2012"], hidden=16))
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [module.bias.unique().tolist() for module in convolutions] == [[0], [1], [0], [1], [1]]
    assert [module.bias.unique().tolist() for module in network.hidden] == [[1], [1]]
    assert network.head.bias.unique().tolist() == [0]
    assert convolutions[2].weight.std().item() == pytest.approx(0.01, rel=0.01)


def test_the_halves_see_nothing_of_each_other() -> None:
    network, x = build(VARIANTS["alexnet_tiny"]).eval(), noise(1, 8, 9, 9).requires_grad_()
    second = [module for module in network.modules() if isinstance(module, nn.Conv2d)][1]
    second(x[:, :4])[:, :4].sum().backward()
    assert x.grad is not None
    assert bool((x.grad[:, :2] != 0).any())
    assert bool((x.grad[:, 2:] == 0).all())
