"""The halo is what the network's layers say, counted by hand, and not a pixel less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from abbe.methods.backbones.unet import UNet, UNetConfig
from abbe.methods.backbones.unet_residual import UNetResidual
from abbe.methods.segmentation.instances import InstanceSegmentation
from abbe.nn.receptive_field import receptive_halo


def conv(kernel: int = 3, *, dilation: int = 1, stride: int = 1, channels: tuple[int, int] = (1, 1)) -> nn.Conv2d:
    return nn.Conv2d(*channels, kernel, stride, dilation * (kernel // 2), dilation)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_one_convolution(kernel: int) -> None:
    assert receptive_halo(conv(kernel), 1, (1, 1)) == (kernel // 2,) * 2


@pytest.mark.parametrize("number", [2, 5, 20])
def test_stacked_convolutions_add_up(number: int) -> None:
    assert receptive_halo(nn.Sequential(*(conv() for _ in range(number))), 1, (1, 1)) == (number, number)


def test_dilation_widens() -> None:
    assert receptive_halo(nn.Sequential(conv(dilation=4), conv(5, dilation=3)), 1, (1, 1)) == (10, 10)


def test_axes_are_apart() -> None:
    assert receptive_halo(nn.Conv2d(2, 3, (1, 5), padding=(0, 2)), 2, (1, 1)) == (0, 2)
    assert receptive_halo(nn.Conv3d(1, 1, (3, 1, 5), padding=(1, 0, 2)), 1, (1, 1, 1)) == (1, 0, 2)


def test_pooling_keeps_to_its_own_pixels() -> None:
    assert receptive_halo(nn.Sequential(nn.MaxPool2d(4), nn.Upsample(scale_factor=4)), 1, (4, 4)) == (0, 0)


def test_a_strided_convolution_and_back() -> None:
    """Coarse pixel c sees 2c-1 to 2c+1: the two outputs before the seam see nothing behind it, the two after it do."""
    assert receptive_halo(nn.Sequential(conv(stride=2), nn.Upsample(scale_factor=2)), 1, (2, 2)) == (2, 2)


def test_a_level_of_a_pyramid_rounds_up_to_the_stride() -> None:
    """1 px, pooled to 1 coarse px, 1 more, 4 px on the fine grid, 1 more: 5, which is 6 in multiples of 2."""
    layers = (conv(), nn.MaxPool2d(2), conv(), nn.Upsample(scale_factor=2), conv())
    assert receptive_halo(nn.Sequential(*layers), 1, (2, 2)) == (6, 6)


def test_a_network_that_looks_at_the_whole_has_no_halo() -> None:
    class Global(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x.mean(dim=(2, 3), keepdim=True)

    assert receptive_halo(Global(), 1, (1, 1)) is None


def test_a_reach_beyond_the_first_probe_is_found() -> None:
    assert receptive_halo(conv(3, dilation=100), 1, (1, 1)) == (100, 100)


def test_the_network_is_left_alone() -> None:
    network = nn.Sequential(conv(), nn.BatchNorm2d(1)).train()
    receptive_halo(network, 1, (1, 1))
    assert network.training
    assert network[0].weight.dtype == torch.float32
    assert network[1].num_batches_tracked == 0


def test_probing_agrees_with_the_formula_of_the_padded_u_net() -> None:
    """The formula is exact, 22; probing rounds it up to the stride."""
    network = UNet(UNetConfig(width=1, depth=2, dropout=0.0, padding="same"))
    assert network.geometry.halo == (22, 22)
    assert receptive_halo(network, 1, (4, 4)) == (24, 24)


@pytest.mark.parametrize(("widths", "blocks"), [((8, 8), (1, 1)), ((4, 4, 4, 4), (1, 1, 2, 1))])
def test_the_halo_of_the_residual_u_net_is_tight(
    randomised: Callable[..., Any], widths: tuple[int, ...], blocks: tuple[int, ...]
) -> None:
    """What lies beyond it changes nothing; what lies a step inside it changes something."""
    method = InstanceSegmentation(randomised(UNetResidual(1, 2, widths, blocks, 4))).double()
    assert method.geometry.halo is not None
    (halo, _), (stride, _) = method.geometry.halo, method.geometry.multiple
    seam = (halo // stride + 1) * stride
    x = torch.randn(1, 1, stride, 2 * seam, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    left, right = x.clone(), x.clone()
    left[..., :seam] += 100
    right[..., seam:] += 100
    with torch.inference_mode():
        expected, after, before = (method(image) for image in (x, left, right))
    changed_after = (after != expected).any(dim=(0, 1, 2)).nonzero().max() - seam + 1
    changed_before = seam - (before != expected).any(dim=(0, 1, 2)).nonzero().min()
    assert halo - stride < max(changed_after, changed_before) <= halo
