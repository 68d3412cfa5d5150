"""The practical default: equal to its docstring written out, its shapes, and the shortcuts that it claims."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from abbe.methods.backbones.unet_residual import VARIANTS, Fuse, ResidualBlock, UNetResidual, build


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "extents"),
    [("unet_residual", (64, 96)), ("unet_residual_large", (48, 64)), ("unet_residual_tiny", (8, 12))],
)
def test_forward_and_gradient_are_those_of_the_description(
    name: str, extents: tuple[int, int], randomised: Callable[..., Any], assert_same: Callable[..., None]
) -> None:
    network = randomised(build(VARIANTS[name]))
    tensors, blocks = network.state_dict(), VARIANTS[name].blocks
    assert_same(network, lambda x: described(x, tensors, blocks), noise(1, 3, *extents))


def described(image: torch.Tensor, w: dict[str, torch.Tensor], blocks: tuple[int, ...]) -> torch.Tensor:
    """Compute the network as its drawing says: what is joined is concatenated, then convolved."""

    def normed(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        kernel = w[f"{name}.0.weight"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, var, gain, shift = (
            w[f"{name}.1.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * gain + shift

    def block(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        y = normed(normed(x, f"{name}.body.0", stride).clamp_min(0), f"{name}.body.1")
        return (y + (normed(x, f"{name}.shortcut", stride) if f"{name}.shortcut.0.weight" in w else x)).clamp_min(0)

    places = [(y, x) for y in (0, 1) for x in (0, 1)]
    x = torch.stack([image[..., y::2, x::2] for y, x in places], 2).flatten(1, 2)  # (B, 4 C, Y/2, X/2)
    x, skips = normed(x, "stem").clamp_min(0), []
    for level, number in enumerate(blocks):
        for i in range(number):
            x = block(x, f"down.{level}.{i}", stride=2 if level and not i else 1)
        skips.append(x)
    for level in range(len(blocks) - 2, -1, -1):
        larger = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
        kernel = torch.cat([w[f"up.{level}.skip.weight"], w[f"up.{level}.rise.weight"]], 1)
        x = F.conv2d(torch.cat([skips[level], larger], 1), kernel, w[f"up.{level}.rise.bias"])
        x = block(x, f"up.{level}.block")
    x = F.conv2d(x, w["rise.weight"], w["rise.bias"])
    fine = F.conv2d(image, w["detail.weight"], w["detail.bias"], padding=1)
    risen = torch.zeros_like(fine)
    for i, (row, column) in enumerate(places):
        risen[..., row::2, column::2] = x[:, i::4]
    return F.conv2d(block(fine + risen, "block"), w["head.weight"], w["head.bias"])


@pytest.mark.parametrize("name", VARIANTS)
def test_maps_have_the_size_of_the_image(name: str) -> None:
    network = build(VARIANTS[name]).eval()
    stride = network.multiple
    with torch.inference_mode():
        assert network(noise(2, 3, 2 * stride, 3 * stride)).shape == (2, 2, 2 * stride, 3 * stride)
    assert stride == 2 ** len(VARIANTS[name].widths)


def test_layout_and_compiler_change_nothing(randomised: Callable[..., Any]) -> None:
    network, x = randomised(build(VARIANTS["unet_residual_tiny"])), noise(2, 3, 16, 20)
    expected = network(x)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)
    network = network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


def test_other_extents_are_refused() -> None:
    with pytest.raises(ValueError, match=r"extents \(8, 10\) are not multiples of 4"):
        build(VARIANTS["unet_residual_tiny"])(noise(1, 3, 8, 10))


def test_the_sum_of_two_convolutions_is_the_convolution_of_the_concatenation(
    randomised: Callable[..., Any],
) -> None:
    """Joined the way of 2015: the coarse features upsampled, concatenated, then a 1x1 convolution."""
    fuse = randomised(Fuse(3, 5)).double()
    fine, coarse = noise(1, 3, 8, 6).double(), noise(1, 5, 4, 3, seed=1).double()
    together = torch.cat([fine, F.interpolate(coarse, scale_factor=2.0, mode="nearest")], dim=1)
    weight = torch.cat([fuse.skip.weight, fuse.rise.weight], dim=1)
    expected = fuse.block(F.conv2d(together, weight, fuse.rise.bias))
    torch.testing.assert_close(fuse(fine, coarse), expected, rtol=1e-12, atol=1e-12)


def test_a_block_whose_body_is_zero_is_its_shortcut() -> None:
    block = ResidualBlock(4, 4).eval()
    nn.init.zeros_(block.body[1][1].weight)
    x = noise(1, 4, 5, 5)
    assert torch.equal(block(x), F.relu(x))


def test_only_a_narrow_block_runs_at_full_resolution() -> None:
    config = VARIANTS["unet_residual_tiny"]
    network = build(config).eval()
    shapes = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[1:]))
    network(noise(1, 3, 16, 16))
    fine = [shape[0] for shape in shapes if shape[-1] == 16]
    assert fine == [config.detail] * 3 + [config.out_channels]
    assert {shape[-1] for shape in shapes} == {16, 8, 4}


def test_every_parameter_learns() -> None:
    network = UNetResidual(1, 2, (6, 6, 6), (1, 2, 1), 4).train()
    network(noise(2, 1, 16, 16)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in network.parameters())
