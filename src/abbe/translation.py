"""A trained translation on sequences and on text, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from abbe.data.sample import TokenPair
from abbe.data.sequences import to_text, to_tokens
from abbe.errors import AbbeError
from abbe.methods.attention.translation import Translation
from abbe.model import Model

BATCH = 250
"""Sequences that are searched for together."""
NOTHING = np.zeros(0, np.int64)


class Translator:
    """A model that writes one text behind another.

    Parameters
    ----------
    model
        As :func:`abbe.load` gives it.

    Raises
    ------
    AbbeError
        When the model translates nothing, or does not say which characters its tokens are.
    """

    def __init__(self, model: Model):
        if model.method.joins == "sequence" and not isinstance(model.method, Translation):
            raise AbbeError(f"model {model.name!r} translates nothing; {model.use_of_sequences()}")
        if not isinstance(model.method, Translation):
            raise AbbeError(f"model {model.name!r} is for images and translates nothing")
        if not model.method.options.alphabet:
            raise AbbeError(f"model {model.name!r} does not say which characters its tokens are (options.alphabet)")
        self.method = model.method

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Translate texts; one with other characters than the model's, or too many of them, raises AbbeError."""
        alphabet = self.method.options.alphabet
        pairs = [TokenPair(to_tokens(text, alphabet), NOTHING, repr(text)) for text in texts]
        return [to_text(tokens, alphabet) for tokens in translated(self.method, pairs)]


def translated(method: Translation, pairs: Sequence[TokenPair]) -> Iterator[np.ndarray]:
    """Search what belongs behind each source: (T) tokens each, without the end; where the method's weights are."""
    device = next(method.parameters()).device
    generator = np.random.default_rng(0)  # asked for, and not used
    was_training = method.training
    method.eval()
    try:
        for first in range(0, len(pairs), BATCH):
            sources = [method.prepare(pair, generator)["source"] for pair in pairs[first : first + BATCH]]
            for row in method.predict(torch.stack(sources).to(device))["tokens"].cpu().numpy():
                yield method.decode({"tokens": row})["tokens"]
    finally:
        method.train(was_training)


def truth_of(pairs: Sequence[TokenPair]) -> list[dict[str, np.ndarray]]:
    """Give what :meth:`~abbe.methods.attention.translation.Translation.score` compares with."""
    return [{"tokens": pair.target, "difficulty": np.array(pair.difficulty)} for pair in pairs]
