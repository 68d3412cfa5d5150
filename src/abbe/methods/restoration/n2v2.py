"""N2V2: Noise2Void without its checkerboards.

Höck, Buchholz, Brachmann, Jug, Freytag, "N2V2 - Fixing Noise2Void Checkerboard Artifacts with Modified Sampling
Strategies and a Tweaked Network Architecture", ECCV Workshops 2022, arXiv:2211.08512. A network trained at single
pixels leaves a pattern of the size of its pooling. Four changes to Noise2Void (:mod:`.noise2void`) take it away:
pooling that is blurred before pixels are skipped (Zhang 2019, arXiv:1904.11486), no connection across the top of the U,
so that no noise comes to the output unaveraged, the image itself as the target and not what is to be added to it, and
the median of its neighbours as the value of a hidden pixel, the pixel itself left out::

    image -- 2 conv w                                                        2 conv w -- 1x1 --> restored
                 \\ max, blur /2 -- 2 conv 2w -------- concat -- conv 2w, w -- nearest /
                                        \\ max, blur /2 -- conv 4w, 2w -- nearest /

Maxima are taken of every pixel and the one after it, and blurred with (1, 2, 1) along each axis, so that a coarse pixel
lies in the middle of those that it stands for (the authors' library pads at the end alone, so that it lies one pixel
further). At the border the last pixels are repeated (there: zeros). Other hidden pixels are left out of the median, for
the reason that :mod:`.noise2void` gives. Stacks are ours; the library has planes only.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from abbe.errors import AbbeError
from abbe.methods.restoration.noise2void import (
    LAYERS,
    Blinded,
    ChannelByChannel,
    Neighbours,
    Noise2Void,
    box_sides,
    check_extents,
    check_options,
    double_convolution,
    initialise,
    marked,
    neighbours,
    replace_at,
    stratified_places,
)


@dataclass(frozen=True)
class N2V2Config:
    """Sizes of a network."""

    in_channels: int = 1
    """Channels of the image, and of what comes out."""
    base: int = 64
    """Channels of the first level; every level down doubles them."""
    depth: int = 2
    """Times the resolution is lowered."""
    kernel: int = 3
    """Extent of the convolutions."""
    pool: tuple[int, ...] = (2, 2)
    """Pixels that a level down joins along each axis, 1 or 2: (Y, X) for planes, (Z, Y, X) for stacks."""
    separate_channels: bool = True
    """A network of its own for every channel, as if they were images of their own."""


class N2V2UNet(nn.Module):
    """The tweaked U-Net of Section 3.1: noisy image in, restored image of the same size out.

    Parameters
    ----------
    config
        See :class:`N2V2Config`; all of its channels are seen together here.
    """

    def __init__(self, config: N2V2Config):
        super().__init__()
        self.in_channels = config.in_channels
        self.multiple = tuple(joined**config.depth for joined in config.pool)
        axes, base, kernel = len(config.pool), config.base, config.kernel
        *widths, widest = (base * 2**level for level in range(config.depth + 1))
        self.contracting = nn.ModuleList(
            double_convolution(axes, kernel, fan, width, width)
            for fan, width in zip([config.in_channels, *widths], widths)
        )
        self.pool = MaxBlurPool(config.pool)
        self.middle = double_convolution(axes, kernel, widths[-1], widest, widths[-1])
        self.upsample = nn.Upsample(scale_factor=tuple(map(float, config.pool)), mode="nearest")
        self.expanding = nn.ModuleList(
            double_convolution(axes, kernel, 2 * width, width, out) for width, out in zip(widths[:0:-1], widths[-2::-1])
        )
        self.top = double_convolution(axes, kernel, base, base, base)
        self.head = LAYERS[axes][0](base, config.in_channels, 1)
        self.apply(initialise)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Restore images (B, C, [Z,] Y, X) whose extents are multiples of ``multiple``."""
        check_extents(x, self.multiple)
        skips = []
        for convolutions in self.contracting:
            x = convolutions(x)  # (B, w 2^level, Y / 2^level, X / 2^level)
            skips.append(x)
            x = self.pool(x)
        x = self.middle(x)
        for convolutions, skip in zip(self.expanding, skips[:0:-1], strict=True):
            x = convolutions(torch.cat([self.upsample(x), skip], dim=1))
        return self.head(self.top(self.upsample(x)))  # (B, C, Y, X)


class MaxBlurPool(nn.Module):
    """Maxima of neighbours, blurred, and every second one of those.

    Parameters
    ----------
    pool
        2 along axes that are halved, 1 along others.
    """

    weight: torch.Tensor

    def __init__(self, pool: tuple[int, ...]):
        super().__init__()
        if not set(pool) <= {1, 2}:
            raise AbbeError(f"network.pool: {pool}; expected 1 or 2 along each axis, for blurred maxima are of pairs")
        self.pool = pool
        along = [torch.tensor([1.0, 2.0, 1.0]) / 4 if joined == 2 else torch.ones(1) for joined in pool]
        weight = reduce(lambda a, b: a[..., None] * b, along)
        self.register_buffer("weight", weight[None, None], persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, ...) to (B, C, ... / pool)."""
        axes, channels = len(self.pool), x.shape[1]
        pad = [margin for joined in reversed(self.pool) for margin in (joined - 1,) * 2]
        maximum, convolve = (F.max_pool2d, F.conv2d) if axes == 2 else (F.max_pool3d, F.conv3d)
        x = maximum(F.pad(x, pad, mode="replicate"), self.pool, stride=1)
        return convolve(x, self.weight.expand(channels, 1, *[-1] * axes), stride=self.pool, groups=channels)


# ------------------------------------------------------------------------------------------------- blind spots


def blind_by_median(image: np.ndarray, share: float, radius: int, generator: np.random.Generator) -> Blinded:
    """Replace one pixel in every box by the median of the others of its window.

    Parameters
    ----------
    image
        (C, [Z,] Y, X); every channel has boxes of its own.
    share
        Part of the pixels to hide.
    radius
        Windows reach so many pixels to each side.
    generator
        Of the places.
    """
    places = stratified_places(image.shape, box_sides(image.shape, share), generator)
    around = neighbours(image, places, radius, marked(image.shape, places))
    return replace_at(image, places, median(around), around)


def median(around: Neighbours) -> np.ndarray:
    """Find the median of the allowed values of every place, (N); of two in the middle the mean."""
    ordered = np.sort(np.where(around.allowed, around.values, np.inf), axis=1)
    number, rows = around.allowed.sum(axis=1), np.arange(len(ordered))
    return (ordered[rows, (number - 1) // 2] + ordered[rows, number // 2]) / 2


# --------------------------------------------------------------------------------------------------- objective


@dataclass(frozen=True)
class N2V2Options:
    """What is hidden, and the loss."""

    share: float = 0.00198
    """Part of the pixels that are hidden in a patch: 8 of 64 x 64."""
    radius: int = 2
    """Pixels to each side of a hidden one that its median is taken of."""
    loss: Literal["mse", "mae"] = "mse"
    """Mean of squared or of absolute errors at the hidden pixels."""

    def __post_init__(self) -> None:
        check_options(self.share, self.radius)


class N2V2(Noise2Void):
    """The objective of Noise2Void with medians at the hidden pixels."""

    options: N2V2Options

    def __init__(self, network: nn.Module, options: N2V2Options | None = None):
        super().__init__(network, options or N2V2Options())

    def hide(self, image: np.ndarray, generator: np.random.Generator) -> Blinded:
        """Hide pixels of a patch (C, [Z,] Y, X) behind medians."""
        return blind_by_median(image, self.options.share, self.options.radius, generator)


VARIANTS = {
    "n2v2": N2V2Config(),
    "n2v2_small": N2V2Config(base=32),
    "n2v2_3d": N2V2Config(base=32, pool=(2, 2, 2)),
    "n2v2_tiny": N2V2Config(base=8),
}


def build(config: N2V2Config) -> nn.Module:
    """Build the network of a config; several channels get one each unless they are to be seen together."""
    if config.separate_channels and config.in_channels > 1:
        single = dataclasses.replace(config, in_channels=1)
        return ChannelByChannel([N2V2UNet(single) for _ in range(config.in_channels)])
    return N2V2UNet(config)
