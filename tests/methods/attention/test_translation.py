"""The objective of the transformer: what it feeds, counts and finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from abbe.contract import Method
from abbe.data.sample import TokenPair
from abbe.data.sequences import GeneratedSequences, SumsConfig, draw_sum, make_sum
from abbe.errors import AbbeError
from abbe.methods.attention.beam_search import greedy_search
from abbe.methods.attention.transformer import VARIANTS, build
from abbe.methods.attention.translation import Translation, TranslationOptions
from abbe.train.fit import fit
from abbe.train.recipe import TrainConfig

Draw = Callable[..., Any]
TINY = VARIANTS["transformer_tiny"]
RNG = np.random.default_rng(0)


def method(drawn: Draw, **options: Any) -> Translation:
    return Translation(drawn(build(TINY)), TranslationOptions(longest=8, **options))


def test_it_is_a_method(drawn: Draw) -> None:
    assert isinstance(method(drawn), Method)


def test_each_token_is_predicted_from_those_before(drawn: Draw) -> None:
    made = method(drawn).prepare(make_sum(95, 7), RNG)
    assert made["source"].tolist() == [12, 8, 13, 10, 0, 0, 0, 0]
    assert made["target"].tolist() == [1, 4, 3, 5, 2, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("source", "said"),
    [(np.full(8, 3), "8 tokens; expected fewer than options.longest, 8"), (np.array([3, 16]), "expected 0 to 15")],
)
def test_sequences_that_do_not_fit_are_told(source: np.ndarray, said: str, drawn: Draw) -> None:
    with pytest.raises(AbbeError, match=f"a name: .*{said}"):
        method(drawn).prepare(TokenPair(source, np.array([3]), "a name"), RNG)


def test_the_loss_knows_no_padding(drawn: Draw) -> None:
    objective, generator = method(drawn), torch.Generator()
    samples = [make_sum(95, 7), make_sum(3, 4)]
    batch = {k: torch.stack([objective.prepare(s, RNG)[k] for s in samples]) for k in ("source", "target")}
    longer = {k: torch.nn.functional.pad(v, (0, 5)) for k, v in batch.items()}
    found, other = (objective.training_step(b, generator=generator) for b in (batch, longer))
    torch.testing.assert_close(found, other)
    assert set(found) == {"loss", "accuracy"}


def test_predictions_end_where_they_end(drawn: Draw) -> None:
    objective = method(drawn, beams=1)
    source = objective.prepare(make_sum(95, 7), RNG)["source"][None]
    tokens = objective.predict(source)["tokens"]
    assert tokens.shape == (1, 8)
    greedy = greedy_search(objective.network, source, 8).tokens
    assert torch.equal(tokens[:, : greedy.shape[1]], greedy)
    assert method(drawn).predict(source)["tokens"].shape == (1, 8)
    cut = objective.decode({"tokens": np.array([5, 6, 2, 7, 0])})["tokens"]
    assert cut.tolist() == [5, 6]
    assert objective.decode({"tokens": np.array([5, 6])})["tokens"].tolist() == [5, 6]


def test_scores_by_hand(drawn: Draw) -> None:
    def sentences(*all_tokens: list[int]) -> list[dict[str, np.ndarray]]:
        return [{"tokens": np.array(tokens)} for tokens in all_tokens]

    decoded, truth = sentences([4, 5], [4, 5, 6], [7]), sentences([4, 5], [4, 9], [8])
    found = method(drawn).score(decoded, truth)
    assert found == pytest.approx({"exact_match": 1 / 3, "token_accuracy": 3 / 6})
    for entry, level in zip(truth, (0, 2, 2)):
        entry["difficulty"] = np.array(level)
    assert method(drawn).score(decoded, truth) == pytest.approx(found | {"exact_match_0": 1, "exact_match_2": 0})


def test_it_learns_by_the_trainer_with_the_paper_s_adam(tmp_path: Path) -> None:
    """A few steps: the loss falls, the rates are Eq. 3's, β₂ is 0.98."""
    torch.manual_seed(0)
    objective = Translation(build(replace(TINY, dropout=0.0)), TranslationOptions(longest=8))
    (group,) = objective.parameter_groups()
    assert (group["betas"], group["eps"]) == ((0.9, 0.98), 1e-9)
    config = SumsConfig(digits=1)
    data = GeneratedSequences(lambda rng: draw_sum(config, rng), objective.prepare, 160, seed=0)
    train = TrainConfig(
        epochs=3,
        batch_size=16,
        optimizer="adam",
        weight_decay=0.0,
        learning_rate=5e-3,
        warmup_steps=10,
        schedule="inverse_root",
        precision="float32",
        accelerator="cpu",
        ema_decay=0.0,
    )
    history = fit(objective, data, None, train, tmp_path / "run", progress=False).history
    losses = history[next(name for name in history if name.endswith("loss"))]
    assert losses.iloc[-1] < 0.8 * losses.iloc[0]
