"""Learning to write one sequence of tokens behind another, as Vaswani et al. 2017, arXiv:1706.03762, Sections 5 and 6.

The objective of :mod:`abbe.methods.attention.transformer`: every token of the target is predicted from those before
it, all at once, against the smoothed truth; in use the sentence is searched for. Adam's β₂ and ε are the paper's; its
schedule is ``train.schedule = "inverse_root"`` with the highest rate ``learning_rate(warmup, width, warmup)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from abbe.contract import Geometry, Joins, Watch
from abbe.data.sample import TokenPair
from abbe.errors import AbbeError
from abbe.methods.attention.beam_search import beam_search, greedy_search
from abbe.methods.attention.transformer import Transformer, label_smoothing_loss
from abbe.ops.totals import batch_total


@dataclass(frozen=True)
class TranslationOptions:
    """How to learn and how to search."""

    smoothing: float = 0.1
    """Part of the true token's probability that is spread over all tokens."""
    longest: int = 64
    """Most tokens of a sequence, the end token included."""
    beams: int = 4
    """Beginnings that the search follows; 1: the likeliest token, again and again."""
    alpha: float = 0.6
    """Strength of the length penalty."""
    alphabet: str = ""
    """Characters of the tokens behind those for padding, begin and end; empty where tokens are no characters."""


class Translation(nn.Module):
    """Source tokens to target tokens, around a transformer."""

    joins: Joins = "sequence"
    watch = Watch("exact_match", "max")
    in_channels = 1
    """A place of a sequence holds one token."""
    geometry = Geometry(halo=None, multiple=(1,), remainder=(0,))

    def __init__(self, network: Transformer, options: TranslationOptions | None = None):
        super().__init__()
        self.network = network
        self.options = options or TranslationOptions()

    def parameter_groups(self) -> Iterator[dict[str, Any]]:
        """Give all weights the paper's β and ε, Section 5.3."""
        yield {"params": list(self.network.parameters()), "betas": (0.9, 0.98), "eps": 1e-9}

    def prepare(self, sample: TokenPair, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        """Make ``source`` (longest) and ``target`` (longest + 1), int64: begin, tokens, end, padding.

        Raises
        ------
        AbbeError
            For a sequence that is too long, or has tokens that the network does not know.
        """
        c, longest = self.network.config, self.options.longest
        for tokens in (sample.source, sample.target):
            if len(tokens) >= longest:
                raise AbbeError(
                    f"{sample.name or 'sample'}: {len(tokens)} tokens; expected fewer than options.longest, {longest}"
                )
            if tokens.size and not 0 <= tokens.min() <= tokens.max() < c.vocabulary:
                raise AbbeError(
                    f"{sample.name or 'sample'}: tokens from {tokens.min()} to {tokens.max()}; expected 0 to "
                    f"{c.vocabulary - 1}, the network's vocabulary"
                )
        target = np.concatenate([[c.begin], sample.target, [c.end]])
        return {"source": filled(sample.source, longest, c.padding), "target": filled(target, longest + 1, c.padding)}

    def training_step(self, batch: dict[str, torch.Tensor], *, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Compute the smoothed loss, and the part of the tokens whose likeliest prediction is right."""
        padding = self.network.config.padding
        target = batch["target"][:, 1:]  # (B, T), what stands behind each token
        logits = self.network(batch["source"], batch["target"][:, :-1])  # (B, T, K)
        known = target != padding
        right = ((logits.argmax(-1) == target) & known).sum()
        loss = label_smoothing_loss(logits, target, self.options.smoothing, padding)
        return {"loss": loss, "accuracy": right / batch_total(known.sum()).clamp_min(1)}

    def predict(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Search the ``tokens`` (B, longest) behind sources (B, S), and their ``score`` (B), a log-probability."""
        o = self.options
        if o.beams == 1:
            found = greedy_search(self.network, x, o.longest)
        else:
            found = beam_search(self.network, x, o.longest, beams=o.beams, alpha=o.alpha)
        missing = o.longest - found.tokens.shape[1]
        return {"tokens": F.pad(found.tokens, (0, missing), value=self.network.config.padding), "score": found.scores}

    def decode(self, outputs: dict[str, np.ndarray], **options: Any) -> dict[str, np.ndarray]:
        """Cut ``tokens`` of one sequence where it ends: (n), without the end token."""
        c = self.network.config
        tokens = outputs["tokens"]
        ends = np.flatnonzero((tokens == c.end) | (tokens == c.padding))
        return {"tokens": tokens[: ends[0]] if len(ends) else tokens}

    def score(
        self, decoded: Sequence[dict[str, np.ndarray]], truth: Sequence[dict[str, np.ndarray]]
    ) -> dict[str, float]:
        """Measure ``tokens``: the part of the sequences that are right from end to end, and of their tokens.

        A token counts as right where both sequences have the same at the same place; those that one of them lacks are
        wrong. Where ``truth`` has a ``difficulty``, a whole number, ``exact_match_n`` is that of each difficulty.
        """
        exact = [np.array_equal(d["tokens"], t["tokens"]) for d, t in zip(decoded, truth, strict=True)]
        same = sum(same_tokens(d["tokens"], t["tokens"]) for d, t in zip(decoded, truth))
        places = sum(max(len(d["tokens"]), len(t["tokens"])) for d, t in zip(decoded, truth))
        found = {"exact_match": float(np.mean(exact)), "token_accuracy": same / max(places, 1)}
        levels = [int(t["difficulty"]) for t in truth if "difficulty" in t]
        if len(levels) == len(truth):
            for level in sorted(set(levels)):
                of_level = [right for right, other in zip(exact, levels) if other == level]
                found[f"exact_match_{level}"] = float(np.mean(of_level))
        return found


def filled(tokens: np.ndarray, length: int, padding: int) -> torch.Tensor:
    """Fill tokens up to a length."""
    return torch.from_numpy(np.pad(tokens, (0, length - len(tokens)), constant_values=padding).astype(np.int64))


def same_tokens(one: np.ndarray, other: np.ndarray) -> int:
    """Count the places where two sequences have the same token."""
    shared = min(len(one), len(other))
    return int((one[:shared] == other[:shared]).sum())
