"""ResNet equals torchvision's and timm's, its CIFAR family the paper's words, and plain twins lack the shortcut."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from abbe.methods.backbones.resnet import VARIANTS, PadShortcut, ResNet, ResNetCifarConfig, ResNetConfig, build
from abbe.nn.fold import fold_batch_norm
from abbe.nn.pyramid import Backbone
from abbe.weights.load import load_strict
from abbe.weights.rename import recognise
from abbe.weights.tables.resnet import LAYOUTS

TORCHVISION, CIFAR = LAYOUTS
Draw = Callable[..., Any]
IMAGENET = [name for name, config in VARIANTS.items() if isinstance(config, ResNetConfig) and name != "resnet_tiny"]


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


def stride_on_the_first(network: nn.Module) -> nn.Module:
    """Turn torchvision's bottlenecks into the published ones."""
    for module in network.modules():
        if isinstance(module, torchvision.models.resnet.Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
    return network


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet50_v1"])
@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_it_equals_the_libraries(name: str, library: str, randomised: Draw) -> None:
    plain = name.removesuffix("_v1")
    if library == "timm" and name != plain:
        pytest.skip("timm has no such network")
    create = pytest.importorskip("timm").create_model if library == "timm" else torchvision.models.get_model
    config = replace(VARIANTS[name], num_classes=10)
    with torch.device("meta"):  # the numbers come below
        ours, theirs = build(config), create(plain, num_classes=10)
    ours = randomised(ours.to_empty(device="cpu"))
    theirs.load_state_dict(TORCHVISION.to_theirs(ours.state_dict(), asdict(config)), assign=True)
    x = noise(2, 3, 64, 50)
    reference = stride_on_the_first(theirs) if name != plain else theirs
    assert_same(forward_and_gradient(ours, x), forward_and_gradient(reference.eval(), x))


def described(tensors: Mapping[str, torch.Tensor], blocks: int, x: torch.Tensor, shortcuts: bool) -> torch.Tensor:
    """Compute the CIFAR network from the paper's words, on tensors under the names of pytorch_resnet_cifar10."""

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, weight, bias = (tensors[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", *LEAVES))
        return F.batch_norm(x, mean, var, weight, bias)

    x = F.relu(normed(F.conv2d(x, tensors["conv1.weight"], padding=1), "bn1"))
    for stage in (1, 2, 3):
        for i in range(blocks):
            block, stride = f"layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            y = F.conv2d(x, tensors[f"{block}.conv1.weight"], stride=stride, padding=1)
            y = F.relu(normed(y, f"{block}.bn1"))
            y = normed(F.conv2d(y, tensors[f"{block}.conv2.weight"], padding=1), f"{block}.bn2")
            if stride == 2:
                zeros = torch.zeros(x.shape[0], x.shape[1] // 2, *y.shape[2:])
                x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], 1)
            x = F.relu(y + x if shortcuts else y)
    return F.linear(x.mean((2, 3)), tensors["linear.weight"], tensors["linear.bias"])


LEAVES = ("weight", "bias")


@pytest.mark.parametrize("name", ["resnet20_cifar", "resnet32_cifar", "plain20_cifar", "plain32_cifar"])
def test_the_cifar_family_is_what_the_paper_says(name: str, randomised: Draw) -> None:
    config = VARIANTS[name]
    assert isinstance(config, ResNetCifarConfig)
    ours = randomised(build(config))
    theirs = CIFAR.to_theirs(ours.state_dict(), asdict(config))
    x = noise(2, 3, 32, 32)
    expected = forward_and_gradient(lambda x: described(theirs, config.blocks, x, config.shortcuts), x)
    assert_same(forward_and_gradient(ours, x), expected)


@pytest.mark.parametrize("name", ["resnet18", "resnet20_cifar", "resnet_tiny"])
def test_what_was_published_comes_back(name: str) -> None:
    network, config = build(VARIANTS[name]), asdict(VARIANTS[name])
    layout = CIFAR if "cifar" in name else TORCHVISION
    theirs = layout.to_theirs(network.state_dict(), config)
    found = recognise(list(theirs), LAYOUTS, name)
    assert found is layout
    again = build(VARIANTS[name])
    load_strict(again, found.to_ours(theirs, config, name), name)
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in network.state_dict().items())


@pytest.mark.parametrize("name", IMAGENET)
def test_names_shapes_and_parameters_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        ours = build(VARIANTS[name])
        theirs = torchvision.models.get_model(name.removesuffix("_v1"))
    renamed = TORCHVISION.to_theirs(ours.state_dict(), asdict(VARIANTS[name]))
    assert {key: tensor.shape for key, tensor in renamed.items()} == {
        key: tensor.shape for key, tensor in theirs.state_dict().items()
    }


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_the_cifar_family_has_the_papers_parameters(depth: int, millions: float) -> None:
    """Table 6 of the paper; the plain twin has as many, for its shortcuts would have none."""
    with torch.device("meta"):
        networks = [build(VARIANTS[f"{kind}{depth}_cifar"]) for kind in ("resnet", "plain")]
    counts = {sum(parameter.numel() for parameter in network.parameters()) for network in networks}
    assert len(counts) == 1
    assert float(f"{counts.pop() / 1e6:.2g}") == millions
    layers = [module for module in networks[0].modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


@pytest.mark.parametrize("name", ["resnet_tiny", "resnet18", "resnet20_cifar"])
@pytest.mark.parametrize("extents", [(37, 64), (4, 5)])
def test_the_pyramid_has_the_sizes_it_tells(name: str, extents: tuple[int, int]) -> None:
    network = build(VARIANTS[name]).eval()
    assert isinstance(network, Backbone)
    maps = network.pyramid(noise(1, 3, *extents))
    told = [
        (width, *(-(-extent // stride) for extent in extents))
        for width, stride in zip(network.widths, network.strides, strict=True)
    ]
    assert [tuple(each.shape[1:]) for each in maps] == told


def test_an_image_below_the_stems_stride_is_refused() -> None:
    with pytest.raises(ValueError, match=r"extents \(3, 40\) are below the stem's stride of 4"):
        build(VARIANTS["resnet_tiny"])(noise(1, 3, 3, 40))


@pytest.mark.parametrize("channels", [1, 5])
def test_channels_and_classes_are_free(channels: int) -> None:
    network = build(replace(VARIANTS["resnet_tiny"], in_channels=channels, num_classes=7)).eval()
    assert network(noise(2, channels, 32, 32)).shape == (2, 7)
    features = build(replace(VARIANTS["resnet_tiny"], in_channels=channels, num_classes=0)).eval()
    assert features(noise(2, channels, 32, 32)).shape == (2, features.widths[-1])


def test_layout_compiler_and_folding_change_nothing(randomised: Draw) -> None:
    network, x = randomised(build(VARIANTS["resnet_tiny"])), noise(2, 3, 40, 33)
    expected = network(x)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        network.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last)),
        expected,
        rtol=1e-5,
        atol=1e-5,
    )
    folded = fold_batch_norm(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet_tiny", "resnet20_cifar"])
def test_blocks_can_be_recomputed(name: str, randomised: Draw, assert_recomputed_the_same: Callable[..., None]) -> None:
    network = randomised(build(VARIANTS[name]))
    assert_recomputed_the_same(network, [block for stage in network.stages for block in stage], noise(4, 3, 40, 33))


@pytest.mark.parametrize("name", ["resnet_tiny", "resnet20_cifar"])
def test_a_block_whose_body_is_zero_is_its_shortcut(name: str) -> None:
    """The reason for the shortcut: nothing to add is easy to learn."""
    network = build(VARIANTS[name]).eval()
    block = network.stages[1][-1]
    nn.init.zeros_(block.body[-1].weight)
    x = noise(1, network.widths[1], 6, 6)
    assert torch.equal(block(x), F.relu(block.shortcut(x)))


def test_the_padded_shortcut_keeps_numbers_and_adds_zeros() -> None:
    x = noise(1, 3, 5, 6)
    y = PadShortcut(3, 8, 2)(x)
    assert torch.equal(y[:, 2:5], x[:, :, ::2, ::2])
    assert y.count_nonzero() == x[:, :, ::2, ::2].numel()


@pytest.mark.parametrize("name", ["resnet_tiny", "plain20_cifar"])
def test_every_parameter_learns(name: str) -> None:
    network = build(VARIANTS[name]).train()
    network(noise(4, 3, 32, 32)).square().mean().backward()
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in network.parameters())


def test_convolutions_keep_the_size_of_gradients() -> None:
    """He et al. 2015, Eq. 14: variance 2 / (k² out)."""
    network = build(VARIANTS["resnet18"])
    assert isinstance(network, ResNet)
    weight = network.stages[3][1].body[0].weight
    assert weight.std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)
