"""From a decoder to sentences: greedy search, and beam search with a length penalty.

The penalty is that of Wu et al. 2016, arXiv:1609.08144, Eq. 14, without coverage, as Vaswani et al. 2017
(arXiv:1706.03762, Section 6.1) use it with 4 beams and α = 0.6::

    score(Y) = log P(Y | X) / ((5 + |Y|) / 6)^α        |Y| counts the end token

Sentences that have ended are kept aside; the search stops when none that is alive can still beat the worst of them.
Both searches compute each token once, from the keys and values that the decoder gives back.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from abbe.methods.attention.transformer import State, Transformer


class Found(NamedTuple):
    """The best sentences of a batch of sources."""

    tokens: torch.Tensor
    """(B, L), without ``begin``, with ``end`` where there is one, then padding."""
    scores: torch.Tensor
    """(B), log-probabilities, divided by the length penalty in beam search."""


class _Beams(NamedTuple):
    """Beginnings of sentences, best first."""

    tokens: torch.Tensor
    """(B, beams, L)."""
    scores: torch.Tensor
    """(B, beams), minus infinity where there is none."""


@torch.no_grad()
def greedy_search(network: Transformer, source: torch.Tensor, longest: int) -> Found:
    """Take the likeliest token, again and again, until ``end`` or ``longest`` tokens.

    ``source`` is (B, S); put the network into evaluation first.
    """
    c = network.config
    state = network.start(source)
    token = source.new_full((len(source), 1), c.begin)
    ended = torch.zeros(len(source), dtype=torch.bool, device=source.device)
    tokens, scores = [], torch.zeros(len(source), device=source.device)
    for _ in range(longest):
        logits, state = network.decode(token, state)
        best = logits[:, -1].float().log_softmax(-1).max(-1)
        scores = scores + best.values.masked_fill(ended, 0)
        token = best.indices.masked_fill(ended, c.padding)[:, None]
        tokens.append(token)
        ended = ended | (token[:, 0] == c.end)
        if bool(ended.all()):
            break
    return Found(torch.cat(tokens, dim=1), scores)


@torch.no_grad()
def beam_search(
    network: Transformer, source: torch.Tensor, longest: int, *, beams: int = 4, alpha: float = 0.6
) -> Found:
    """Follow the ``beams`` likeliest beginnings, and give the sentence of the best score.

    Parameters
    ----------
    network
        In evaluation.
    source
        (B, S).
    longest
        Most tokens of a sentence, ``end`` included. Where nothing has ended by then, the best beginning is given.
    beams
        Beginnings that are followed for each source.
    alpha
        Strength of the length penalty; 0 for none, which favours short sentences.
    """
    batch, c = len(source), network.config
    state = network.start(source).select(torch.arange(batch, device=source.device).repeat_interleave(beams))
    alive, ended = _first_beams(source, beams, c.begin)
    for length in range(1, longest + 1):
        candidates, parents, state = _extended(network, alive, state, beams)
        is_end = candidates.tokens[..., -1] == c.end
        finished = candidates.scores.masked_fill(~is_end, -torch.inf) / penalty(length, alpha)
        ended = _best(_padded(ended, c.padding), _Beams(candidates.tokens, finished), beams)
        going_on = candidates.scores.masked_fill(is_end, -torch.inf).topk(beams, dim=1)
        alive = _Beams(_taken(candidates.tokens, going_on.indices), going_on.values)
        rows = parents.gather(1, going_on.indices) + beams * torch.arange(batch, device=source.device)[:, None]
        state = state.select(rows.flatten())
        hope = alive.scores[:, 0] / penalty(longest, alpha)  # nothing alive can end better than this
        if bool((hope <= ended.scores[:, -1]).all()):
            break
    none = ended.scores[:, 0].isinf()
    tokens = torch.where(none[:, None], alive.tokens[:, 0], ended.tokens[:, 0])
    scores = torch.where(none, alive.scores[:, 0] / penalty(longest, alpha), ended.scores[:, 0])
    return Found(tokens[:, 1:], scores)


def penalty(length: int, alpha: float) -> float:
    """Give what a log-probability is divided by for a sentence of so many tokens."""
    return ((5 + length) / 6) ** alpha


def _first_beams(source: torch.Tensor, beams: int, begin: int) -> tuple[_Beams, _Beams]:
    """One beginning alive, the others impossible, lest all beams be the same; none ended."""
    tokens = source.new_full((len(source), beams, 1), begin)
    scores = torch.full((len(source), beams), -torch.inf, device=source.device)
    first = scores.clone()
    first[:, 0] = 0
    return _Beams(tokens, first), _Beams(tokens, scores)


def _extended(network: Transformer, alive: _Beams, state: State, beams: int) -> tuple[_Beams, torch.Tensor, State]:
    """Find the likeliest continuations by one token, twice as many as beams, since each beam may end once."""
    logits, state = network.decode(alive.tokens[:, :, -1].flatten()[:, None], state)
    scores = logits[:, -1].float().log_softmax(-1).unflatten(0, (-1, beams)) + alive.scores[..., None]  # (B, beams, K)
    classes = scores.shape[-1]
    best = scores.flatten(1).topk(min(2 * beams, beams * classes), dim=1)
    parents, token = best.indices // classes, best.indices % classes
    tokens = torch.cat([_taken(alive.tokens, parents), token[..., None]], dim=2)
    return _Beams(tokens, best.values), parents, state


def _best(one: _Beams, other: _Beams, beams: int) -> _Beams:
    tokens, scores = torch.cat([one.tokens, other.tokens], dim=1), torch.cat([one.scores, other.scores], dim=1)
    kept = scores.topk(beams, dim=1)
    return _Beams(_taken(tokens, kept.indices), kept.values)


def _taken(tokens: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Take beams (B, n) of (B, beams, L)."""
    return tokens.gather(1, which[..., None].expand(-1, -1, tokens.shape[2]))


def _padded(beams: _Beams, padding: int) -> _Beams:
    """Make the sentences longer by one."""
    return _Beams(torch.nn.functional.pad(beams.tokens, (0, 1), value=padding), beams.scores)
