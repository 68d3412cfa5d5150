"""A folded network is the same function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from abbe.methods.backbones.unet_residual import VARIANTS, build
from abbe.nn.fold import fold_batch_norm


def test_the_residual_u_net_folds_wholly_and_stays_the_same(randomised: Callable[..., Any]) -> None:
    network = randomised(build(VARIANTS["unet_residual_tiny"])).double()
    x = torch.randn(1, 3, 16, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(x)
        found = fold_batch_norm(network)(x)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_volumes_and_nested_parts_fold(randomised: Callable[..., Any]) -> None:
    inner = nn.Sequential(nn.Conv3d(2, 3, 3), nn.BatchNorm3d(3), nn.ReLU())
    network = randomised(nn.ModuleDict({"part": nn.Sequential(inner, nn.Conv3d(3, 1, 1))})).double()
    x = torch.randn(1, 2, 4, 5, 6, dtype=torch.float64)
    expected = network["part"](x)
    fold_batch_norm(network)
    assert isinstance(network["part"][0][1], nn.Identity)
    torch.testing.assert_close(network["part"](x), expected, rtol=1e-12, atol=1e-12)


def test_what_does_not_stand_side_by_side_is_kept() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1), nn.ReLU(), nn.BatchNorm2d(1))
    fold_batch_norm(network)
    assert [type(module) for module in network] == [nn.BatchNorm2d, nn.Conv2d, nn.ReLU, nn.BatchNorm2d]
