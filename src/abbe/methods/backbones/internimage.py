"""InternImage: Exploring Large-Scale Vision Foundation Models with Deformable Convolutions.

Wenhai Wang, Jifeng Dai, Zhe Chen, Zhenhang Huang, Zhiqi Li, Xizhou Zhu, Xiaowei Hu, Tong Lu, Lewei Lu, Hongsheng Li,
Xiaogang Wang, Yu Qiao, CVPR 2023, arXiv:2211.05778.

The idea: a transformer's block with a convolution in place of attention, whose nine points go where the image sends
them and count as much as the image says (DCNv3, in ``dcnv3.py``). So it reaches far and adapts, and its cost stays
linear in the pixels::

    image (C, Y, X)
      | stem: 3x3 / 2, norm, GELU, 3x3 / 2, norm
    stage 1 (w, Y/4, X/4)      blocks: x + DCNv3(x), x + MLP(x), each with a norm, of which the sizes differ in place
      | 3x3 / 2, norm
    stage 2 (2w, Y/8, X/8)
      | 3x3 / 2, norm
    stage 3 (4w, Y/16, X/16) ------------------------------- +
      | 3x3 / 2, norm                                        |
    stage 4 (8w, Y/32, X/32)                                 |
      | T to XL: 1x1, batch norm, GELU, mean                 | H: 1x1 of both, added at Y/16, attention pooling
    features -- linear --> logits                         features -- linear --> logits

Sizes, norms and heads are those of the authors' release, from which the paper's text departs in places: T has its norms
before the layers and no layer scale, S to XL after them and with it, H both before and after them and none; L and XL
double the window by an offset scale of 2; H has a depth-wise kernel of 5, a norm after every sixth block of stage 3,
and a head that was pre-trained with language. Extents that strides do not divide are rounded up, as in the release.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from abbe.methods.backbones.dcnv3 import DCNv3, Window
from abbe.nn.drop_path import DropPath, ramp

STEM_STRIDE = 4


@dataclass(frozen=True)
class InternImageConfig:
    """The sizes of an InternImage."""

    in_channels: int = 3
    """Channels of the image."""
    num_classes: int = 1000
    """Classes; 0 for the features before the last layer."""
    width: int = 64
    """Channels of the first stage; every stage doubles them."""
    depths: tuple[int, ...] = (4, 4, 18, 4)
    """Blocks of each stage."""
    groups: int = 4
    """Groups of DCNv3 in the first stage; every stage doubles them."""
    mlp_ratio: float = 4.0
    """Inner channels of a block's second half per channel."""
    drop_path: float = 0.1
    """Chance to leave out a block's branch of the last block, in training; even from 0 for the first."""
    norm: Literal["pre", "post", "both"] = "pre"
    """Where norms stand: before a layer, after it, or both."""
    layer_scale: float | None = None
    """Start of a learnt factor per channel and branch; None for no factor."""
    offset_scale: float = 1.0
    """Factor of the offsets and of the window."""
    depthwise_kernel: int = 3
    """Extent of the convolution that the offsets come from."""
    extra_norms: tuple[int, ...] = ()
    """Blocks of stage 3 with another norm behind them, counted from 0."""
    center_feature_scale: bool = False
    """Whether DCNv3 mixes in the pixel itself, by a learnt share."""
    remove_center: bool = False
    """Whether the window has no middle point."""
    attention_head: tuple[int, int, int] | None = None
    """Channels, heads and features of a head with attention pooling; None for the plain one."""


class InternImage(nn.Module):
    """Images (B, C, Y, X) of any extents from 4 pixels on to logits (B, K).

    With attention pooling both extents have to give an even number of pixels at stride 16, as multiples of 32 do.
    Others raise ValueError.
    """

    def __init__(self, config: InternImageConfig):
        super().__init__()
        self.config = config
        self.stem = Stem(config.in_channels, config.width)
        rates = iter(ramp(config.drop_path, sum(config.depths)))
        self.stages = nn.ModuleList(
            Stage(config, level, [next(rates) for _ in range(depth)]) for level, depth in enumerate(config.depths)
        )
        self.head = AttentionHead(config) if config.attention_head else PooledHead(self.widths[-1])
        features = self.head.features
        self.classifier = nn.Linear(features, config.num_classes) if config.num_classes else nn.Identity()
        self.apply(initialize)

    @property
    def in_channels(self) -> int:
        """Channels of the image."""
        return self.config.in_channels

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the image per pixel of each map."""
        return tuple(STEM_STRIDE * 2**level for level in range(len(self.config.depths)))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each map."""
        return tuple(self.config.width * 2**level for level in range(len(self.config.depths)))

    def pyramid(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Compute the maps of all stages, (B, width, Y / stride, X / stride) each, rounded up."""
        return [features.permute(0, 3, 1, 2) for features in self._stages(x)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the stages and the head."""
        if self.config.attention_head and any(-(-extent // 16) % 2 for extent in x.shape[2:]):
            raise ValueError(
                f"images of {x.shape[2]} x {x.shape[3]} pixels; the head joins strides 16 and 32 and needs an even "
                "number of pixels at stride 16: pad to multiples of 32"
            )
        return self.classifier(self.head(*self._stages(x)[-2:]))

    def _stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Compute the maps with their channels last, (B, Y, X, C), as the blocks have them."""
        if min(x.shape[2:]) < STEM_STRIDE:
            raise ValueError(
                f"images of {x.shape[2]} x {x.shape[3]} pixels; expected at least {STEM_STRIDE} x {STEM_STRIDE}"
            )
        x = self.stem(x)  # (B, Y/4, X/4, w)
        maps = []
        for stage in self.stages:
            features, x = stage(x)
            maps.append(features)
        return maps


class Stem(nn.Module):
    """Two convolutions: (B, C, Y, X) to (B, Y / 4, X / 4, width)."""

    def __init__(self, in_channels: int, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width // 2, 3, stride=2, padding=1)
        self.norm1 = layer_norm(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width, 3, stride=2, padding=1)
        self.norm2 = layer_norm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Halve the image twice."""
        x = F.gelu(self.norm1(self.conv1(x).permute(0, 2, 3, 1)))  # (B, Y/2, X/2, w/2)
        return self.norm2(self.conv2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """Blocks of one resolution, and the step to the next."""

    def __init__(self, config: InternImageConfig, level: int, rates: list[float]):
        super().__init__()
        width, last = config.width * 2**level, level == len(config.depths) - 1
        self.blocks = nn.ModuleList(Block(config, level, rate) for rate in rates)
        self.normed_blocks = config.extra_norms if level == 2 else ()
        self.extra_norms = nn.ModuleList(layer_norm(width) for _ in self.normed_blocks)
        self.norm = nn.Identity() if config.norm == "post" else layer_norm(width)
        self.downsample = nn.Identity() if last else Downsample(width)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map (B, Y, X, C) to the stage's features of the same shape, and to the next stage's input."""
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self.normed_blocks:
                x = self.extra_norms[self.normed_blocks.index(number)](x)
        features = self.norm(x)
        return features, self.downsample(features)


class Block(nn.Module):
    """A deformable convolution and a perceptron, each around a shortcut."""

    def __init__(self, config: InternImageConfig, level: int, drop_path: float):
        super().__init__()
        width = config.width * 2**level
        window = Window(config.groups * 2**level, offset_scale=config.offset_scale, remove_center=config.remove_center)
        dcn = DCNv3(width, window, config.depthwise_kernel, config.center_feature_scale)
        self.spatial = Branch(dcn, width, config.norm, config.layer_scale)
        self.channel = Branch(Perceptron(width, int(width * config.mlp_ratio)), width, config.norm, config.layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, Y, X, C) to the same shape."""
        x = x + self.drop_path(self.spatial(x))
        return x + self.drop_path(self.channel(x))


class Branch(nn.Module):
    """A layer with its norms and its factor."""

    def __init__(self, layer: nn.Module, width: int, norm: str, layer_scale: float | None):
        super().__init__()
        self.is_normed_first = norm != "post"
        self.norm = layer_norm(width)
        self.layer = layer
        self.second_norm = layer_norm(width) if norm == "both" else nn.Identity()
        self.gamma = None if layer_scale is None else nn.Parameter(torch.full((width,), layer_scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, Y, X, C) to the same shape."""
        x = self.second_norm(self.layer(self.norm(x))) if self.is_normed_first else self.norm(self.layer(x))
        return x if self.gamma is None else x * self.gamma


class Perceptron(nn.Module):
    """Two linear layers for each pixel."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., C) to the same shape."""
        return self.fc2(F.gelu(self.fc1(x)))


class Downsample(nn.Module):
    """Half the resolution, twice the channels: (B, Y, X, C) to (B, Y / 2, X / 2, 2 C)."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.norm = layer_norm(2 * width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve and normalise."""
        return self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class PooledHead(nn.Module):
    """Features as the mean of the last map, half as many again: (B, Y, X, C) to (B, 1.5 C)."""

    def __init__(self, width: int):
        super().__init__()
        self.features = int(1.5 * width)
        self.conv = nn.Conv2d(width, self.features, 1, bias=False)
        self.norm = nn.BatchNorm2d(self.features)

    def forward(self, third: torch.Tensor, fourth: torch.Tensor) -> torch.Tensor:
        """Pool stage 4; stage 3 is not used."""
        return F.gelu(self.norm(self.conv(fourth.permute(0, 3, 1, 2)))).mean((2, 3))


class AttentionHead(nn.Module):
    """Features of stages 3 and 4 together, by attention whose query is the mean: to (B, F)."""

    def __init__(self, config: InternImageConfig):
        super().__init__()
        assert config.attention_head is not None
        width, self.heads, self.features = config.attention_head
        last = config.width * 2 ** (len(config.depths) - 1)
        self.fine = nn.Conv2d(last // 2, width, 1)
        self.coarse = nn.Conv2d(last, 4 * width, 1)
        self.norm_query, self.norm_key, self.norm_value = (layer_norm(width) for _ in range(3))
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.projection = nn.Linear(width, self.features)
        self.norm_features = layer_norm(self.features)

    def forward(self, third: torch.Tensor, fourth: torch.Tensor) -> torch.Tensor:
        """Join (B, Y, X, C) and (B, Y / 2, X / 2, 2 C), and pool."""
        coarse = F.pixel_shuffle(self.coarse(fourth.permute(0, 3, 1, 2)), 2)
        tokens = (self.fine(third.permute(0, 3, 1, 2)) + coarse).flatten(2).transpose(1, 2)  # (B, N, D)
        query = self._heads(self.query(self.norm_query(tokens.mean(1, keepdim=True))))  # (B, heads, 1, D / heads)
        key = self._heads(self.key(self.norm_key(tokens)))
        value = self._heads(self.value(self.norm_value(tokens)))
        pooled = F.scaled_dot_product_attention(query, key, value).flatten(1)  # (B, D)
        return self.norm_features(self.projection(pooled))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def layer_norm(width: int) -> nn.LayerNorm:
    """Make a norm over the channels, which are last."""
    return nn.LayerNorm(width, eps=1e-6)


def initialize(module: nn.Module) -> None:
    """Draw linear layers as the release does, those of DCNv3 apart; convolutions keep the draw of torch."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, DCNv3):
        module.reset_parameters()


VARIANTS = {
    "internimage_tiny": InternImageConfig(),
    "internimage_small": InternImageConfig(
        width=80, depths=(4, 4, 21, 4), groups=5, drop_path=0.4, norm="post", layer_scale=1e-5
    ),
    "internimage_base": InternImageConfig(
        width=112, depths=(4, 4, 21, 4), groups=7, drop_path=0.5, norm="post", layer_scale=1e-5
    ),
    "internimage_large": InternImageConfig(
        width=160, depths=(5, 5, 22, 5), groups=10, norm="post", layer_scale=1e-5, offset_scale=2.0
    ),
    "internimage_xlarge": InternImageConfig(
        width=192, depths=(5, 5, 24, 5), groups=12, drop_path=0.2, norm="post", layer_scale=1e-5, offset_scale=2.0
    ),
    "internimage_huge": InternImageConfig(
        width=320,
        depths=(6, 6, 32, 6),
        groups=10,
        drop_path=0.2,
        norm="both",
        depthwise_kernel=5,
        extra_norms=(5, 11, 17, 23, 29),
        center_feature_scale=True,
        attention_head=(1024, 16, 768),
    ),
    "internimage_micro": InternImageConfig(num_classes=10, width=16, depths=(1, 1, 2, 1), groups=2, drop_path=0.0),
}


def build(config: InternImageConfig) -> InternImage:
    """Build the network of a config."""
    return InternImage(config)
