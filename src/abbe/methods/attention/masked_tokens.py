"""Learning words from those around them: masked tokens, as Devlin et al. 2018, arXiv:1810.04805, Section 3.1.

The objective of :mod:`abbe.methods.attention.roformer`, as in its paper: 15 % of the tokens are chosen; of these 80 %
are hidden behind the mask token, 10 % are exchanged for a random one, and 10 % stay. The network says what they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from abbe.contract import Geometry, Joins, Watch
from abbe.data.sample import TokenPair
from abbe.methods.attention.roformer import RoFormer
from abbe.ops.totals import batch_total

UNCHOSEN = -100
"""Target of a token that the loss leaves out."""


@dataclass(frozen=True)
class MaskedTokensOptions:
    """What is hidden."""

    share: float = 0.15
    """Part of the tokens that are chosen."""
    mask: int = 1
    """Token that hides another one."""


class MaskedTokens(nn.Module):
    """Tokens with gaps to the tokens of the gaps, around a network with a masked-token head."""

    joins: Joins = "sequence"
    watch = Watch("accuracy", "max")
    in_channels = 1
    """A place of a sequence holds one token."""
    geometry = Geometry(halo=None, multiple=(1,), remainder=(0,))

    def __init__(self, network: RoFormer, options: MaskedTokensOptions | None = None):
        super().__init__()
        self.network = network
        self.options = options or MaskedTokensOptions()

    def prepare(self, sample: TokenPair, generator: np.random.Generator) -> dict[str, torch.Tensor]:
        """Make ``tokens`` (N) with gaps and ``target`` (N), -100 where nothing was chosen, of the sample's source.

        At least one token is chosen; padding never is.
        """
        c, o = self.network.config, self.options
        tokens = sample.source.astype(np.int64)
        known = np.flatnonzero(tokens != c.padding)
        chosen = known[generator.random(len(known)) < o.share]
        if not len(chosen):
            chosen = generator.choice(known, 1)
        changed, fate = tokens.copy(), generator.random(len(chosen))
        changed[chosen[fate < 0.8]] = o.mask
        random = chosen[fate >= 0.9]
        changed[random] = generator.integers(0, c.vocabulary, len(random))
        target = np.full_like(tokens, UNCHOSEN)
        target[chosen] = tokens[chosen]
        return {"tokens": torch.from_numpy(changed), "target": torch.from_numpy(target)}

    def training_step(self, batch: dict[str, torch.Tensor], *, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Compute the cross-entropy of the chosen tokens, and the part of them that is predicted right."""
        logits, target = self.network(batch["tokens"]), batch["target"]
        chosen = target != UNCHOSEN
        count = batch_total(chosen.sum()).clamp_min(1)
        errors = F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), ignore_index=UNCHOSEN, reduction="sum")
        right = ((logits.argmax(-1) == target) & chosen).sum()
        return {"loss": errors / count, "accuracy": right / count}

    def predict(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute ``logits`` (B, N, K) of tokens (B, N)."""
        return {"logits": self.network(x)}

    def decode(self, outputs: dict[str, np.ndarray], **options: object) -> dict[str, np.ndarray]:
        """Take the likeliest ``tokens`` (N) of one sequence."""
        return {"tokens": outputs["logits"].argmax(-1)}

    def score(
        self, decoded: Sequence[dict[str, np.ndarray]], truth: Sequence[dict[str, np.ndarray]]
    ) -> dict[str, float]:
        """Measure ``accuracy`` over all chosen tokens of a data set; ``truth`` has each ``target`` of ``prepare``."""
        pairs = [(d["tokens"], t["target"], t["target"] != UNCHOSEN) for d, t in zip(decoded, truth, strict=True)]
        right = sum(int((tokens[chosen] == target[chosen]).sum()) for tokens, target, chosen in pairs)
        return {"accuracy": right / max(sum(int(chosen.sum()) for *_, chosen in pairs), 1)}
