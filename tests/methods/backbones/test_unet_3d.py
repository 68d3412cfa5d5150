"""The 3-D U-Net of 2016: the paper's count of parameters, and its forward computed another way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from abbe.methods.backbones.unet_3d import VARIANTS, UNet3D, UNet3DConfig, build
from abbe.methods.segmentation.instances import InstanceSegmentation


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_paper_has_so_many_parameters() -> None:
    """Section 2 of the paper says 19,069,955 with three channels and classes.

    That counts one number per channel of each convolution; batch normalisation has two in its place.
    """
    network = build(replace(VARIANTS["unet_3d"], in_channels=3, out_channels=3))
    norms = sum(m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm3d))
    assert sum(p.numel() for p in network.parameters()) - norms == 19_069_955


@pytest.mark.parametrize("levels", [(1, 2, 2), (2, 2, 2), (0, 1, 1)])
def test_forward_and_gradient_equal_independent_ones(
    randomised: Callable[..., Any], assert_same: Callable[..., None], levels: tuple[int, int, int]
) -> None:
    network = randomised(build(UNet3DConfig(in_channels=2, out_channels=3, width=3, levels=levels)))
    state = network.state_dict()
    assert_same(network, lambda x: independent(x, state, levels), noise(2, 2, *(3 * 2**n for n in levels)))


@pytest.mark.parametrize(("name", "extents"), [("unet_3d_small", (6, 20, 16)), ("unet_3d", (8, 16, 24))])
def test_published_sizes_equal_an_independent_one(
    name: str, extents: tuple[int, int, int], randomised: Callable[..., Any], assert_same: Callable[..., None]
) -> None:
    network = randomised(build(VARIANTS[name]))
    state, levels = network.state_dict(), VARIANTS[name].levels
    assert_same(network, lambda x: independent(x, state, levels), noise(1, 1, *extents))


def independent(x: torch.Tensor, w: dict[str, torch.Tensor], levels: tuple[int, ...]) -> torch.Tensor:
    """Write the network once more, recursively, from the tensors alone."""
    depth = max(levels)

    def twice(x: torch.Tensor, name: str) -> torch.Tensor:
        for conv, norm in ((0, 1), (3, 4)):
            kernel = w[f"{name}.{conv}.weight"]
            x = F.conv3d(x, kernel, padding=[n // 2 for n in kernel.shape[2:]])
            gain, shift, mean, var = (
                w[f"{name}.{norm}.{part}"].view(1, -1, 1, 1, 1)
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            x = ((x - mean) / (var + 1e-5).sqrt() * gain + shift).relu()
        return x

    def from_level(x: torch.Tensor, level: int) -> torch.Tensor:
        x = twice(x, f"contracting.{level}")
        if level == depth:
            return x
        pool = [2 if level >= depth - n else 1 for n in levels]
        below = from_level(F.max_pool3d(x, pool), level + 1)
        step = depth - 1 - level
        risen = F.conv_transpose3d(below, w[f"up_convolutions.{step}.weight"], stride=pool)
        return twice(torch.cat([x, risen], 1), f"expanding.{step}")

    return F.conv3d(from_level(x, 0), w["head.weight"], w["head.bias"])


def test_axes_with_fewer_levels_are_left_alone_at_first() -> None:
    config = VARIANTS["unet_3d_small"]
    assert config.kernels == [(1, 3, 3), (3, 3, 3), (3, 3, 3)]
    assert config.pools == [(1, 2, 2), (2, 2, 2)]
    assert build(config).multiple == (2, 4, 4)
    with pytest.raises(ValueError, match=r"extents \(3, 8, 8\) are not multiples of \(2, 4, 4\)"):
        build(VARIANTS["unet_3d_tiny"])(noise(1, 1, 3, 8, 8))


def test_layout_and_compiler_change_nothing(randomised: Callable[..., Any]) -> None:
    network, x = randomised(build(VARIANTS["unet_3d_tiny"])), noise(2, 1, 4, 8, 12)
    expected = network(x)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)
    network = network.to(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)


def test_channels_double_before_each_pooling() -> None:
    network = UNet3D(UNet3DConfig(width=4, levels=(2, 2, 2)))
    widths = [[m.out_channels for m in level if isinstance(m, nn.Conv3d)] for level in network.contracting]  # type: ignore[union-attr,attr-defined]
    assert widths == [[4, 8], [8, 16], [16, 32]]


def test_the_objective_knows_its_context(randomised: Callable[..., Any]) -> None:
    """What lies farther away than the halo changes nothing, and what lies a stride nearer does."""
    method = InstanceSegmentation(randomised(build(VARIANTS["unet_3d_tiny"])).double())
    geometry = method.geometry
    assert geometry.multiple == (2, 4, 4)
    assert geometry.remainder == (0, 0, 0)
    assert geometry.halo is not None
    for axis, halo in enumerate(geometry.halo):
        shape = [4 * halo if a == axis else multiple for a, multiple in enumerate(geometry.multiple)]
        x = noise(1, 1, *shape).double()
        far = x.clone()
        far.narrow(axis + 2, 0, halo).add_(1)
        with torch.inference_mode():
            change = (method(far) - method(x)).abs().amax(dim=[a for a in range(5) if a != axis + 2])
        assert change[2 * halo :].max() == 0
        assert change[: 2 * halo - geometry.multiple[axis]].max() > 0
