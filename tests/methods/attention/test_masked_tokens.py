"""Masked tokens: what is hidden, and what is asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from abbe.contract import Method
from abbe.data.sample import TokenPair
from abbe.methods.attention.masked_tokens import UNCHOSEN, MaskedTokens, MaskedTokensOptions
from abbe.methods.attention.roformer import VARIANTS, build

Draw = Callable[..., Any]
TINY = VARIANTS["roformer_tiny"]


@pytest.fixture
def objective(drawn: Draw) -> MaskedTokens:
    return MaskedTokens(drawn(build(TINY)))


def sample(length: int, padding: int = 0) -> TokenPair:
    tokens = np.random.default_rng(0).integers(2, TINY.vocabulary, length)
    return TokenPair(np.pad(tokens, (0, padding)), np.array([], int))


def test_fifteen_per_cent_are_chosen_and_most_of_them_hidden(objective: MaskedTokens) -> None:
    assert isinstance(objective, Method)
    given = sample(20000, padding=500)
    made = objective.prepare(given, np.random.default_rng(1))
    tokens, target = made["tokens"].numpy(), made["target"].numpy()
    chosen = target != UNCHOSEN
    assert not chosen[20000:].any()
    assert chosen[:20000].mean() == pytest.approx(0.15, abs=0.01)
    assert np.array_equal(target[chosen], given.source[chosen])
    assert np.array_equal(tokens[~chosen], given.source[~chosen])
    assert (tokens[chosen] == 1).mean() == pytest.approx(0.8, abs=0.03)
    assert (tokens[chosen] == target[chosen]).mean() == pytest.approx(0.1, abs=0.03)


def test_something_is_always_asked(objective: MaskedTokens) -> None:
    for seed in range(20):
        target = objective.prepare(sample(1, padding=3), np.random.default_rng(seed))["target"]
        assert (target != UNCHOSEN).tolist() == [True, False, False, False]


def test_the_loss_is_that_of_the_chosen_tokens(objective: MaskedTokens) -> None:
    made = [objective.prepare(sample(12), np.random.default_rng(seed)) for seed in range(3)]
    batch = {key: torch.stack([one[key] for one in made]) for key in ("tokens", "target")}
    found = objective.training_step(batch, generator=torch.Generator())
    logits, chosen = objective.predict(batch["tokens"])["logits"], batch["target"] != UNCHOSEN
    torch.testing.assert_close(found["loss"], F.cross_entropy(logits[chosen], batch["target"][chosen]))
    decoded = [objective.decode({"logits": one.detach().numpy()}) for one in logits]
    truth = [{"target": one.numpy()} for one in batch["target"]]
    assert objective.score(decoded, truth)["accuracy"] == pytest.approx(found["accuracy"].item())


def test_all_can_be_hidden(drawn: Draw) -> None:
    objective = MaskedTokens(drawn(build(TINY)), MaskedTokensOptions(share=1.0))
    assert (objective.prepare(sample(9), np.random.default_rng(0))["target"] != UNCHOSEN).all()
