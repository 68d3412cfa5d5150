"""InternImage against its definition, written over the published names; sizes, pyramids and odd images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from abbe.methods.backbones.internimage import VARIANTS, InternImage, build
from abbe.nn.pyramid import Backbone
from abbe.weights.rename import recognise
from abbe.weights.tables.internimage import HEAD, LAYOUTS, PUBLISHED, STEM

SMALL: dict[str, Any] = {"num_classes": 5, "width": 8, "depths": (1, 1, 2, 1), "groups": 2}
CONFIGS = {
    "tiny": dataclasses.replace(VARIANTS["internimage_tiny"], **SMALL),
    "large": dataclasses.replace(VARIANTS["internimage_large"], **SMALL),
    "huge": dataclasses.replace(
        VARIANTS["internimage_huge"], **SMALL, extra_norms=(1,), attention_head=(12, 3, 10), remove_center=True
    ),
}
PAPER = {
    "internimage_tiny": 30e6,
    "internimage_small": 50e6,
    "internimage_base": 97e6,
    "internimage_large": 223e6,
    "internimage_xlarge": 335e6,
    "internimage_huge": 1.08e9,
}
"""Parameters, Table 1."""


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Reference:
    """The network as functions of tensors under their published names."""

    def __init__(self, network: InternImage):
        self.config = network.config
        self.tensors = LAYOUTS[0].to_theirs(network.state_dict(), dataclasses.asdict(self.config))

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt() * weight + bias

    def conv(self, x: torch.Tensor, name: str, **options: Any) -> torch.Tensor:
        """Convolve what has its channels last."""
        weight, bias = self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias")
        return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, **options).permute(0, 2, 3, 1)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        x = self.conv(images.permute(0, 2, 3, 1), "patch_embed.conv1", stride=2, padding=1)
        x = F.gelu(self.norm(x, "patch_embed.norm1.1"))
        x = self.norm(self.conv(x, "patch_embed.conv2", stride=2, padding=1), "patch_embed.norm2.1")
        maps = []
        for level, depth in enumerate(self.config.depths):
            for number in range(depth):
                x = self.block(x, f"levels.{level}.blocks.{number}", self.config.groups * 2**level)
                if level == 2 and number in self.config.extra_norms:
                    x = self.norm(x, f"levels.2.post_norms.{self.config.extra_norms.index(number)}.0")
            if f"levels.{level}.norm.0.weight" in self.tensors:
                x = self.norm(x, f"levels.{level}.norm.0")
            maps.append(x)
            if level < 3:
                x = self.conv(x, f"levels.{level}.downsample.conv", stride=2, padding=1)
                x = self.norm(x, f"levels.{level}.downsample.norm.1")
        return self.linear(self.attended(*maps[2:]) if self.config.attention_head else self.pooled(x), "head")

    def block(self, x: torch.Tensor, name: str, groups: int) -> torch.Tensor:
        layers = (lambda x: self.deformed(x, f"{name}.dcn", groups), lambda x: self.perceptron(x, f"{name}.mlp"))
        for n, layer in enumerate(layers, 1):
            if self.config.norm == "post":
                y = self.norm(layer(x), f"{name}.norm{n}.0") * self.tensors[f"{name}.gamma{n}"]
            else:
                y = layer(self.norm(x, f"{name}.norm{n}.0"))
            x = x + (self.norm(y, f"{name}.res_post_norm{n}.0") if self.config.norm == "both" else y)
        return x

    def perceptron(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return self.linear(F.gelu(self.linear(x, f"{name}.fc1")), f"{name}.fc2")

    def deformed(self, x: torch.Tensor, name: str, groups: int) -> torch.Tensor:
        """DCNv3 with a loop over points and pixels around them; x is slower than y."""
        batch, rows, columns, width = x.shape
        values = self.linear(x, f"{name}.input_proj")
        kernel = self.config.depthwise_kernel
        query = self.conv(x, f"{name}.dw_conv.0", padding=kernel // 2, groups=width)
        query = F.gelu(self.norm(query, f"{name}.dw_conv.1.1"))
        points = [(kx, ky) for kx in (-1, 0, 1) for ky in (-1, 0, 1) if kx or ky or not self.config.remove_center]
        shape = (batch, rows, columns, groups, len(points))
        offset = self.linear(query, f"{name}.offset").view(*shape, 2)
        mask = self.linear(query, f"{name}.mask").view(shape).softmax(-1)
        image = values.view(batch, rows, columns, groups, -1)
        b, i, j, g = torch.meshgrid(*(torch.arange(n) for n in shape[:4]), indexing="ij")
        out = torch.zeros_like(image)
        for k, (kx, ky) in enumerate(points):
            place_x = j + (kx + offset[..., k, 0]) * self.config.offset_scale
            place_y = i + (ky + offset[..., k, 1]) * self.config.offset_scale
            for row in (place_y.floor(), place_y.floor() + 1):
                for column in (place_x.floor(), place_x.floor() + 1):
                    known = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
                    at = row.long().clamp(0, rows - 1), column.long().clamp(0, columns - 1)
                    share = (1 - (place_y - row).abs()) * (1 - (place_x - column).abs()) * known * mask[..., k]
                    out = out + share.unsqueeze(-1) * image[b, at[0], at[1], g]
        if self.config.center_feature_scale:
            weight, bias = (self.tensors[f"{name}.center_feature_scale_proj_{leaf}"] for leaf in ("weight", "bias"))
            share = (query @ weight.T + bias).sigmoid().unsqueeze(-1)
            out = out * (1 - share) + image * share
        return self.linear(out.reshape(x.shape), f"{name}.output_proj")

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x, "conv_head.0")
        mean, variance, weight, bias = (
            self.tensors[f"conv_head.1.0.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")
        )
        return F.gelu((x - mean) / (variance + 1e-5).sqrt() * weight + bias).mean((1, 2))

    def attended(self, third: torch.Tensor, fourth: torch.Tensor) -> torch.Tensor:
        coarse = F.pixel_shuffle(self.conv(fourth, "dcnv3_head_x4.0").permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
        tokens = (self.conv(third, "dcnv3_head_x3") + coarse).flatten(1, 2)  # (B, N, D)
        inputs = {"q": tokens.mean(1, keepdim=True), "k": tokens, "v": tokens}
        heads = {}
        for letter, x in inputs.items():
            weight = self.tensors[f"clip_projector.cross_dcn.{letter}.weight"]
            x = self.norm(x, f"clip_projector.norm1_{letter}.0") @ weight.T
            x = x + self.tensors[f"clip_projector.cross_dcn.{letter}_bias"]
            assert self.config.attention_head is not None
            heads[letter] = x.unflatten(-1, (self.config.attention_head[1], -1)).transpose(1, 2)
        scores = heads["q"] @ heads["k"].transpose(-1, -2) / heads["q"].shape[-1] ** 0.5
        x = (scores.softmax(-1) @ heads["v"]).transpose(1, 2).flatten(1)
        return self.norm(self.linear(x, "clip_projector.cross_dcn.proj"), "fc_norm.0")


@pytest.mark.parametrize("name", CONFIGS)
def test_forward_and_gradient_are_those_of_the_definition(
    name: str, randomised: Callable[..., Any], assert_same: Callable[..., None]
) -> None:
    network = randomised(build(CONFIGS[name]))
    for shape in ((2, 3, 32, 64), (1, 3, 41, 30) if name != "huge" else (1, 3, 27, 59)):
        assert_same(network, Reference(network), noise(*shape))


@pytest.mark.parametrize("name", ["internimage_tiny", "internimage_small"])
def test_published_sizes_are_those_of_the_definition(
    name: str, randomised: Callable[..., Any], assert_same: Callable[..., None]
) -> None:
    with torch.device("meta"):  # the numbers come below
        network = build(VARIANTS[name])
    network = randomised(network.to_empty(device="cpu"))
    assert_same(network, Reference(network), noise(1, 3, 64, 64))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_published_names_load_back(name: str, layout: Any, randomised: Callable[..., Any]) -> None:
    config = CONFIGS[name]
    ours = randomised(build(config)).state_dict()
    theirs = layout.to_theirs(ours, dataclasses.asdict(config))
    assert recognise(list(theirs), LAYOUTS, "file.pth") is layout
    again = layout.to_ours(theirs, dataclasses.asdict(config), "file.pth")
    assert list(again) == list(ours)
    assert all(torch.equal(again[key], tensor) for key, tensor in ours.items())


@pytest.mark.parametrize("name", PAPER)
def test_sizes_are_the_papers_and_all_tensors_have_a_published_name(name: str) -> None:
    config = VARIANTS[name]
    with torch.device("meta"):
        network = build(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == pytest.approx(PAPER[name], rel=0.01)
    ours = network.state_dict()
    theirs = LAYOUTS[0].to_theirs(ours, dataclasses.asdict(config))
    assert len(theirs) == len(ours)
    shapes = {key: tensor.shape for key, tensor in LAYOUTS[0].to_ours(theirs, {}, name).items()}
    assert shapes == {key: tensor.shape for key, tensor in ours.items()}
    assert set(STEM) <= set(ours)
    assert {key for key in ours if key.startswith(HEAD)} == {"classifier.weight", "classifier.bias"}


def test_published_files_have_the_parameters_that_are_told() -> None:
    for record in PUBLISHED:
        with torch.device("meta"):
            network = build(dataclasses.replace(VARIANTS[record.network], **record.config))
        assert sum(parameter.numel() for parameter in network.parameters()) == record.parameters


def test_names_of_the_release() -> None:
    """A few literal ones, so that both sides of the table cannot be wrong together."""
    with torch.device("meta"):
        tensors = build(VARIANTS["internimage_small"]).state_dict()
    shapes = {key: tuple(tensor.shape) for key, tensor in LAYOUTS[0].to_theirs(tensors, {}).items()}
    for key, shape in {
        "patch_embed.conv1.weight": (40, 3, 3, 3),
        "patch_embed.norm2.1.bias": (80,),
        "levels.0.blocks.3.dcn.dw_conv.0.weight": (80, 1, 3, 3),
        "levels.0.blocks.3.dcn.dw_conv.1.1.weight": (80,),
        "levels.1.blocks.0.dcn.offset.weight": (180, 160),
        "levels.1.blocks.0.dcn.mask.bias": (90,),
        "levels.2.blocks.20.gamma1": (320,),
        "levels.2.downsample.conv.weight": (640, 320, 3, 3),
        "levels.3.blocks.0.norm1.0.weight": (640,),
        "conv_head.1.0.running_var": (960,),
        "head.weight": (1000, 960),
    }.items():
        assert shapes[key] == shape
    assert "levels.0.norm.0.weight" not in shapes


@pytest.mark.parametrize("size", [(64, 96), (4, 4), (33, 50)])
def test_the_pyramid_has_the_strides_that_it_tells(size: tuple[int, int]) -> None:
    network = build(VARIANTS["internimage_micro"]).eval()
    assert isinstance(network, Backbone)
    maps = network.pyramid(noise(2, 3, *size))
    expected = [
        (2, width, -(-size[0] // stride), -(-size[1] // stride))
        for width, stride in zip(network.widths, network.strides, strict=True)
    ]
    assert [tuple(features.shape) for features in maps] == expected
    assert network(noise(2, 3, *size)).shape == (2, 10)


@pytest.mark.parametrize("channels", [1, 5])
def test_any_channels_and_features_without_classes(channels: int) -> None:
    config = dataclasses.replace(VARIANTS["internimage_micro"], in_channels=channels, num_classes=0)
    network = build(config).eval()
    assert network.in_channels == channels
    assert network(noise(2, channels, 32, 32)).shape == (2, 192)
    huge = build(dataclasses.replace(CONFIGS["huge"], in_channels=channels, num_classes=0)).eval()
    assert huge(noise(2, channels, 32, 32)).shape == (2, 10)


def test_extents_that_do_not_go_are_told() -> None:
    with pytest.raises(ValueError, match="3 x 64 pixels; expected at least 4 x 4"):
        build(VARIANTS["internimage_micro"])(noise(1, 3, 3, 64))
    with pytest.raises(ValueError, match="48 x 64 pixels; .* pad to multiples of 32"):
        build(CONFIGS["huge"])(noise(1, 3, 48, 64))


@pytest.mark.parametrize("name", ["tiny", "huge"])
def test_channels_last_and_compiled_it_is_the_same(name: str, randomised: Callable[..., Any]) -> None:
    network = randomised(build(CONFIGS[name]))
    image = noise(2, 3, 32, 32)
    expected = network(image)
    close = {"rtol": 1e-4, "atol": 1e-4 * float(expected.detach().abs().max())}
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(image), expected, **close)
    network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(image.contiguous(memory_format=torch.channels_last)), expected, **close)


def test_blocks_can_be_computed_again_in_place_of_being_kept(
    randomised: Callable[..., Any], assert_recomputed_the_same: Callable[..., None]
) -> None:
    network = randomised(build(dataclasses.replace(CONFIGS["tiny"], drop_path=0.4)))
    assert_recomputed_the_same(
        network, (block for stage in network.stages for block in stage.blocks), noise(4, 3, 32, 32)
    )


def test_drop_path_is_of_training_and_follows_the_seed() -> None:
    config = dataclasses.replace(VARIANTS["internimage_micro"], drop_path=0.5)
    network, image = build(config), noise(4, 3, 32, 32)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(network(image))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    network.eval()
    assert torch.equal(network(image), network(image))
    assert [block.drop_path.rate for stage in network.stages for block in stage.blocks] == [0, 0.125, 0.25, 0.375, 0.5]


def test_every_parameter_learns() -> None:
    for config in CONFIGS.values():
        network = build(config)
        with torch.no_grad():  # a new DCNv3 prefers no point, so that nothing reaches the layers before its offsets
            for name, parameter in network.named_parameters():
                if ".offset." in name or ".mask." in name or ".center_scale." in name:
                    parameter.normal_(generator=torch.Generator().manual_seed(0), std=0.1)
        network(noise(2, 3, 64, 64)).square().mean().backward()
        missing = [name for name, parameter in network.named_parameters() if parameter.grad is None]
        assert missing == []
