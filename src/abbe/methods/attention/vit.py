"""An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale.

Alexey Dosovitskiy, Lucas Beyer, Alexander Kolesnikov, Dirk Weissenborn, Xiaohua Zhai, Thomas Unterthiner, Mostafa
Dehghani, Matthias Minderer, Georg Heigold, Sylvain Gelly, Jakob Uszkoreit, Neil Houlsby, ICLR 2021, arXiv:2010.11929.

The idea: cut an image into patches, take each as a word, and let a plain transformer read them. Nothing but the cut and
the positions, which are learned, knows that there is a plane; what convolutions assume has to come from data::

    image (C, Y, X) ── P×P patches, one linear map each ──> (N, D)      N = Y/P · X/P
       class token before them, positions added ──────────> (1 + N, D)
       depth × [ + attention(norm) ] [ + MLP(norm) ] ─────> (1 + N, D)
       norm, the class token alone ───────────────────────> (D) ── tanh layer where pre-training has one ── head (K)

Against the paper: images of other sizes than that of the position table are taken by resampling the table (bicubic, the
class token left out), which the paper does once for fine-tuning, here at every forward pass; drop path, which later
training recipes use, can be switched on. The authors' GELU is the approximation by tanh, other libraries compute the
exact one on the same weights, which moves features by about 1e-3: ``gelu`` chooses. The tiny and small sizes come from
later work (Touvron et al. 2021, arXiv:2012.12877; Steiner et al. 2021, arXiv:2106.10270).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import nn
from torch.nn import functional as F

from abbe.nn.drop_path import DropPath, ramp


@dataclass(frozen=True)
class ViTConfig:
    """Sizes of a vision transformer."""

    in_channels: int = 3
    """Channels of the image."""
    num_classes: int = 1000
    """Classes; 0: no head, the features of the class token come out."""
    image_size: int = 224
    """Side of the square images that the table of positions is for; others resample it."""
    patch: int = 16
    """Side of a patch in pixels."""
    width: int = 768
    """Numbers per token."""
    depth: int = 12
    """Blocks."""
    heads: int = 12
    """Heads of each attention."""
    mlp: int = 3072
    """Hidden units of each MLP."""
    gelu: Literal["exact", "tanh"] = "exact"
    """By the error function, as other libraries compute it, or approximated by tanh, as the authors do."""
    pre_logits: int = 0
    """Units of the tanh layer before the head, which pre-training has and fine-tuning removes; 0: none."""
    dropout: float = 0.0
    """Chance to drop a value behind positions, attention and both layers of an MLP, in training."""
    drop_path: float = 0.0
    """Chance to drop the last block's branches in training; earlier blocks' less, evenly down to 0."""


class ViT(nn.Module):
    """Images (B, C, Y, X), whose extents are multiples of the patch, to logits (B, K)."""

    prefix = 1
    """The class token stands before those of the patches."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = c = config
        if c.image_size % c.patch:
            raise ValueError(f"an image of {c.image_size} pixels is not a whole number of patches of {c.patch}")
        self.grid = c.image_size // c.patch
        self.patches = nn.Conv2d(c.in_channels, c.width, c.patch, c.patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, c.width))
        self.positions = nn.Parameter(torch.empty(1, self.prefix + self.grid**2, c.width))
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(
            Block(c.width, c.heads, c.mlp, c.gelu, c.dropout, rate) for rate in ramp(c.drop_path, c.depth)
        )
        self.norm = nn.LayerNorm(c.width, eps=1e-6)
        self.pre_logits = nn.Linear(c.width, c.pre_logits) if c.pre_logits else None
        self.head = nn.Linear(c.pre_logits or c.width, c.num_classes) if c.num_classes else None
        initialise(self)

    @property
    def patch(self) -> tuple[int, int]:
        """Pixels of a patch along Y and X."""
        return self.config.patch, self.config.patch

    @property
    def feature_names(self) -> tuple[str, ...]:
        """What :meth:`features` can give, in the order in which it is computed."""
        blocks = [name for i in range(len(self.blocks)) for name in (f"blocks.{i}.attention", f"blocks.{i}")]
        return "embedding", *blocks, "norm"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify images: logits (B, K), or the class token's features (B, D) without a head."""
        x = self.tokens(x)[:, 0]  # (B, D)
        if self.pre_logits is not None:
            x = self.pre_logits(x).tanh()
        return x if self.head is None else self.head(x)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the last tokens, normalised: (B, 1 + N, D), patches row by row."""
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def features(self, x: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Compute what happens inside, by name.

        Parameters
        ----------
        x
            Images (B, C, Y, X).
        names
            ``embedding``, the tokens before the first block; ``blocks.0`` and so on, the tokens behind a block;
            ``blocks.0.attention``, its attention maps (B, heads, 1 + N, 1 + N), where row m says what token m takes
            from which, in sum 1; ``norm``, the last tokens, normalised.

        Returns
        -------
        dict
            By name in the order asked for; tokens are (B, 1 + N, D).

        Raises
        ------
        ValueError
            For a name that does not exist.
        """
        unknown = [name for name in names if name not in self.feature_names]
        if unknown:
            raise ValueError(f"no features are called {', '.join(unknown)}; there are {', '.join(self.feature_names)}")
        x = self.embed(x)
        found = {"embedding": x}
        for i, block in enumerate(self.blocks):
            if f"blocks.{i}.attention" in names:
                found[f"blocks.{i}.attention"] = cast(Block, block).maps(x)
            found[f"blocks.{i}"] = x = block(x)
        found["norm"] = self.norm(x)
        return {name: found[name] for name in names}

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Turn images into tokens that know their place: (B, 1 + N, D)."""
        check_extents(x, self.patch)
        x = self.patches(x)  # (B, D, Y/P, X/P)
        grid = x.shape[2], x.shape[3]
        x = x.flatten(2).transpose(1, 2)  # (B, N, D)
        # a traced network keeps len(x) as a constant, but x.shape[0] free
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1)  # (B, 1 + N, D)
        return self.dropout(x + resampled(self.positions, (self.grid, self.grid), grid))


class Block(nn.Module):
    """Attention, then an MLP, each behind a norm and beside a shortcut: Eqs. 2 and 3."""

    def __init__(
        self, width: int, heads: int, mlp: int, gelu: Literal["exact", "tanh"], dropout: float, drop_path: float
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, mlp, gelu, dropout)
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map tokens (B, N, D) to tokens."""
        x = x + self.drop_path(self.dropout(self.attention(self.norm1(x))))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """Compute who attends to whom: (B, heads, N, N)."""
        return self.attention.maps(self.norm1(x))


class Attention(nn.Module):
    """Every token takes from every other what its query finds in their keys: Eqs. 5 to 8."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"{width} numbers per token cannot be shared equally by {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map tokens (B, N, D) to tokens."""
        q, k, v = self.split(x)
        x = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, D/heads)
        return self.out(x.transpose(1, 2).flatten(2))

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """Compute who attends to whom: (B, heads, N, N), rows of sum 1."""
        q, k, _ = self.split(x)
        return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute queries, keys and values, (B, heads, N, D/heads) each."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return q, k, v


class MLP(nn.Module):
    """Two linear layers with a GELU between them, for every token by itself."""

    def __init__(self, width: int, hidden: int, gelu: Literal["exact", "tanh"], dropout: float):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.gelu = nn.GELU("tanh" if gelu == "tanh" else "none")
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map tokens (B, N, D) to tokens."""
        x = self.dropout(self.gelu(self.fc1(x)))  # (B, N, mlp)
        return self.dropout(self.fc2(x))


def resampled(table: torch.Tensor, stored: tuple[int, int], wanted: tuple[int, int], prefix: int = 1) -> torch.Tensor:
    """Resample a table of positions (1, prefix + Y·X, D) for another grid of patches, bicubic; the prefix stays.

    ``stored`` and ``wanted`` are (Y, X) of the grids.
    """
    if wanted == stored:
        return table
    places = table[:, prefix:].unflatten(1, stored).permute(0, 3, 1, 2)  # (1, D, Y, X)
    places = F.interpolate(places, wanted, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :prefix], places.flatten(2).transpose(1, 2)], dim=1)


def check_extents(x: torch.Tensor, patch: tuple[int, int]) -> None:
    """Raise ValueError where images (B, C, Y, X) are no whole number of patches."""
    extents = tuple(x.shape[2:])
    if len(extents) != 2 or any(extent < side or extent % side for extent, side in zip(extents, patch)):
        raise ValueError(f"extents {extents} are not multiples of the patch, {patch}; crop or resize the image")


def initialise(network: ViT) -> None:
    """Draw weights as the authors' code does: Xavier in the blocks, positions of deviation 0.02, a head of zeros."""
    nn.init.normal_(network.positions, std=0.02)
    lecun_(network.patches)
    for block in network.blocks:
        initialise_block(cast(Block, block))
    if network.pre_logits is not None:
        lecun_(network.pre_logits)
    if network.head is not None:
        nn.init.zeros_(network.head.weight)
        nn.init.zeros_(network.head.bias)


def initialise_block(block: Block) -> None:
    """Draw a block's weights from Xavier's uniform distribution; queries, keys and values are a layer each."""
    for part in block.attention.qkv.weight.chunk(3):
        nn.init.xavier_uniform_(part)
    nn.init.xavier_uniform_(block.attention.out.weight)
    nn.init.zeros_(block.attention.qkv.bias)
    nn.init.zeros_(block.attention.out.bias)
    for layer in (block.mlp.fc1, block.mlp.fc2):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(layer.bias, std=1e-6)


def lecun_(layer: nn.Conv2d | nn.Linear) -> None:
    """Draw weights of deviation √(1/fan-in), cut at two deviations; the bias is zero."""
    deviation = layer.weight[0].numel() ** -0.5
    cut = 0.87962566103423978  # deviation of a standard normal distribution that is cut at ±2
    nn.init.trunc_normal_(layer.weight, std=deviation / cut, a=-2 * deviation / cut, b=2 * deviation / cut)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


_BASE = ViTConfig()
_TINY = replace(_BASE, width=192, heads=3, mlp=768)
_SMALL = replace(_BASE, width=384, heads=6, mlp=1536)
_LARGE = replace(_BASE, width=1024, depth=24, heads=16, mlp=4096)
_HUGE = replace(_BASE, width=1280, depth=32, heads=16, mlp=5120)

VARIANTS = {
    "vit_tiny_patch16_224": _TINY,
    "vit_tiny_patch16_384": replace(_TINY, image_size=384),
    "vit_small_patch32_224": replace(_SMALL, patch=32),
    "vit_small_patch32_384": replace(_SMALL, patch=32, image_size=384),
    "vit_small_patch16_224": _SMALL,
    "vit_small_patch16_384": replace(_SMALL, image_size=384),
    "vit_base_patch32_224": replace(_BASE, patch=32),
    "vit_base_patch32_384": replace(_BASE, patch=32, image_size=384),
    "vit_base_patch16_224": _BASE,
    "vit_base_patch16_384": replace(_BASE, image_size=384),
    "vit_large_patch32_224": replace(_LARGE, patch=32),
    "vit_large_patch32_384": replace(_LARGE, patch=32, image_size=384),
    "vit_large_patch16_224": _LARGE,
    "vit_large_patch16_384": replace(_LARGE, image_size=384),
    "vit_large_patch14_224": replace(_LARGE, patch=14),
    "vit_huge_patch14_224": replace(_HUGE, patch=14),
    "vit_patch4_tiny": ViTConfig(image_size=16, patch=4, num_classes=10, width=24, depth=3, heads=3, mlp=48),
}


def build(config: ViTConfig) -> ViT:
    """Build the network of a config."""
    return ViT(config)
