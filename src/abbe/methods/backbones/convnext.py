"""ConvNeXt: a convolutional network with the proportions of a vision transformer.

Liu, Mao, Wu, Feichtenhofer, Darrell, Xie, "A ConvNet for the 2020s", CVPR 2022, arXiv:2201.03545. A ResNet brought step
by step to what the Swin transformer does: patches for a stem, blocks that mix space (depthwise 7x7) and channels (two
linear layers, four times as wide inside) apart, one normalisation and one activation in each::

    image (C, Y, X) -- 4x4 /4, norm --> (D, Y/4, X/4) -- stages, norm and 2x2 /2 between --> (8D, Y/32, X/32)
                                                                              mean, norm, linear, logits (K)
    a block   x ----------------------------------------------------------------------- +
                \\-- depthwise 7x7, norm, linear (4D), GELU, linear (D), layer scale γ ---/

Every norm is over the channels of one pixel (layer normalisation). Layer scale (Touvron et al. 2021, arXiv:2103.17239)
begins near zero, so that a fresh block is almost its shortcut; drop path leaves blocks out while training, later ones
more often. The networks for 22,000 classes are these with ``num_classes=21841``.

Against the paper: nothing. The drop path of the table is that of ImageNet-1k from scratch; XLarge, which was trained on
22,000 classes only, has that of this training.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from abbe.nn.drop_path import DropPath, ramp

EPSILON = 1e-6
"""Of every normalisation."""


@dataclass(frozen=True)
class ConvNeXtConfig:
    """Sizes of a ConvNeXt."""

    in_channels: int = 3
    """Channels of the image."""
    num_classes: int = 1000
    """Classes; 0 for the features before the last layer."""
    depths: tuple[int, ...] = (3, 3, 9, 3)
    """Blocks of each stage."""
    widths: tuple[int, ...] = (96, 192, 384, 768)
    """Channels of each stage."""
    drop_path: float = 0.0
    """How often the last block is left out while training; rises evenly from 0 at the first."""
    layer_scale: float = 1e-6
    """What γ begins with; 0 for blocks without it."""


class ConvNeXt(nn.Module):
    """Stages of blocks at a quarter to a thirty-second of the image, their mean into a linear layer.

    Parameters
    ----------
    config
        All that decides its sizes.
    """

    def __init__(self, config: ConvNeXtConfig):
        super().__init__()
        widths, rates = config.widths, iter(ramp(config.drop_path, sum(config.depths)))
        self.stem = nn.Sequential(nn.Conv2d(config.in_channels, widths[0], 4, 4), ChannelNorm(widths[0]))
        self.downsamples = nn.ModuleList(
            nn.Sequential(ChannelNorm(fine), nn.Conv2d(fine, coarse, 2, 2)) for fine, coarse in pairwise(widths)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width, next(rates), config.layer_scale) for _ in range(depth)))
            for depth, width in zip(config.depths, widths, strict=True)
        )
        self.norm = nn.LayerNorm(widths[-1], EPSILON)
        self.head = nn.Linear(widths[-1], config.num_classes) if config.num_classes else nn.Identity()
        self.widths = tuple(widths)
        self.strides = tuple(4 * 2**i for i in range(len(widths)))
        self.apply(initialise)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, K) of images (B, C, Y, X); with no classes, features (B, D)."""
        return self.head(self.norm(self.pyramid(x)[-1].mean((-2, -1))))

    def pyramid(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Compute what each stage gives, (B, width, Y / stride, X / stride), rounded down; not normalised.

        Raises
        ------
        ValueError
            Where the image is smaller than the last stride.
        """
        if min(x.shape[-2:]) < self.strides[-1]:
            raise ValueError(f"extents {tuple(x.shape[-2:])} are below the last stage's stride of {self.strides[-1]}")
        features: list[torch.Tensor] = []
        for down, stage in zip([self.stem, *self.downsamples], self.stages, strict=True):
            x = stage(down(x))
            features.append(x)
        return features


class Block(nn.Module):
    """Mix the neighbourhood, then the channels, and add what came in."""

    def __init__(self, width: int, drop_path: float, layer_scale: float):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, EPSILON)
        self.expand = nn.Linear(width, 4 * width)
        self.reduce = nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), layer_scale)) if layer_scale else None
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, D, Y, X) to the same shape."""
        y = self.depthwise(x).permute(0, 2, 3, 1)  # (B, Y, X, D)
        y = self.drop_path(self.reduce(F.gelu(self.expand(self.norm(y)))))
        x = x.permute(0, 2, 3, 1)
        x = x + y if self.gamma is None else torch.addcmul(x, y, self.gamma)  # in one pass
        return x.permute(0, 3, 1, 2)  # (B, D, Y, X)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel of (B, C, Y, X)."""

    def __init__(self, width: int):
        super().__init__(width, EPSILON)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise; the result lies in memory with its channels last, as what comes next wants it."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def initialise(module: nn.Module) -> None:
    """Draw weights from a truncated normal distribution of deviation 0.02, as transformers do; biases are zero."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        assert module.bias is not None
        nn.init.zeros_(module.bias)


VARIANTS = {
    "convnext_tiny": ConvNeXtConfig(drop_path=0.1),
    "convnext_small": ConvNeXtConfig(depths=(3, 3, 27, 3), drop_path=0.4),
    "convnext_base": ConvNeXtConfig(depths=(3, 3, 27, 3), widths=(128, 256, 512, 1024), drop_path=0.5),
    "convnext_large": ConvNeXtConfig(depths=(3, 3, 27, 3), widths=(192, 384, 768, 1536), drop_path=0.5),
    "convnext_xlarge": ConvNeXtConfig(depths=(3, 3, 27, 3), widths=(256, 512, 1024, 2048), drop_path=0.2),
    "convnext_test_tiny": ConvNeXtConfig(num_classes=3, depths=(1, 1, 2, 1), widths=(4, 6, 8, 10), drop_path=0.1),
}


def build(config: ConvNeXtConfig) -> ConvNeXt:
    """Build the network of a config."""
    return ConvNeXt(config)
