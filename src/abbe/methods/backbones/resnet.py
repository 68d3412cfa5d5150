"""ResNet: a block learns what to add to its input, and depth stops hurting.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385. A layer that has
nothing to add has only to become zero, which is easier to learn than the identity; so networks of a hundred layers and
more can be trained. The paper's two families, for ImageNet and for CIFAR-10, and the twins of the latter without
shortcuts, which get worse with depth::

    image (C, Y, X) -- 7x7 /2, max pool 3x3 /2 --> (64, Y/4, X/4) -- stages --> (64..2048, Y/4..Y/32) -- mean, linear
    image (C, Y, X) -- 3x3 ----------------------> (16, Y, X) ------ stages --> (16..64, Y..Y/4) ------- mean, linear

    a block   x ------------------------------------------------ + -- ReLU
                \\-- 3x3 /s, norm, ReLU, 3x3, norm ---------------/    basic: 18, 34 and CIFAR
                \\-- 1x1, norm, ReLU, 3x3 /s, norm, ReLU, 1x1, norm    bottleneck: 50 and deeper

Where sizes change in the ImageNet family, the shortcut is a 1x1 convolution (the paper's option B); in the CIFAR family
every second pixel and channels of zeros (option A, no parameters). The paper does not say where the zeros go: half of
them before and half behind, as in the weights that are published.

Against the paper: a bottleneck's stride is on its 3x3 convolution, as torchvision and timm train it; the variants
``_v1`` have it on the first 1x1, as published. Both have tensors of the same names and shapes, so that only the name of
a file tells whose weights it holds. The last linear layer is initialised as PyTorch does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

EXPANSION = 4
"""Channels out of a bottleneck per channel inside."""


@dataclass(frozen=True)
class ResNetConfig:
    """Sizes of a network of the ImageNet family (Table 1)."""

    in_channels: int = 3
    """Channels of the image."""
    num_classes: int = 1000
    """Classes; 0 for the features before the last layer."""
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    """Blocks of each stage."""
    widths: tuple[int, ...] = (64, 128, 256, 512)
    """Channels inside the blocks of each stage; the first is also the stem's."""
    bottleneck: bool = True
    """Blocks of three convolutions, with four times the channels at their ends, instead of two."""
    stride_first: bool = False
    """Put a bottleneck's stride on its first 1x1 convolution, as published, instead of its 3x3."""


@dataclass(frozen=True)
class ResNetCifarConfig:
    """Sizes of a network of the CIFAR family (Section 4.2): 6n + 2 layers."""

    in_channels: int = 3
    """Channels of the image."""
    num_classes: int = 10
    """Classes; 0 for the features before the last layer."""
    blocks: int = 3
    """The paper's n: blocks of each of the three stages."""
    width: int = 16
    """Channels of the first stage; each next one has twice as many."""
    shortcuts: bool = True
    """False for the plain network."""


class ResNet(nn.Module):
    """Stages of blocks behind a stem, their mean into a linear layer.

    Parameters
    ----------
    stem
        To the first stage's size.
    stages
        One after the other, each at half the size of the one before.
    widths
        Channels out of each stage.
    stride
        Of the stem.
    num_classes
        0 for features.
    """

    def __init__(
        self, stem: nn.Module, stages: Sequence[nn.Module], widths: Sequence[int], stride: int, num_classes: int
    ):
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.head = nn.Linear(widths[-1], num_classes) if num_classes else nn.Identity()
        self.widths = tuple(widths)
        self.strides = tuple(stride * 2**i for i in range(len(widths)))
        self.apply(initialise)
        self.to(memory_format=torch.channels_last)  # then no convolution has to bring its input into another layout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, K) of images (B, C, Y, X); with no classes, features (B, D)."""
        return self.head(self.pyramid(x)[-1].mean((-2, -1)))

    def pyramid(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Compute what each stage gives, (B, width, Y / stride, X / stride), rounded up.

        Raises
        ------
        ValueError
            Where the image is smaller than the stem's stride.
        """
        if min(x.shape[-2:]) < self.strides[0]:
            raise ValueError(f"extents {tuple(x.shape[-2:])} are below the stem's stride of {self.strides[0]}")
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class Block(nn.Module):
    """A body beside its shortcut, joined before the last ReLU (Eqs. 1 and 2)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None):
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, Y, X) to (B, D, Y/stride, X/stride)."""
        y = self.body(x)
        return F.relu(y if self.shortcut is None else y.add_(self.shortcut(x)), inplace=True)


class PadShortcut(nn.Module):
    """Option A: every ``stride``-th pixel, and channels of zeros on both sides of those there are."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.behind = out_channels - in_channels - self.before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, C, Y, X) to (B, D, Y/stride, X/stride)."""
        return F.pad(x[..., :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.behind))


def basic_body(in_channels: int, width: int, stride: int) -> nn.Sequential:
    """Two 3x3 convolutions."""
    return nn.Sequential(*conv_norm(in_channels, width, 3, stride), nn.ReLU(inplace=True), *conv_norm(width, width, 3))


def bottleneck_body(in_channels: int, width: int, stride: int, stride_first: bool) -> nn.Sequential:
    """Fewer channels, a 3x3 convolution on them, and more channels."""
    first, second = (stride, 1) if stride_first else (1, stride)
    return nn.Sequential(
        *conv_norm(in_channels, width, 1, first),
        nn.ReLU(inplace=True),
        *conv_norm(width, width, 3, second),
        nn.ReLU(inplace=True),
        *conv_norm(width, EXPANSION * width, 1),
    )


def conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> tuple[nn.Module, ...]:
    """Convolution and batch normalisation, to stand side by side, so that inference can fold them into one."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(out_channels)


def initialise(module: nn.Module) -> None:
    """Draw the weights of convolutions as He et al. 2015 (arXiv:1502.01852), by what a filter gives on to."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def build(config: ResNetConfig | ResNetCifarConfig) -> ResNet:
    """Build the network of a config."""
    return build_cifar(config) if isinstance(config, ResNetCifarConfig) else build_imagenet(config)


def build_imagenet(config: ResNetConfig) -> ResNet:
    """Build a network with a stem of stride 4 and projections for shortcuts."""
    channels = config.widths[0]
    relu, pool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1)
    stem = nn.Sequential(*conv_norm(config.in_channels, channels, 7, 2), relu, pool)
    stages, widths = [], []
    for i, (number, width) in enumerate(zip(config.blocks, config.widths, strict=True)):
        blocks = []
        for j in range(number):
            stride, out_channels = 2 if i and not j else 1, width * (EXPANSION if config.bottleneck else 1)
            if config.bottleneck:
                body = bottleneck_body(channels, width, stride, config.stride_first)
            else:
                body = basic_body(channels, width, stride)
            same = stride == 1 and channels == out_channels
            projection = nn.Identity() if same else nn.Sequential(*conv_norm(channels, out_channels, 1, stride))
            blocks.append(Block(body, projection))
            channels = out_channels
        stages.append(nn.Sequential(*blocks))
        widths.append(channels)
    return ResNet(stem, stages, widths, 4, config.num_classes)


def build_cifar(config: ResNetCifarConfig) -> ResNet:
    """Build a network with a stem of stride 1 and shortcuts without parameters, or none."""
    channels = config.width
    stem = nn.Sequential(*conv_norm(config.in_channels, channels, 3), nn.ReLU(inplace=True))
    stages, widths = [], [config.width, 2 * config.width, 4 * config.width]
    for i, width in enumerate(widths):
        blocks = []
        for j in range(config.blocks):
            stride = 2 if i and not j else 1
            shortcut = nn.Identity() if channels == width else PadShortcut(channels, width, stride)
            blocks.append(Block(basic_body(channels, width, stride), shortcut if config.shortcuts else None))
            channels = width
        stages.append(nn.Sequential(*blocks))
    return ResNet(stem, stages, widths, 1, config.num_classes)


VARIANTS: dict[str, ResNetConfig | ResNetCifarConfig] = {
    "resnet18": ResNetConfig(blocks=(2, 2, 2, 2), bottleneck=False),
    "resnet34": ResNetConfig(blocks=(3, 4, 6, 3), bottleneck=False),
    "resnet50": ResNetConfig(blocks=(3, 4, 6, 3)),
    "resnet101": ResNetConfig(blocks=(3, 4, 23, 3)),
    "resnet152": ResNetConfig(blocks=(3, 8, 36, 3)),
    "resnet50_v1": ResNetConfig(blocks=(3, 4, 6, 3), stride_first=True),
    "resnet101_v1": ResNetConfig(blocks=(3, 4, 23, 3), stride_first=True),
    "resnet152_v1": ResNetConfig(blocks=(3, 8, 36, 3), stride_first=True),
    "resnet20_cifar": ResNetCifarConfig(blocks=3),
    "resnet32_cifar": ResNetCifarConfig(blocks=5),
    "resnet44_cifar": ResNetCifarConfig(blocks=7),
    "resnet56_cifar": ResNetCifarConfig(blocks=9),
    "resnet110_cifar": ResNetCifarConfig(blocks=18),
    "plain20_cifar": ResNetCifarConfig(blocks=3, shortcuts=False),
    "plain32_cifar": ResNetCifarConfig(blocks=5, shortcuts=False),
    "plain44_cifar": ResNetCifarConfig(blocks=7, shortcuts=False),
    "plain56_cifar": ResNetCifarConfig(blocks=9, shortcuts=False),
    "plain110_cifar": ResNetCifarConfig(blocks=18, shortcuts=False),
    "resnet_tiny": ResNetConfig(num_classes=3, blocks=(1, 2, 1), widths=(4, 6, 8)),
}
