"""NAFNet: restoring images without nonlinear activation functions.

Chen, Chu, Zhang, Sun, "Simple Baselines for Image Restoration", ECCV 2022, arXiv:2204.04676. A U-shaped network whose
blocks have nothing but convolutions, layer normalisations and products: what GELU does, the product of two halves of
the channels does as well (SimpleGate), and channel attention needs neither ReLU nor sigmoid::

    image (C, Y, X) -- 3x3 (w) -- blocks -------------------------- + -- blocks -- 3x3 -- + -- restored (C, Y, X)
      |                              | 2x2 /2                       | 1x1, pixel shuffle  |
      |                           blocks (2w, Y/2, X/2) ------ + -- blocks                |
      |                              |  ...                    |  ...                     |
      |                              \\------ blocks (16w) ------/                         |
      \\-----------------------------------------------------------------------------------/

    a block   x --------------------------------------------------------------------- + --- + ---
              |-- norm, 1x1 (2w), depthwise 3x3, gate (w), times attention, 1x1, β ---|     |
                                           then |-- norm, 1x1 (2w), gate (w), 1x1, γ -------|

β and γ begin at zero, so that a fresh block is its shortcut. ``activations=True`` gives the paper's *baseline*, which
has GELU in place of the gates, and channel attention with a bottleneck, ReLU and sigmoid.

The attention weighs channels by their means over the whole image. A part of an image has other means, so without
more the network needs the whole (halo None). :meth:`NAFNet.localise` replaces them by means over windows of 1.5 times
the crops of the training (Chu et al., "Improving Image Restoration by Revisiting Global Information Aggregation", ECCV
2022, arXiv:2112.04491), which gives better images too: the paper's figures for GoPro and REDS are with it. Then a pixel
depends on a finite part of the image, though on thousands of pixels (:meth:`NAFNet.context`). Its influence falls off
so fast that two thirds of a window do as a halo: in tiles that hold more than their halos 99.9 per cent of the pixels
differ from the whole image's by less than 0.5 of 255 grey levels (``benchmarks/restoration.py seams``), where half a
window left 0.52 with random weights.

Against the paper: nothing in the network; what differs in the training is said by the recipes. Images whose extents are
not multiples of 2^levels get zeros below and on the right, as in the authors' code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, log

import torch
import torch.nn.functional as F
from torch import nn

from abbe.contract import Geometry
from abbe.methods.backbones.convnext import ChannelNorm
from abbe.nn.local_mean import local_mean, spread

WIDER = 1.5
"""Sides of the windows over those of the crops of the training."""


@dataclass(frozen=True)
class NAFNetConfig:
    """Sizes of a NAFNet."""

    in_channels: int = 3
    """Channels of the image, and of what comes out."""
    width: int = 32
    """Channels at full resolution; each level has twice those of the one before."""
    encoder: tuple[int, ...] = (2, 2, 4, 8)
    """Blocks at each level on the way down, finest first."""
    middle: int = 12
    """Blocks at the coarsest level."""
    decoder: tuple[int, ...] = (2, 2, 2, 2)
    """Blocks at each level on the way up, coarsest first."""
    activations: bool = False
    """True for the paper's baseline, which has them."""
    local: int | None = None
    """Side of the crops that it is trained on: means are then over windows; None for means over the whole image."""


class NAFNet(nn.Module):
    """Image in, restored image of the same size out.

    Parameters
    ----------
    config
        All that decides its sizes.
    """

    def __init__(self, config: NAFNetConfig):
        super().__init__()
        if len(config.encoder) != len(config.decoder):
            raise ValueError(f"{len(config.encoder)} levels down, but {len(config.decoder)} up")
        widths = [config.width * 2**level for level in range(len(config.encoder) + 1)]
        self.in_channels = config.in_channels
        self.multiple = 2 ** len(config.encoder)
        self.intro = nn.Conv2d(config.in_channels, config.width, 3, padding=1)
        self.encoders = nn.ModuleList(
            blocks(width, number, config.activations) for width, number in zip(widths, config.encoder)
        )
        self.downs = nn.ModuleList(nn.Conv2d(width, 2 * width, 2, 2) for width in widths[:-1])
        self.middle = blocks(widths[-1], config.middle, config.activations)
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, 2 * width, 1, bias=False), nn.PixelShuffle(2)) for width in widths[:0:-1]
        )
        self.decoders = nn.ModuleList(
            blocks(width, number, config.activations) for width, number in zip(widths[-2::-1], config.decoder)
        )
        self.ending = nn.Conv2d(config.width, config.in_channels, 3, padding=1)
        self.local: int | None = None
        self.localise(config.local)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Restore images (B, C, Y, X) of any extents."""
        height, width = x.shape[-2:]
        image = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))
        x = self.intro(image)  # (B, w, Y, X)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skips.append(encoder(x))
            x = down(skips[-1])  # (B, 2^i w, Y / 2^i, X / 2^i)
        x = self.middle(x)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            x = decoder(up(x) + skips.pop())
        return (self.ending(x) + image)[..., :height, :width]

    def localise(self, size: int | None) -> None:
        """Average over windows instead of the whole image, as it is for a network that was trained on crops.

        It changes no weights and may be called again. Images not larger than the window are averaged whole, so that it
        is of no effect while training.

        Parameters
        ----------
        size
            Pixels per side of the crops of the training; None for averages over the whole image.
        """
        self.local = size
        for level, part in self._parts():
            for module in part.modules():
                if isinstance(module, Attention):
                    module.window = None if size is None else self._window(size, level)

    @property
    def traceable(self) -> bool:
        """Whether what was recorded at some extents holds at others; sums over windows are laid out for theirs."""
        return self.local is None

    @property
    def geometry(self) -> Geometry:
        """Halo and multiple of tiles."""
        return Geometry(self.halo, (self.multiple,) * 2, (0, 0), exact=self.local is None)

    @property
    def halo(self) -> tuple[int, int] | None:
        """Two thirds of a window, see the head of this file; None where it needs the whole image."""
        if self.local is None:
            return None
        return (ceil(self._window(self.local, 0) * 2 / 3 / self.multiple) * self.multiple,) * 2

    def context(self) -> int | None:
        """Count the pixels on each side that a tile needs for *exactly* what the whole image gives.

        It is for tiles at multiples of ``multiple``, and itself one; None where it needs the whole image.
        """
        if self.local is None:
            return None
        reach, scale, widest = 1, 1, 0
        for level, part in reversed(self._parts()):
            window = self._window(self.local, level)
            reach = ceil(reach * scale / 2**level) + (1 + window // 2) * len(part)
            scale, widest = 2**level, max(widest, window * 2**level)
        at_the_border = ceil(widest / 2)  # there a window lies to one side of its pixel
        return ceil((reach * scale + 1 + at_the_border) / self.multiple) * self.multiple

    def _parts(self) -> list[tuple[int, nn.Sequential]]:
        """All blocks in the order of the forward pass, each with its level: 0 at full resolution."""
        down = [(level, part) for level, part in enumerate(self.encoders)]
        up = [(len(down) - 1 - i, part) for i, part in enumerate(self.decoders)]
        return [*down, (len(down), self.middle), *up]  # type: ignore[list-item]

    def _window(self, size: int, level: int) -> int:
        """Pixels per side at a level, of what a crop of this size becomes there, by the authors' rule."""
        return (ceil(size / self.multiple) * self.multiple >> level) * int(WIDER * size) // size


class Block(nn.Module):
    """Mix the neighbourhood under the channels' attention, then mix the channels; both beside a shortcut."""

    def __init__(self, width: int, activations: bool):
        super().__init__()
        inner = width if activations else 2 * width
        self.gate = nn.GELU() if activations else SimpleGate()
        self.norm1 = ChannelNorm(width)
        self.expand = nn.Conv2d(width, inner, 1)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.attention = Attention(width, activations)
        self.project = nn.Conv2d(width, width, 1)
        self.beta = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.norm2 = ChannelNorm(width)
        self.widen = nn.Conv2d(width, 2 * width, 1)
        self.narrow = nn.Conv2d(2 * width if activations else width, width, 1)
        self.gamma = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, D, Y, X) to the same shape."""
        y = self.gate(self.depthwise(self.expand(self.norm1(x))))
        x = torch.addcmul(x, self.project(self.attention(y)), self.beta)
        y = self.narrow(self.gate(self.widen(self.norm2(x))))
        return torch.addcmul(x, y, self.gamma)


class SimpleGate(nn.Module):
    """Multiply one half of the channels by the other."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, 2D, Y, X) to (B, D, Y, X)."""
        one, other = x.chunk(2, 1)
        return one * other


class Attention(nn.Module):
    """Weigh channels by what their means tell.

    Attributes
    ----------
    window : int or None
        Pixels per side of what the means are over; None for the whole image.
    """

    def __init__(self, width: int, activations: bool):
        super().__init__()
        self.window: int | None = None
        layers: list[nn.Module] = [nn.Conv2d(width, width, 1)]
        if activations:
            layers = [nn.Conv2d(width, width // 2, 1), nn.ReLU(), nn.Conv2d(width // 2, width, 1), nn.Sigmoid()]
        self.weigh = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, D, Y, X) to the same shape."""
        weights = self.weigh(local_mean(x, self.window))
        return x * spread(weights, (x.shape[-2], x.shape[-1]))


def blocks(width: int, number: int, activations: bool) -> nn.Sequential:
    """Give the blocks of one level."""
    return nn.Sequential(*(Block(width, activations) for _ in range(number)))


def psnr_loss(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Compute minus the peak signal-to-noise ratio of images (B, ...) in 0 to 1, in decibels, mean over the batch.

    It is 10 / ln 10 · ln(mean squared error + 1e-8), each image with an error of its own: -80 where nothing is wrong.
    """
    error = (restored - clean).square().flatten(1).mean(1)
    return 10 / log(10) * (error + 1e-8).log().mean()


_GOPRO = NAFNetConfig(encoder=(1, 1, 1, 28), middle=1, decoder=(1, 1, 1, 1))

VARIANTS = {
    "nafnet_width32": NAFNetConfig(),
    "nafnet_width64": NAFNetConfig(width=64),
    "nafnet_width32_gopro": _GOPRO,
    "nafnet_width64_gopro": replace(_GOPRO, width=64),
    "nafnet_tiny": NAFNetConfig(width=8, encoder=(1, 1), middle=1, decoder=(1, 1)),
}


def build(config: NAFNetConfig) -> NAFNet:
    """Build the network of a config."""
    return NAFNet(config)
