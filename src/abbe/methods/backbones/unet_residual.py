"""A residual U-Net: the practical default of this package for dense maps.

Not one paper but three that fit together: the U-shape of Ronneberger et al. 2015 (arXiv:1505.04597), the residual
blocks of He et al. 2015 (arXiv:1512.03385) with batch normalisation (arXiv:1502.03167), and the sub-pixel layer of
Shi et al. 2016 (arXiv:1609.05158) at both ends, so that only a narrow block runs at full resolution::

    image (C, Y, X) -- 3x3 (d, Y, X) ------------------------------------- + -> block, 1x1 head, maps (K, Y, X)
      | fold 2x2 pixels into channels                                      | unfold
    stem (w0, Y/2, X/2) -> blocks ------------- 1x1 ------------- + -> block, 1x1
      | stride 2                                                  | upsampled
    blocks (w1, Y/4, X/4) --------------------- 1x1 ------ + -> block, 1x1
      |  ...                                               |  ...
    blocks (w3, Y/16, X/16) ---------------------- 1x1, upsampled

Against the 2015 network: padded convolutions, so that maps and image have one size; strides instead of max pooling;
and "concatenate, then 1x1 convolution" is computed as the sum of two 1x1 convolutions, the coarse one before its
upsampling, which is the same linear map at a quarter of the cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class UNetResidualConfig:
    """Sizes of a residual U-Net."""

    in_channels: int = 3
    """Channels of the image."""
    out_channels: int = 2
    """Maps to predict."""
    widths: tuple[int, ...] = (48, 80, 128, 192)
    """Channels at each level, finest first; one stride of 2 between two levels."""
    blocks: tuple[int, ...] = (1, 2, 2, 1)
    """Residual blocks on the way down, per level; the way up has one per level."""
    detail: int = 16
    """Channels at full resolution."""


class UNetResidual(nn.Module):
    """Image in, maps of the same size out.

    Parameters
    ----------
    in_channels, out_channels
        Channels of the image and maps to predict.
    widths, blocks
        Channels and residual blocks per level, finest first.
    detail
        Channels at full resolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, widths: tuple[int, ...], blocks: tuple[int, ...], detail: int
    ):
        super().__init__()
        self.in_channels = in_channels
        self.multiple = 2 ** len(widths)
        self.stem = conv_norm(4 * in_channels, widths[0], relu=True)
        self.down = nn.ModuleList(
            level(widths[max(i - 1, 0)], width, number, stride=1 if i == 0 else 2)
            for i, (width, number) in enumerate(zip(widths, blocks, strict=True))
        )
        self.up = nn.ModuleList(Fuse(fine, coarse) for fine, coarse in pairwise(widths))
        self.detail = nn.Conv2d(in_channels, detail, 3, padding=1)
        self.rise = nn.Conv2d(widths[0], 4 * detail, 1)
        self.block = ResidualBlock(detail, detail)
        self.head = nn.Conv2d(detail, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute maps (B, K, Y, X) of images (B, C, Y, X) whose extents are multiples of ``multiple``."""
        self._check(x)
        image = x
        x = self.stem(F.pixel_unshuffle(x, 2))  # (B, w0, Y/2, X/2)
        skips = []
        for blocks in self.down:
            x = blocks(x)  # (B, wi, Y/2^(i+1), X/2^(i+1))
            skips.append(x)
        for fuse, skip in zip(reversed(self.up), reversed(skips[:-1]), strict=True):
            x = fuse(skip, x)  # (B, wi, Y/2^(i+1), X/2^(i+1))
        x = self.detail(image) + F.pixel_shuffle(self.rise(x), 2)  # (B, d, Y, X)
        return self.head(self.block(x))  # (B, K, Y, X)

    def _check(self, x: torch.Tensor) -> None:
        if any(extent % self.multiple for extent in x.shape[-2:]):
            raise ValueError(f"extents {tuple(x.shape[-2:])} are not multiples of {self.multiple}")


class Fuse(nn.Module):
    """One step up: the coarse level's features join the fine level's."""

    def __init__(self, fine: int, coarse: int):
        super().__init__()
        self.skip = nn.Conv2d(fine, fine, 1, bias=False)
        self.rise = nn.Conv2d(coarse, fine, 1)
        self.block = ResidualBlock(fine, fine)

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        """Join (B, F, Y, X) and (B, G, Y/2, X/2) to (B, F, Y, X)."""
        risen = F.interpolate(self.rise(coarse), scale_factor=2.0, mode="nearest")
        return self.block(self.skip(fine).add_(risen))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the shortcut is a 1x1 convolution where the shape changes."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(in_channels, out_channels, stride=stride, relu=True),
            conv_norm(out_channels, out_channels),
        )
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else conv_norm(in_channels, out_channels, kernel=1, stride=stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, Y, X) to (B, D, Y/stride, X/stride)."""
        return F.relu(self.body(x).add_(self.shortcut(x)), inplace=True)


def level(in_channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    """All residual blocks of one level on the way down; the first one changes the size."""
    first = ResidualBlock(in_channels, width, stride)
    return nn.Sequential(first, *(ResidualBlock(width, width) for _ in range(blocks - 1)))


def conv_norm(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, relu: bool = False
) -> nn.Sequential:
    """Convolution and batch normalisation side by side, so that inference can fold them into one."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    layers = [conv, nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


VARIANTS = {
    "unet_residual": UNetResidualConfig(),
    "unet_residual_large": UNetResidualConfig(widths=(64, 128, 256, 384), blocks=(1, 2, 2, 2), detail=32),
    "unet_residual_tiny": UNetResidualConfig(widths=(8, 8), blocks=(1, 1), detail=4),
}


def build(config: UNetResidualConfig) -> UNetResidual:
    """Build the network of a config."""
    return UNetResidual(config.in_channels, config.out_channels, config.widths, config.blocks, config.detail)
