"""AlexNet: the network that made convolutions learn from a million images.

Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional Neural Networks", NIPS 2012 and CACM 60,
2017, 10.1145/3065386. Five convolutions and three linear layers with ReLU instead of saturating units, dropout in the
hidden linear layers, pooling windows that overlap. ``alexnet_2012`` is that network, which lay on two GPUs: its second,
fourth and fifth convolution see only the half of the channels that lies on their own::

    image (C, 227, 227) -- 11x11 /4 --> (96, 55, 55) -- norm, pool 3x3 /2, 5x5 in 2 groups --> (256, 27, 27)
       -- norm, pool, 3x3, 3x3 in 2 groups, 3x3 in 2 groups --> (256, 13, 13) -- pool --> (256, 6, 6)
       -- linear, dropout --> 4096 -- linear, dropout --> 4096 -- linear --> logits (1000)

``alexnet`` is the one that torchvision distributes, from Krizhevsky, "One weird trick for parallelizing convolutional
neural networks", arXiv:1404.5997: other widths, one group, no normalisation, and a padding of 2 that makes 224 pixels
fit. Local response normalisation divides by sums of squares over five neighbouring channels (Section 3.3, with k = 2,
n = 5, α = 1e-4, β = 0.75); here they are neighbours across the border of the two halves as well, as in Caffe.

Against the papers: images of other sizes are taken, their last maps being pooled to 6x6, which changes nothing at the
size of the paper. Dropout is behind the hidden layers in both networks, as in the paper; torchvision has it before
them, which is another network only while training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

GRID = 6
"""Pixels per side of the map that the linear layers see."""
NEIGHBOURS, ALPHA, BETA, K = 5, 1e-4, 0.75, 2.0
"""Of local response normalisation, in the paper's symbols: n, α, β, k."""
WITH_BIAS_ONE = (1, 3, 4)
"""Convolutions, counted from 0, whose biases begin with 1 (Section 5)."""


@dataclass(frozen=True)
class AlexNetConfig:
    """Sizes of an AlexNet."""

    in_channels: int = 3
    """Channels of the image."""
    num_classes: int = 1000
    """Classes; 0 for the features before the last layer."""
    widths: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256)
    """Channels of the five convolutions."""
    groups: tuple[int, int, int, int, int] = (1, 2, 1, 2, 2)
    """Parts of the channels, per convolution, that see nothing of each other."""
    hidden: int = 4096
    """Width of the two hidden linear layers."""
    padding: int = 0
    """Pixels around the image."""
    normalise: bool = True
    """Local response normalisation behind the first two convolutions."""
    dropout: float = 0.5
    """Share of the hidden layers' units that is left out while training."""


class AlexNet(nn.Module):
    """Three stages of convolutions, then linear layers.

    Parameters
    ----------
    config
        All that decides its sizes.
    """

    def __init__(self, config: AlexNetConfig):
        super().__init__()
        widths, groups = config.widths, config.groups
        conv = [
            nn.Conv2d(widths[i - 1], widths[i], 5 if i == 1 else 3, padding=2 if i == 1 else 1, groups=groups[i])
            for i in range(1, 5)
        ]
        stem = nn.Conv2d(config.in_channels, widths[0], 11, 4, config.padding, groups=groups[0])
        self.stages = nn.ModuleList(
            [
                nn.Sequential(stem, nn.ReLU(inplace=True)),
                nn.Sequential(norm(config.normalise), pool(), conv[0], nn.ReLU(inplace=True)),
                nn.Sequential(
                    norm(config.normalise),
                    pool(),
                    *(layer for each in conv[1:] for layer in (each, nn.ReLU(inplace=True))),
                ),
            ]
        )
        self.pool = pool()
        self.hidden = nn.ModuleList(
            [nn.Linear(widths[-1] * GRID**2, config.hidden), nn.Linear(config.hidden, config.hidden)]
        )
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden, config.num_classes) if config.num_classes else nn.Identity()
        self.strides = (4, 8, 16)
        self.widths = (widths[0], widths[1], widths[4])
        self.smallest = 67 - 2 * config.padding
        initialise(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, K) of images (B, C, Y, X); with no classes, features (B, hidden)."""
        x = self.pool(self.pyramid(x)[-1])  # (B, D, 6, 6) of the paper's images
        x = F.adaptive_avg_pool2d(x, GRID).flatten(1)  # (B, D * 36)
        for layer in self.hidden:
            x = self.dropout(F.relu(layer(x), inplace=True))
        return self.head(x)

    def pyramid(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Compute what the first, second and fifth convolution give, (B, width, about Y / stride, about X / stride).

        Windows that reach over the border are left out, so that maps are up to two pixels smaller than that.

        Raises
        ------
        ValueError
            Where the image is so small that nothing is left of it.
        """
        if min(x.shape[-2:]) < self.smallest:
            raise ValueError(f"extents {tuple(x.shape[-2:])} are below {self.smallest}, where pooling leaves nothing")
        features: list[torch.Tensor] = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def pool() -> nn.Module:
    """Overlapping pooling (Section 3.4)."""
    return nn.MaxPool2d(3, 2)


class LocalResponseNorm(nn.Module):
    """Channels divided by what their neighbours at the same place have (Section 3.3).

    PyTorch's divides α by the number of neighbours, which the paper does not, and is not there for bfloat16 on a CPU.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise maps (B, C, Y, X); the sums are of 32 bits."""
        reach = NEIGHBOURS // 2
        squares = F.pad(x.float().square(), (0, 0, 0, 0, reach, reach))  # (B, reach + C + reach, Y, X)
        neighbours = squares.unfold(1, NEIGHBOURS, 1).sum(dim=-1)  # (B, C, Y, X)
        return x * (K + ALPHA * neighbours).pow(-BETA).to(x.dtype)


def norm(normalise: bool) -> nn.Module:
    """Local response normalisation, or nothing."""
    return LocalResponseNorm() if normalise else nn.Identity()


def initialise(network: AlexNet) -> None:
    """Draw weights of deviation 0.01; biases are 0, or 1 where it gives ReLU something to begin with (Section 5)."""
    convolutions = [module for module in network.stages.modules() if isinstance(module, nn.Conv2d)]
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    for module in (*(convolutions[i] for i in WITH_BIAS_ONE), *network.hidden):
        nn.init.ones_(module.bias)


VARIANTS = {
    "alexnet_2012": AlexNetConfig(),
    "alexnet": AlexNetConfig(widths=(64, 192, 384, 256, 256), groups=(1, 1, 1, 1, 1), padding=2, normalise=False),
    "alexnet_tiny": AlexNetConfig(num_classes=3, widths=(4, 8, 6, 8, 6), hidden=10),
}


def build(config: AlexNetConfig) -> AlexNet:
    """Build the network of a config."""
    return AlexNet(config)
