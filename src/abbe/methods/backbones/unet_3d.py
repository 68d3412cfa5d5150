"""3D U-Net: Learning Dense Volumetric Segmentation from Sparse Annotation.

Özgün Çiçek, Ahmed Abdulkadir, Soeren S. Lienkamp, Thomas Brox and Olaf Ronneberger, MICCAI 2016, arXiv:1606.06650.

The idea: the U-Net with all operations in three dimensions, so that a stack is segmented as the solid that it is and
not plane by plane. Against the network of 2015, channels double before each pooling instead of after it, which leaves
no bottleneck, and batch normalisation comes before every ReLU::

    volume (C, Z, Y, X) ── conv w ── conv 2w ──────────────────────────── concat ── conv 2w ── conv 2w ── 1×1×1 ── maps
                                       └ pool ── conv 2w ── conv 4w ─ ...   └ up-conv 4w ─┘
                                                              └ pool ── ... ── up-conv 8w

    levels (1, 2, 2):        0        1        2
    kernels                1×3×3    3×3×3    3×3×3
    pooling below          1×2×2    2×2×2      –

What differs from the paper: convolutions are padded, so that maps and volume have one size; axes may have fewer levels
than others, and are left alone at the first ones, kernels included, where planes lie farther apart than pixels (Falk et
al. 2019, doi:10.1038/s41592-018-0261-2); the maps are whatever the objective around the network wants, in place of the
softmax over classes with weight 0 for voxels that nobody annotated. ``unet_3d`` has the paper's widths and depth, 19
million parameters; ``unet_3d_small`` a quarter of the widths and a level less, for a laptop.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

Extents = tuple[int, int, int]


@dataclass(frozen=True)
class UNet3DConfig:
    """Sizes of a 3-D U-Net."""

    in_channels: int = 1
    """Channels of the volume."""
    out_channels: int = 2
    """Maps to predict."""
    width: int = 32
    """Channels of the first convolution; the second of each level doubles them."""
    levels: tuple[int, int, int] = (3, 3, 3)
    """Times the resolution is halved along Z, Y and X; axes with fewer are left alone at first."""

    @property
    def kernels(self) -> list[Extents]:
        """Extents of the convolutions of each level, finest first."""
        depth = max(self.levels)
        return [self._where_halved(level, 3) for level in range(depth + 1)]

    @property
    def pools(self) -> list[Extents]:
        """Extents of the pooling below each level but the last."""
        depth = max(self.levels)
        return [self._where_halved(level, 2) for level in range(depth)]

    def _where_halved(self, level: int, extent: int) -> Extents:
        """``extent`` along the axes that have come into play at a level, 1 along the others."""
        z, y, x = (extent if level >= max(self.levels) - n else 1 for n in self.levels)
        return z, y, x


class UNet3D(nn.Module):
    """The network: (B, in_channels, Z, Y, X) to maps (B, out_channels, Z, Y, X); extents are of ``multiple``."""

    def __init__(self, config: UNet3DConfig):
        super().__init__()
        self.config = config
        self.in_channels = config.in_channels
        self.multiple = tuple(2**n for n in config.levels)
        widths = [config.width * 2**level for level in range(max(config.levels) + 1)]
        fans = [config.in_channels, *(2 * width for width in widths)]
        self.contracting = nn.ModuleList(
            double_convolution(fan, width, 2 * width, kernel)
            for fan, width, kernel in zip(fans, widths, config.kernels)
        )
        self.pools = nn.ModuleList([nn.Identity(), *(nn.MaxPool3d(extents) for extents in config.pools)])
        self.up_convolutions = nn.ModuleList(
            nn.ConvTranspose3d(4 * width, 4 * width, extents, extents, bias=False)
            for width, extents in zip(widths[-2::-1], config.pools[::-1])
        )
        self.expanding = nn.ModuleList(
            double_convolution(6 * width, 2 * width, 2 * width, kernel)
            for width, kernel in zip(widths[-2::-1], config.kernels[-2::-1])
        )
        self.head = nn.Conv3d(2 * config.width, config.out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run both paths."""
        self._check(x)
        skips = []
        for pool, convolutions in zip(self.pools, self.contracting):
            x = convolutions(pool(x))  # (B, 2 w, Z, Y, X), halved level by level
            skips.append(x)
        for up_convolution, convolutions, skip in zip(self.up_convolutions, self.expanding, skips[-2::-1]):
            x = convolutions(torch.cat([skip, up_convolution(x)], dim=1))
        return self.head(x)

    def _check(self, x: torch.Tensor) -> None:
        if any(extent % multiple for extent, multiple in zip(x.shape[2:], self.multiple)):
            raise ValueError(f"extents {tuple(x.shape[2:])} are not multiples of {self.multiple}")


def double_convolution(in_channels: int, middle: int, out_channels: int, kernel: Extents) -> nn.Sequential:
    """Two padded convolutions, each followed by batch normalisation and ReLU."""
    return nn.Sequential(*convolution(in_channels, middle, kernel), *convolution(middle, out_channels, kernel))


def convolution(in_channels: int, out_channels: int, kernel: Extents) -> tuple[nn.Module, ...]:
    """Give convolution, normalisation and ReLU side by side, so that inference can fold the first two into one."""
    convolved = nn.Conv3d(in_channels, out_channels, kernel, padding="same", bias=False)
    return convolved, nn.BatchNorm3d(out_channels), nn.ReLU(inplace=True)


VARIANTS: dict[str, UNet3DConfig] = {
    "unet_3d": UNet3DConfig(),
    "unet_3d_small": UNet3DConfig(width=8, levels=(1, 2, 2)),
    "unet_3d_tiny": UNet3DConfig(width=2, levels=(1, 2, 2)),
}


def build(config: UNet3DConfig) -> UNet3D:
    """Build the network of a variant."""
    return UNet3D(config)
