"""Rotary Position Embedding for Vision Transformer.

Byeongho Heo, Song Park, Dongyoon Han, Sangdoo Yun, ECCV 2024, arXiv:2403.13298: the rotations of Su et al. 2021
(arXiv:2104.09864) in the vision transformer of Dosovitskiy et al. 2021 (arXiv:2010.11929).

The idea: a patch's place is an angle, not a vector that is added. Half of each head's channels are turned by the
column and half by the row, in every block, so that attention sees by how much two patches are apart; images larger
than those of the training need no resampled table::

    image (C, Y, X) ── P×P patches ── class token before them ──> (1 + N, D)
       depth × [ + γ1 attention(norm), queries and keys of patches turned by x θ and y θ ] [ + γ2 MLP(norm) ]
       norm, the class token alone ── head (K)

As the authors' axial networks: base 100, since a plane of patches is short; the class token has no place and is not
turned; γ, a number per channel, begins at 1e-5 (Touvron et al. 2021, arXiv:2103.17239). Their mixed variant, whose
frequencies are learned for oblique directions, is not here, nor is the additive table beside the rotations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from abbe.methods.attention.vit import MLP, Attention, check_extents, lecun_
from abbe.nn.drop_path import DropPath, ramp
from abbe.nn.rope import angles, grid, rotate


@dataclass(frozen=True)
class ViTRoPEConfig:
    """Sizes of a vision transformer with rotary positions."""

    in_channels: int = 3
    """Channels of the image."""
    num_classes: int = 1000
    """Classes; 0: no head, the features of the class token come out."""
    patch: int = 16
    """Side of a patch in pixels."""
    width: int = 768
    """Numbers per token."""
    depth: int = 12
    """Blocks."""
    heads: int = 12
    """Heads of each attention; their channels, width / heads, are a multiple of 4."""
    mlp: int = 3072
    """Hidden units of each MLP."""
    base: float = 100.0
    """How many times slower the last pair of an axis turns than its first, about."""
    layer_scale: float = 1e-5
    """What the γ of each branch begins at."""
    dropout: float = 0.0
    """Chance to drop a value behind attention and both layers of an MLP, in training."""
    drop_path: float = 0.0
    """Chance to drop the last block's branches in training; earlier blocks' less, evenly down to 0."""


class ViTRoPE(nn.Module):
    """Images (B, C, Y, X), whose extents are multiples of the patch, to logits (B, K)."""

    prefix = 1
    """The class token stands before those of the patches."""

    def __init__(self, config: ViTRoPEConfig):
        super().__init__()
        self.config = c = config
        self.patches = nn.Conv2d(c.in_channels, c.width, c.patch, c.patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, c.width))
        self.blocks = nn.ModuleList(
            Block(c.width, c.heads, c.mlp, c.layer_scale, c.dropout, rate) for rate in ramp(c.drop_path, c.depth)
        )
        self.norm = nn.LayerNorm(c.width, eps=1e-6)
        self.head = nn.Linear(c.width, c.num_classes) if c.num_classes else None
        initialise(self)

    @property
    def patch(self) -> tuple[int, int]:
        """Pixels of a patch along Y and X."""
        return self.config.patch, self.config.patch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify images: logits (B, K), or the class token's features (B, D) without a head."""
        x = self.tokens(x)[:, 0]  # (B, D)
        return x if self.head is None else self.head(x)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the last tokens, normalised: (B, 1 + N, D), patches row by row."""
        check_extents(x, self.patch)
        x = self.patches(x)  # (B, D, Y/P, X/P)
        columns_first = grid((x.shape[2], x.shape[3]), x.device).flip(-1)  # (N, 2), x before y
        angle = angles(columns_first, self.config.width // self.config.heads, self.config.base)
        x = x.flatten(2).transpose(1, 2)  # (B, N, D)
        # a traced network keeps len(x) as a constant, but x.shape[0] free
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)  # (B, 1 + N, D)
        for block in self.blocks:
            x = block(x, angle)
        return self.norm(x)


class Block(nn.Module):
    """Attention that knows how far patches are apart, then an MLP; γ lets each branch in slowly."""

    def __init__(self, width: int, heads: int, mlp: int, layer_scale: float, dropout: float, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = RotaryAttention(width, heads)
        self.gamma1 = nn.Parameter(torch.full((width,), layer_scale))
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, mlp, "exact", dropout)
        self.gamma2 = nn.Parameter(torch.full((width,), layer_scale))
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
        """Map tokens (B, 1 + N, D) to tokens; ``angle`` (N, D / heads / 2) is that of the patches."""
        x = x + self.drop_path(self.gamma1 * self.dropout(self.attention(self.norm1(x), angle)))
        return x + self.drop_path(self.gamma2 * self.mlp(self.norm2(x)))


class RotaryAttention(Attention):
    """Attention whose queries and keys are turned by their patches' places."""

    def forward(self, x: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Map tokens (B, prefix + N, D) to tokens; the last N have an ``angle`` (N, D / heads / 2)."""
        q, k, v = self.split(x)
        prefix = x.shape[1] - angle.shape[0]
        q, k = (torch.cat([t[:, :, :prefix], rotate(t[:, :, prefix:], angle)], dim=2) for t in (q, k))
        x = F.scaled_dot_product_attention(q, k, v)  # (B, heads, prefix + N, D/heads)
        return self.out(x.transpose(1, 2).flatten(2))


def initialise(network: ViTRoPE) -> None:
    """Draw weights of deviation 0.02, cut at two units, as the authors' recipe does; biases are zero."""
    nn.init.trunc_normal_(network.class_token, std=0.02)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    lecun_(network.patches)


VARIANTS = {
    "vit_small_patch16_rope_224": ViTRoPEConfig(width=384, heads=6, mlp=1536),
    "vit_base_patch16_rope_224": ViTRoPEConfig(),
    "vit_large_patch16_rope_224": ViTRoPEConfig(width=1024, depth=24, heads=16, mlp=4096),
    "vit_rope_tiny": ViTRoPEConfig(patch=4, num_classes=10, width=24, depth=2, heads=3, mlp=48),
}


def build(config: ViTRoPEConfig) -> ViTRoPE:
    """Build the network of a config."""
    return ViTRoPE(config)
