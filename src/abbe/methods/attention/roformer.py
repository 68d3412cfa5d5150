"""RoFormer: Enhanced Transformer with Rotary Position Embedding.

Jianlin Su, Yu Lu, Shengfeng Pan, Ahmed Murtadha, Bo Wen, Yunfeng Liu, 2021, arXiv:2104.09864.

The idea: what attention should know of two words is how far they are apart. So nothing is added to a word; its query
and its key are turned, pair of channels by pair, by angles that grow with its place, and in their product only the
difference of the places is left (:mod:`abbe.nn.rope`)::

    tokens (N) ── word + segment, norm ──────────────────────────> (N, D)
       depth × norm(x + attention(x)),  scores (R_m q)ᵀ R_n k = qᵀ R_(n−m) k
               norm(x + MLP(x)) ─────────────────────────────────> (N, D)
       masked-token head: linear, GELU, norm, words' own vectors ─> logits (N, K)

The body is BERT's (Devlin et al. 2018, arXiv:1810.04805), norms behind the sums, as in the paper's pre-training on
Chinese. ``positions`` and ``attention`` give what the paper compares with: the sinusoids that are added, and attention
whose cost is linear in N (Eq. 19), where the denominator sees queries and keys before they are turned, lest it become
zero. The published weights pair adjacent channels; ``pairing`` takes the other convention, and the key table reorders.
Images: :mod:`abbe.methods.attention.vit_rope`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from abbe.methods.attention.transformer import sinusoids
from abbe.nn.rope import Pairing, angles, rotate

EPSILON = 1e-12
"""Of the norms, as BERT's."""


@dataclass(frozen=True)
class RoFormerConfig:
    """Sizes of a RoFormer."""

    vocabulary: int = 50000
    """Tokens."""
    segments: int = 2
    """Kinds of segment that a token may be in."""
    width: int = 768
    """Numbers per token."""
    embedding_width: int = 0
    """Numbers per token of the table of words, where a linear map widens them; 0: the same."""
    depth: int = 12
    """Layers."""
    heads: int = 12
    """Heads of each attention."""
    mlp: int = 3072
    """Hidden units of each MLP."""
    positions: Literal["rotary", "sinusoidal", "none"] = "rotary"
    """Turned queries and keys; waves added to the words, as in the transformer of 2017; or nothing."""
    pairing: Pairing = "adjacent"
    """Which channels are turned together."""
    attention: Literal["softmax", "linear"] = "softmax"
    """All pairs of tokens, or sums over tokens: Eq. 17."""
    masked_head: bool = True
    """Predict words; otherwise the last vectors come out."""
    dropout: float = 0.1
    """Chance to drop a value of embeddings, of each branch and of attention, in training."""
    padding: int = 0
    """Token that fills up and is not looked at."""


class RoFormer(nn.Module):
    """Tokens (B, N) to logits (B, N, K), or to vectors (B, N, D) without a head."""

    def __init__(self, config: RoFormerConfig):
        super().__init__()
        self.config = c = config
        embedded = c.embedding_width or c.width
        self.words = nn.Embedding(c.vocabulary, embedded)
        self.segments = nn.Embedding(c.segments, embedded)
        self.norm = nn.LayerNorm(embedded, eps=EPSILON)
        self.widen = nn.Linear(embedded, c.width) if embedded != c.width else nn.Identity()
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.depth))
        self.head = Head(c.width, embedded, c.vocabulary) if c.masked_head else None
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(
        self, tokens: torch.Tensor, segments: torch.Tensor | None = None, seen: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Read tokens.

        Parameters
        ----------
        tokens
            (B, N), numbers of words.
        segments
            (B, N), 0 for all unless given.
        seen
            (B, N), true where there is a token to look at; unless given, where it is no padding.
        """
        x = self.encode(tokens, segments, seen)
        return x if self.head is None else self.head(x, self.words.weight)

    def encode(
        self, tokens: torch.Tensor, segments: torch.Tensor | None = None, seen: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute the last vectors (B, N, D); parameters as of :meth:`forward`."""
        c = self.config
        seen = tokens != c.padding if seen is None else seen
        x = self.words(tokens) + self.segments(torch.zeros_like(tokens) if segments is None else segments)
        x = self.widen(self.dropout(self.norm(x)))  # (B, N, D)
        places = torch.arange(tokens.shape[1], device=tokens.device)
        angle = angles(places, c.width // c.heads) if c.positions == "rotary" else None
        if c.positions == "sinusoidal":
            x = x + sinusoids(tokens.shape[1], c.width, device=tokens.device).to(x.dtype)
        for block in self.blocks:
            x = block(x, angle, seen)
        return x


class Block(nn.Module):
    """Attention, then an MLP, each with a norm behind its sum."""

    def __init__(self, config: RoFormerConfig):
        super().__init__()
        c = config
        self.attention = Attention(c)
        self.norm1 = nn.LayerNorm(c.width, eps=EPSILON)
        self.fc1 = nn.Linear(c.width, c.mlp)
        self.fc2 = nn.Linear(c.mlp, c.width)
        self.norm2 = nn.LayerNorm(c.width, eps=EPSILON)
        self.dropout = nn.Dropout(c.dropout)

    def forward(self, x: torch.Tensor, angle: torch.Tensor | None, seen: torch.Tensor) -> torch.Tensor:
        """Map (B, N, D) to (B, N, D); ``angle`` (N, D / heads / 2) or None, ``seen`` (B, N)."""
        x = self.norm1(x + self.dropout(self.attention(x, angle, seen)))
        return self.norm2(x + self.dropout(self.fc2(F.gelu(self.fc1(x)))))


class Attention(nn.Module):
    """Attention whose queries and keys are turned by their places: Eq. 16, or Eq. 19."""

    def __init__(self, config: RoFormerConfig):
        super().__init__()
        if config.width % config.heads:
            raise ValueError(f"{config.width} numbers per token cannot be shared equally by {config.heads} heads")
        self.config = config
        self.query, self.key, self.value, self.out = (nn.Linear(config.width, config.width) for _ in range(4))

    def forward(self, x: torch.Tensor, angle: torch.Tensor | None, seen: torch.Tensor) -> torch.Tensor:
        """Map (B, N, D) to (B, N, D); none looks where ``seen`` (B, N) is false."""
        q, k, v = (
            layer(x).unflatten(-1, (self.config.heads, -1)).transpose(1, 2)  # (B, heads, N, D/heads)
            for layer in (self.query, self.key, self.value)
        )
        mask = seen[:, None, None]  # (B, 1, 1, N)
        if self.config.attention == "linear":
            x = linear_attention(q, k, v, angle, mask.transpose(-2, -1), self.config.pairing)
        else:
            if angle is not None:
                q, k = (rotate(t, angle, self.config.pairing) for t in (q, k))
            dropout = self.config.dropout if self.training else 0.0
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out(x.transpose(1, 2).flatten(2))


def linear_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    angle: torch.Tensor | None,
    seen: torch.Tensor,
    pairing: Pairing = "adjacent",
) -> torch.Tensor:
    """Attend in time linear in N, with φ(x) = elu(x) + 1 in place of the exponential: Eq. 19.

    Parameters
    ----------
    q, k, v
        (B, heads, N, d) each.
    angle
        (N, d / 2), by which the numerator's queries and keys turn; None: Eq. 17.
    seen
        (B, 1, N, 1), true where there is a token to look at.
    pairing
        Which channels are turned together.
    """
    q, k = F.elu(q) + 1, (F.elu(k) + 1) * seen
    total = (q @ k.sum(dim=2).unsqueeze(-1)).clamp_min(1e-6)  # (B, heads, N, 1)
    if angle is not None:
        q, k = rotate(q, angle, pairing), rotate(k, angle, pairing)
    return q @ (k.transpose(-2, -1) @ v) / total


class Head(nn.Module):
    """Predict words from vectors, by the likeness to the words' own."""

    def __init__(self, width: int, embedded: int, vocabulary: int):
        super().__init__()
        self.dense = nn.Linear(width, embedded)
        self.norm = nn.LayerNorm(embedded, eps=EPSILON)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, x: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """Map (B, N, D) to logits (B, N, K), with the table of words (K, embedded)."""
        return F.linear(self.norm(F.gelu(self.dense(x))), words, self.bias)


VARIANTS = {
    "roformer_base": RoFormerConfig(),
    "roformer_tiny": RoFormerConfig(vocabulary=32, width=32, depth=2, heads=2, mlp=64),
}


def build(config: RoFormerConfig) -> RoFormer:
    """Build the network of a config."""
    return RoFormer(config)
