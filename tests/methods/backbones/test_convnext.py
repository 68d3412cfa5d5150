"""ConvNeXt equals torchvision's, timm's and the published code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from abbe.methods.backbones.convnext import VARIANTS, build
from abbe.nn.drop_path import DropPath
from abbe.nn.pyramid import Backbone
from abbe.weights.load import load_strict
from abbe.weights.rename import recognise
from abbe.weights.tables.convnext import LAYOUTS

FACEBOOK, TIMM, TORCHVISION = LAYOUTS
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


@pytest.mark.parametrize("name", ["convnext_tiny", "convnext_small"])
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_it_equals_the_libraries(name: str, library: str, randomised: Draw) -> None:
    config = replace(VARIANTS[name], num_classes=10)
    create = pytest.importorskip("timm").create_model if library == "timm" else torchvision.models.get_model
    with torch.device("meta"):  # the numbers come below
        ours, theirs = build(config), create(name, num_classes=10)
    ours = randomised(ours.to_empty(device="cpu"))
    layout = TIMM if library == "timm" else TORCHVISION
    theirs.load_state_dict(layout.to_theirs(ours.state_dict(), asdict(config)), assign=True)
    x = noise(2, 3, 64, 50)
    assert_same(forward_and_gradient(ours, x), forward_and_gradient(theirs.eval(), x))


def described(tensors: Mapping[str, torch.Tensor], depths: tuple[int, ...], x: torch.Tensor) -> torch.Tensor:
    """Compute the network from the paper's words, on tensors under the names of the published code."""

    def both(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return tensors[f"{name}.weight"], tensors[f"{name}.bias"]

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = (tensor[:, None, None] for tensor in both(name))
        deviation = (x.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return (x - x.mean(1, keepdim=True)) / deviation * weight + bias

    for stage, depth in enumerate(depths):
        if stage == 0:
            x = normed(F.conv2d(x, *both("downsample_layers.0.0"), stride=4), "downsample_layers.0.1")
        else:
            down = f"downsample_layers.{stage}"
            x = F.conv2d(normed(x, f"{down}.0"), *both(f"{down}.1"), stride=2)
        for i in range(depth):
            block = f"stages.{stage}.{i}"
            y = F.conv2d(x, *both(f"{block}.dwconv"), padding=3, groups=x.shape[1])
            y = normed(y, f"{block}.norm")
            for n in (1, 2):
                weight, bias = both(f"{block}.pwconv{n}")
                y = F.conv2d(y, weight[:, :, None, None], bias)
                y = F.gelu(y) if n == 1 else y
            x = x + y * tensors[f"{block}.gamma"][:, None, None]
    x = normed(x.mean((2, 3), keepdim=True), "norm").flatten(1)
    return F.linear(x, *both("head"))


def test_it_equals_the_paper(randomised: Draw) -> None:
    config = VARIANTS["convnext_test_tiny"]
    ours = randomised(build(config))
    theirs = FACEBOOK.to_theirs(ours.state_dict(), asdict(config))
    x = noise(2, 3, 64, 96)
    expected = forward_and_gradient(lambda x: described(theirs, config.depths, x), x)
    assert_same(forward_and_gradient(ours, x), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_published_comes_back(layout: Any) -> None:
    config = VARIANTS["convnext_test_tiny"]
    network = build(config)
    theirs = layout.to_theirs(network.state_dict(), asdict(config))
    assert recognise(list(theirs), LAYOUTS, "a file") is layout
    again = build(config)
    load_strict(again, layout.to_ours(theirs, asdict(config), "a file"), "a file")
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in network.state_dict().items())


@pytest.mark.parametrize("size", ["tiny", "small", "base", "large"])
def test_names_shapes_and_parameters_are_torchvisions(size: str) -> None:
    with torch.device("meta"):
        ours, theirs = (build(VARIANTS[f"convnext_{size}"]), torchvision.models.get_model(f"convnext_{size}"))
    renamed = TORCHVISION.to_theirs(ours.state_dict(), asdict(VARIANTS[f"convnext_{size}"]))
    assert {key: tensor.shape for key, tensor in renamed.items()} == {
        key: tensor.shape for key, tensor in theirs.state_dict().items()
    }


def test_the_largest_has_the_papers_parameters() -> None:
    """Table 1: 350 million."""
    with torch.device("meta"):
        network = build(VARIANTS["convnext_xlarge"])
    assert round(sum(parameter.numel() for parameter in network.parameters()) / 1e6) == 350


@pytest.mark.parametrize("extents", [(32, 32), (70, 97)])
def test_the_pyramid_has_the_sizes_it_tells(extents: tuple[int, int]) -> None:
    network = build(VARIANTS["convnext_test_tiny"]).eval()
    assert isinstance(network, Backbone)
    told = [
        (width, *(extent // stride for extent in extents))
        for width, stride in zip(network.widths, network.strides, strict=True)
    ]
    assert [tuple(each.shape[1:]) for each in network.pyramid(noise(1, 3, *extents))] == told


def test_an_image_below_the_last_stride_is_refused() -> None:
    with pytest.raises(ValueError, match=r"extents \(40, 31\) are below the last stage's stride of 32"):
        build(VARIANTS["convnext_test_tiny"])(noise(1, 3, 40, 31))


@pytest.mark.parametrize("channels", [1, 5])
def test_channels_and_classes_are_free(channels: int) -> None:
    config = replace(VARIANTS["convnext_test_tiny"], in_channels=channels)
    assert build(replace(config, num_classes=7)).eval()(noise(2, channels, 32, 32)).shape == (2, 7)
    assert build(replace(config, num_classes=0)).eval()(noise(2, channels, 32, 32)).shape == (2, config.widths[-1])


def test_layout_and_compiler_change_nothing(randomised: Draw) -> None:
    network, x = randomised(build(VARIANTS["convnext_test_tiny"])), noise(2, 3, 64, 40)
    expected = network(x)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-5)
    network = network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(x.contiguous(memory_format=torch.channels_last)), expected, rtol=1e-5, atol=1e-5)


def test_blocks_can_be_recomputed(randomised: Draw, assert_recomputed_the_same: Callable[..., None]) -> None:
    network = randomised(build(replace(VARIANTS["convnext_test_tiny"], drop_path=0.4)))
    assert_recomputed_the_same(network, [block for stage in network.stages for block in stage], noise(4, 3, 64, 40))


def test_a_fresh_block_is_almost_its_shortcut() -> None:
    block = build(VARIANTS["convnext_test_tiny"]).stages[2][1].eval()
    x = noise(1, 8, 6, 6)
    assert 0 < (block(x) - x).abs().max() < 1e-5
    assert build(replace(VARIANTS["convnext_test_tiny"], layer_scale=0.0)).stages[2][1].gamma is None


def test_later_blocks_are_left_out_more_often() -> None:
    network = build(VARIANTS["convnext_test_tiny"])
    rates = [module.rate for module in network.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.1 * i / 4 for i in range(5)])


def test_it_begins_as_the_published_code_does() -> None:
    network = build(replace(VARIANTS["convnext_test_tiny"], widths=(16, 32, 48, 64)))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert bool((module.bias == 0).all())
    assert network.stages[3][0].expand.weight.std().item() == pytest.approx(0.02, rel=0.03)


def test_every_parameter_learns() -> None:
    network = build(replace(VARIANTS["convnext_test_tiny"], drop_path=0.0)).train()
    network(noise(2, 3, 64, 64)).square().mean().backward()
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in network.parameters())
