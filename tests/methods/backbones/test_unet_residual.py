"""The practical default: its shapes, and the two shortcuts that its docstring claims."""

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


@pytest.mark.parametrize("name", VARIANTS)
def test_maps_have_the_size_of_the_image(name: str) -> None:
    network = build(VARIANTS[name]).eval()
    stride = network.multiple
    with torch.inference_mode():
        assert network(noise(2, 3, 2 * stride, 3 * stride)).shape == (2, 2, 2 * stride, 3 * stride)
    assert stride == 2 ** len(VARIANTS[name].widths)


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
