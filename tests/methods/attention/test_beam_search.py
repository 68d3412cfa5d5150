"""Searches: against all sentences that there are."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from abbe.methods.attention.beam_search import beam_search, greedy_search, penalty
from abbe.methods.attention.transformer import VARIANTS, Transformer, build

Draw = Callable[..., Any]
FEW = replace(VARIANTS["transformer_tiny"], vocabulary=5, width=16, heads=2, mlp=16)
LONGEST = 3


@pytest.fixture
def network(drawn: Draw) -> Transformer:
    return drawn(build(FEW), seed=3)


def source(batch: int = 6) -> torch.Tensor:
    return torch.randint(3, 5, (batch, 4), generator=torch.Generator().manual_seed(0))


def all_scores(network: Transformer, source: torch.Tensor, alpha: float) -> dict[tuple[int, ...], float]:
    """The score of every sentence that ends within LONGEST tokens, from the whole forward pass."""
    end = FEW.end
    words = [k for k in range(FEW.vocabulary) if k != end]
    sentences = [(*s, end) for n in range(LONGEST) for s in itertools.product(words, repeat=n)]
    found = {}
    for sentence in sentences:
        target = torch.tensor([[FEW.begin, *sentence]])
        logs = network(source, target[:, :-1]).log_softmax(-1)
        total = logs.gather(2, target[:, 1:, None]).sum().item()
        found[sentence] = total / penalty(len(sentence), alpha)
    return found


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_with_beams_for_all_beginnings_the_best_sentence_is_found(network: Transformer, alpha: float) -> None:
    found = beam_search(network, source(), LONGEST, beams=FEW.vocabulary**2, alpha=alpha)
    for row in range(6):
        scores = all_scores(network, source()[row : row + 1], alpha)
        best = max(scores, key=lambda sentence: scores[sentence])
        tokens = found.tokens[row].tolist()
        assert tuple(tokens[: tokens.index(FEW.end) + 1]) == best
        assert set(tokens[tokens.index(FEW.end) + 1 :]) <= {FEW.padding}
        assert found.scores[row].item() == pytest.approx(scores[best], abs=1e-4)


def test_one_beam_without_penalty_is_greedy_until_the_end(network: Transformer) -> None:
    greedy, beam = greedy_search(network, source(), 9), beam_search(network, source(), 9, beams=1, alpha=0.0)
    for one, other, score, its in zip(greedy.tokens, beam.tokens, greedy.scores, beam.scores):
        if FEW.end in one.tolist() and score >= its:  # one beam may end early where greedy search goes on
            assert one[one != FEW.padding].tolist() == other[other != FEW.padding].tolist()
            assert score.item() == pytest.approx(its.item(), abs=1e-4)


def test_greedy_takes_the_likeliest_token_of_the_whole_forward_pass(network: Transformer) -> None:
    found = greedy_search(network, source(), 6)
    target = torch.cat([torch.full((6, 1), FEW.begin), found.tokens], dim=1)
    likeliest = network(source(), target)[:, :-1].argmax(-1)
    for row, tokens in zip(likeliest, found.tokens):
        length = tokens.tolist().index(FEW.end) + 1 if FEW.end in tokens.tolist() else len(tokens)
        assert torch.equal(row[:length], tokens[:length])
        assert not (tokens[length:] != FEW.padding).any()


def test_more_beams_never_score_less_here_and_rows_do_not_mix(network: Transformer) -> None:
    """Not a law of beam search, but true where all sentences fit in the beams at the end."""
    alone = torch.cat([beam_search(network, row[None], LONGEST, beams=4).scores for row in source()])
    together = beam_search(network, source(), LONGEST, beams=4)
    torch.testing.assert_close(alone, together.scores, rtol=1e-4, atol=1e-4)
    every = beam_search(network, source(), LONGEST, beams=25)
    assert bool((every.scores >= together.scores - 1e-5).all())


def test_a_stronger_penalty_prefers_longer_sentences(network: Transformer) -> None:
    lengths = [
        (beam_search(network, source(), LONGEST, beams=25, alpha=alpha).tokens != FEW.padding).sum().item()
        for alpha in (0.0, 1.0, 5.0)
    ]
    assert lengths == sorted(lengths)


def test_where_nothing_ends_the_best_beginning_comes_out(network: Transformer) -> None:
    never = network.embedding.weight.data
    never[FEW.end] = -1e4 * never.mean(0).sign()
    found = beam_search(network, source(), 4, beams=2)
    assert found.tokens.shape[1] <= 4
    assert found.scores.isfinite().all()
