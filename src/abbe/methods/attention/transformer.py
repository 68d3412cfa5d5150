"""Attention Is All You Need.

Ashish Vaswani, Noam Shazeer, Niki Parmar, Jakob Uszkoreit, Llion Jones, Aidan N. Gomez, Łukasz Kaiser, Illia
Polosukhin, NeurIPS 2017, arXiv:1706.03762.

The idea: no recurrence and no convolution. Every word looks at every other at once, by the likeness of its query to
their keys; the decoder looks at the encoder's words in the same way, and at its own earlier ones only::

    source (S) ── E √d + sinusoids ──> (S, D)            target (T) ── E √d + sinusoids ──> (T, D)
      N × norm(x + attention(x, x))                        N × norm(x + attention(x, x's own past))
          norm(x + MLP(x))                                     norm(x + attention(x, memory))
        └────── memory (S, D) ──────────────────────────────>  norm(x + MLP(x))
                                                           logits (T, K) = x Eᵀ

Norms stand behind the sums; one matrix E is the embedding of both sides and the last layer; sinusoids are interleaved,
sine and cosine of one frequency side by side. As in the equations, the four maps of an attention have no bias. What the
paper leaves open, and what is done here: weights are Xavier's, embeddings of deviation 1/√d as in the authors' code;
smoothing (Szegedy et al. 2015, arXiv:1512.00567) spreads its part evenly over all tokens, the right one included.

Beside the paper's whole forward pass there is one that goes on from what it has computed: :meth:`Transformer.decode`
gives back keys and values of the tokens that it has seen, and takes them for the next ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import nn
from torch.nn import functional as F

from abbe.ops.totals import batch_total

KeysValues = tuple[torch.Tensor, torch.Tensor]
"""(B, heads, N, D / heads) each."""


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a transformer, Table 3."""

    vocabulary: int = 37000
    """Tokens, shared by source and target."""
    width: int = 512
    """Numbers per token, d_model."""
    depth: int = 6
    """Layers of the encoder, and of the decoder, N."""
    heads: int = 8
    """Heads of each attention, h."""
    mlp: int = 2048
    """Hidden units between the two linear maps of a layer, d_ff."""
    dropout: float = 0.1
    """Chance to drop a value of embeddings and of each branch, in training."""
    padding: int = 0
    """Token that fills up and is not looked at."""
    begin: int = 1
    """Token before the first of a target."""
    end: int = 2
    """Token behind the last."""


class State(NamedTuple):
    """What the decoder needs to go on: one entry per layer."""

    memory: tuple[KeysValues, ...]
    """Of the source."""
    seen: torch.Tensor
    """(B, 1, 1, S), true where the source has a token."""
    past: tuple[KeysValues, ...] | None = None
    """Of the target's tokens so far."""

    @property
    def length(self) -> int:
        """Tokens so far."""
        return 0 if self.past is None else self.past[0][0].shape[2]

    def select(self, rows: torch.Tensor) -> State:
        """Take rows of the batch, in any order and number."""
        memory = tuple((k[rows], v[rows]) for k, v in self.memory)
        past = None if self.past is None else tuple((k[rows], v[rows]) for k, v in self.past)
        return State(memory, self.seen[rows], past)


class Transformer(nn.Module):
    """Source tokens (B, S) and target tokens (B, T) to logits (B, T, K) of the token behind each of the target."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = c = config
        self.embedding = nn.Embedding(c.vocabulary, c.width)
        self.encoder = nn.ModuleList(EncoderLayer(c.width, c.heads, c.mlp, c.dropout) for _ in range(c.depth))
        self.decoder = nn.ModuleList(DecoderLayer(c.width, c.heads, c.mlp, c.dropout) for _ in range(c.depth))
        self.dropout = nn.Dropout(c.dropout)
        nn.init.normal_(self.embedding.weight, std=c.width**-0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Compute all logits at once; ``target`` begins with the token ``begin``."""
        return self.decode(target, self.start(source))[0]

    def encode(self, source: torch.Tensor) -> torch.Tensor:
        """Read the source: (B, S) to memory (B, S, D)."""
        seen = self.seen(source)
        x = self.embed(source)
        for layer in self.encoder:
            x = layer(x, seen)
        return x

    def start(self, source: torch.Tensor) -> State:
        """Read the source and prepare what the decoder looks at."""
        memory = self.encode(source)
        layers = [cast(DecoderLayer, layer) for layer in self.decoder]
        return State(tuple(layer.across.keys_values(memory) for layer in layers), self.seen(source))

    def decode(self, target: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """Compute logits (B, T, K) of the tokens behind ``target`` (B, T), which go on where ``state`` ends."""
        x = self.embed(target, state.length)
        past: tuple[KeysValues | None, ...] = state.past or (None,) * len(self.decoder)
        found = []
        for layer, memory, before in zip(self.decoder, state.memory, past, strict=True):
            x, keys_values = layer(x, memory, state.seen, before)
            found.append(keys_values)
        return F.linear(x, self.embedding.weight), State(state.memory, state.seen, tuple(found))

    def embed(self, tokens: torch.Tensor, start: int = 0) -> torch.Tensor:
        """Turn tokens (B, N), the first of which is at place ``start``, into vectors (B, N, D): Sections 3.4, 3.5."""
        d = self.config.width
        x = self.embedding(tokens) * math.sqrt(d)
        return self.dropout(x + sinusoids(tokens.shape[1], d, start, tokens.device).to(x.dtype))

    def seen(self, source: torch.Tensor) -> torch.Tensor:
        """Tell where there is a token to look at: (B, 1, 1, S)."""
        return (source != self.config.padding)[:, None, None]


class EncoderLayer(nn.Module):
    """Attention among the source's tokens, then an MLP."""

    def __init__(self, width: int, heads: int, mlp: int, dropout: float):
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.mlp = MLP(width, mlp)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
        """Map (B, S, D) to (B, S, D); none looks where ``seen`` (B, 1, 1, S) is false."""
        x = self.norm1(x + self.dropout(self.attention(x, self.attention.keys_values(x), seen)))
        return self.norm2(x + self.dropout(self.mlp(x)))


class DecoderLayer(nn.Module):
    """Attention to the target's past, attention to the source, then an MLP."""

    def __init__(self, width: int, heads: int, mlp: int, dropout: float):
        super().__init__()
        self.attention = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.across = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLP(width, mlp)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: torch.Tensor, memory: KeysValues, seen: torch.Tensor | None = None, past: KeysValues | None = None
    ) -> tuple[torch.Tensor, KeysValues]:
        """Map (B, T, D) to (B, T, D), and give keys and values of all tokens so far for the next call."""
        keys, values = self.attention.keys_values(x)
        if past is not None:
            keys, values = torch.cat([past[0], keys], dim=2), torch.cat([past[1], values], dim=2)
        own = self.attention(x, (keys, values), causal(x.shape[1], keys.shape[2], x.device))
        x = self.norm1(x + self.dropout(own))
        x = self.norm2(x + self.dropout(self.across(x, memory, seen)))
        return self.norm3(x + self.dropout(self.mlp(x))), (keys, values)


class Attention(nn.Module):
    """Queries of some tokens, keys and values of others, Section 3.2."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"{width} numbers per token cannot be shared equally by {heads} heads")
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def keys_values(self, x: torch.Tensor) -> KeysValues:
        """Compute what others may look at: (B, heads, N, D / heads) each."""
        return self.split(self.key(x)), self.split(self.value(x))

    def forward(self, x: torch.Tensor, keys_values: KeysValues, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Map (B, T, D) to (B, T, D); none looks where ``mask``, of a shape like (B, heads, T, N), is false: Eq. 1."""
        x = F.scaled_dot_product_attention(self.split(self.query(x)), *keys_values, attn_mask=mask)
        return self.out(x.transpose(1, 2).flatten(2))

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """Divide (B, N, D) among the heads: (B, heads, N, D / heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class MLP(nn.Sequential):
    """Two linear maps with a ReLU between them, for every token by itself: Eq. 2."""

    def __init__(self, width: int, hidden: int):
        super().__init__(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))


def causal(queries: int, keys: int, device: torch.device | None = None) -> torch.Tensor | None:
    """Let each of the last tokens look at itself and what is before: (queries, keys); None where that is all."""
    if queries == 1:
        return None
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


def sinusoids(length: int, width: int, start: int = 0, device: torch.device | None = None) -> torch.Tensor:
    """Describe places by waves, sin(m θ_i) and cos(m θ_i) side by side, θ_i = 10000^(−2i/d): (length, width), float32.

    ``start`` is the place of the first; ``width`` is even.
    """
    places = torch.arange(start, start + length, dtype=torch.float32, device=device)
    frequencies = torch.exp(
        torch.arange(0, width, 2, dtype=torch.float32, device=device) * (-math.log(10000.0) / width)
    )
    turned = places[:, None] * frequencies  # (length, width / 2)
    return torch.stack([turned.sin(), turned.cos()], dim=-1).flatten(1)


def learning_rate(step: int, width: int, warmup: int = 4000) -> float:
    """Give the learning rate of a step counted from 1, Eq. 3: it rises evenly, then falls with 1 / √step."""
    return width**-0.5 * min(step**-0.5, step * warmup**-1.5)


def label_smoothing_loss(
    logits: torch.Tensor, target: torch.Tensor, smoothing: float = 0.1, padding: int = 0
) -> torch.Tensor:
    """Divergence of the predicted distribution from the smoothed true one, mean over tokens that are no padding.

    Parameters
    ----------
    logits
        (..., K).
    target
        (...), the true tokens.
    smoothing
        Part of the probability that is spread evenly over all K tokens; 0 gives the cross-entropy.
    padding
        Token that does not count.
    """
    classes = logits.shape[-1]
    entropy = F.cross_entropy(
        logits.flatten(0, -2).float(),
        target.flatten(),
        ignore_index=padding,
        label_smoothing=smoothing,
        reduction="sum",
    )
    count = (target != padding).sum()
    others = smoothing / classes
    right = 1 - smoothing + others
    least = -right * math.log(right) - ((classes - 1) * others * math.log(others) if others > 0 else 0.0)
    return (entropy - least * count) / batch_total(count).clamp_min(1)


VARIANTS = {
    "transformer_base": TransformerConfig(),
    "transformer_big": TransformerConfig(width=1024, heads=16, mlp=4096, dropout=0.3),
    "transformer_tiny": TransformerConfig(vocabulary=16, width=32, depth=2, heads=4, mlp=64),
}


def build(config: TransformerConfig) -> Transformer:
    """Build the network of a config."""
    return Transformer(config)
