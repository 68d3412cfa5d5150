"""The transformer of 2017: equal to torch's layers and to a reference from the paper's equations, and no leaks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from abbe.methods.attention.transformer import (
    VARIANTS,
    Attention,
    DecoderLayer,
    EncoderLayer,
    Transformer,
    TransformerConfig,
    build,
    label_smoothing_loss,
    learning_rate,
    sinusoids,
)

Draw = Callable[..., Any]
TINY = VARIANTS["transformer_tiny"]
OTHER = replace(TINY, vocabulary=11, width=24, depth=3, heads=2, mlp=40)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sentences(config: TransformerConfig, length: int = 7, batch: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, config.vocabulary, (batch, length), generator=generator)
    tokens[-1, length - 2 :] = config.padding
    return tokens


# ------------------------------------------------------------------------------------------------ against others


def into_torch(ours: Attention, theirs: nn.MultiheadAttention) -> None:
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        nn.init.zeros_(theirs.in_proj_bias)
        nn.init.zeros_(theirs.out_proj.bias)


def copy_rest(ours: nn.Module, theirs: nn.Module, norms: int) -> None:
    pairs = [(getattr(ours, f"norm{i}"), getattr(theirs, f"norm{i}")) for i in range(1, norms + 1)]
    for mine, other in [*pairs, (ours.mlp[0], theirs.linear1), (ours.mlp[2], theirs.linear2)]:
        other.load_state_dict(mine.state_dict())


@pytest.mark.parametrize(("width", "heads"), [(32, 4), (48, 3)])
def test_layers_equal_torch_s_without_biases(
    width: int, heads: int, drawn: Draw, assert_same: Callable[..., None]
) -> None:
    """With norm_first off and ReLU torch's layers are the paper's, but for biases in attention."""
    encoder, decoder = drawn(EncoderLayer(width, heads, 64, 0.1)), drawn(DecoderLayer(width, heads, 64, 0.1))
    their_encoder = nn.TransformerEncoderLayer(width, heads, 64, batch_first=True).eval()
    their_decoder = nn.TransformerDecoderLayer(width, heads, 64, batch_first=True).eval()
    into_torch(encoder.attention, their_encoder.self_attn)
    into_torch(decoder.attention, their_decoder.self_attn)
    into_torch(decoder.across, their_decoder.multihead_attn)
    copy_rest(encoder, their_encoder, 2)
    copy_rest(decoder, their_decoder, 3)
    hidden = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    x, memory = noise(2, 6, width), noise(2, 6, width, seed=1)
    seen = ~hidden[:, None, None]
    shown = ~hidden
    assert_same(
        lambda x: encoder(x, seen)[shown],
        lambda x: their_encoder(x, src_key_padding_mask=hidden)[shown],
        x,
    )
    causal = nn.Transformer.generate_square_subsequent_mask(6)
    assert_same(
        lambda x: decoder(x, decoder.across.keys_values(memory), seen)[0],
        lambda x: their_decoder(x, memory, tgt_mask=causal, memory_key_padding_mask=hidden),
        x,
    )


@pytest.mark.parametrize(
    "config",
    [TINY, OTHER, *(replace(VARIANTS[f"transformer_{size}"], vocabulary=64) for size in ("base", "big"))],
    ids=["tiny", "other", "base", "big"],
)
def test_equal_to_the_equations(config: TransformerConfig, drawn: Draw, assert_same: Callable[..., None]) -> None:
    """The whole network, written from Sections 3.1 to 3.5: one head at a time, one matrix of positions by its sum."""
    with torch.device("meta"):  # the numbers come below
        network = build(config)
    network = drawn(network.to_empty(device="cpu"))
    source, target = sentences(config), sentences(config, 5, seed=1)

    def theirs(table: torch.Tensor) -> torch.Tensor:
        return reference(network, table, source, target)

    def ours(table: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(network, {"embedding.weight": table}, (source, target))

    assert_same(ours, theirs, network.embedding.weight.detach())


def reference(network: Transformer, table: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    config, hidden = network.config, source == network.config.padding

    def words(tokens: torch.Tensor) -> torch.Tensor:
        d = config.width
        places = torch.zeros(tokens.shape[1], d)
        for place in range(tokens.shape[1]):
            for i in range(d):
                wave = place / 10000 ** (2 * (i // 2) / d)
                places[place, i] = math.cos(wave) if i % 2 else math.sin(wave)
        return table[tokens] * d**0.5 + places

    def attend(layer: Attention, x: torch.Tensor, y: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = x @ layer.query.weight.T, y @ layer.key.weight.T, y @ layer.value.weight.T
        heads = []
        for qh, kh, vh in zip(q.chunk(config.heads, -1), k.chunk(config.heads, -1), v.chunk(config.heads, -1)):
            scores = qh @ kh.transpose(1, 2) / math.sqrt(qh.shape[-1])
            heads.append(scores.masked_fill(mask, -torch.inf).softmax(-1) @ vh)
        return torch.cat(heads, -1) @ layer.out.weight.T

    memory = words(source)
    for layer in network.encoder:
        memory = layer.norm1(memory + attend(layer.attention, memory, memory, hidden[:, None]))
        memory = layer.norm2(memory + layer.mlp[2](layer.mlp[0](memory).clamp_min(0)))
    x = words(target)
    future = torch.ones(x.shape[1], x.shape[1]).triu(1).bool()
    for layer in network.decoder:
        x = layer.norm1(x + attend(layer.attention, x, x, future))
        x = layer.norm2(x + attend(layer.across, x, memory, hidden[:, None]))
        x = layer.norm3(x + layer.mlp[2](layer.mlp[0](x).clamp_min(0)))
    return x @ table.T


# --------------------------------------------------------------------------------------------------- properties


@settings(deadline=None, max_examples=20)
@given(cuts=st.lists(st.integers(1, 4), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_going_on_equals_the_whole(cuts: list[int], seed: int, drawn: Draw) -> None:
    """Keys and values kept from one call to the next: any division of the target gives the logits of the whole."""
    network = drawn(build(TINY))
    source, target = sentences(TINY, seed=seed), sentences(TINY, sum(cuts), seed=seed + 1)
    state, found = network.start(source), []
    for part in target.split(cuts, dim=1):
        logits, state = network.decode(part, state)
        found.append(logits)
    assert state.length == sum(cuts)
    torch.testing.assert_close(torch.cat(found, dim=1), network(source, target), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_nothing_comes_from_the_future_or_from_padding(drawn: Draw) -> None:
    network = drawn(build(TINY))
    source, target = sentences(TINY), sentences(TINY, 8, seed=1)
    logits = network(source, target)
    for place in range(8):
        changed = target.clone()
        changed[:, place] = 3 + (changed[:, place] - 2) % 13
        difference = (network(source, changed) - logits).abs().amax(dim=(0, 2))
        assert not (difference[:place] > 1e-5).any()
        assert float(difference[place]) > 1e-3
    longer = F.pad(source, (0, 4), value=TINY.padding)
    torch.testing.assert_close(network(longer, target), logits, rtol=1e-4, atol=1e-4)


def test_without_positions_the_encoder_does_not_know_the_order(drawn: Draw) -> None:
    network, order = drawn(build(TINY)), torch.tensor([2, 0, 3, 1])
    x = noise(2, 4, TINY.width)

    def read(x: torch.Tensor) -> torch.Tensor:
        for layer in network.encoder:
            x = layer(x)
        return x

    torch.testing.assert_close(read(x[:, order]), read(x)[:, order], rtol=1e-4, atol=1e-5)
    tokens = sentences(TINY, 4, batch=1)
    tokens[tokens == TINY.padding] = 5
    assert not torch.allclose(network.encode(tokens[:, order]), network.encode(tokens)[:, order], atol=1e-2)


def test_sinusoids_move_by_a_rotation() -> None:
    """Section 3.5: for any distance k, the waves at m + k are a linear function of those at m, the same for all m."""
    waves, k = sinusoids(50, 16), 10
    assert waves[7, :2].tolist() == pytest.approx([math.sin(7), math.cos(7)])
    assert waves[7, 14:].tolist() == pytest.approx([math.sin(7 * 10000 ** (-7 / 8)), math.cos(7 * 10000 ** (-7 / 8))])
    torch.testing.assert_close(sinusoids(20, 16, start=30), waves[30:])
    sine, cosine = waves[:40, 0::2], waves[:40, 1::2]
    moved = torch.stack(
        [sine * waves[k, 1::2] + cosine * waves[k, 0::2], cosine * waves[k, 1::2] - sine * waves[k, 0::2]], -1
    )
    torch.testing.assert_close(moved.flatten(1), waves[k:], rtol=0, atol=1e-5)


def test_the_embedding_is_the_last_layer(drawn: Draw) -> None:
    network = drawn(build(TINY))
    assert sum(p.numel() == TINY.vocabulary * TINY.width for p in network.parameters()) == 1
    logits = network(sentences(TINY), sentences(TINY, 3))
    with torch.no_grad():
        network.embedding.weight[5] += 1  # a word that neither sentence has changes its own logit alone
    source, target = sentences(TINY), sentences(TINY, 3)
    source[source == 5], target[target == 5] = 6, 6
    changed = network(source, target)
    with torch.no_grad():
        network.embedding.weight[5] -= 1
    before = network(source, target)
    assert logits.shape == before.shape == (2, 3, TINY.vocabulary)
    others = [k for k in range(TINY.vocabulary) if k != 5]
    torch.testing.assert_close(changed[..., others], before[..., others])
    assert not torch.allclose(changed[..., 5], before[..., 5])


def test_the_schedule_is_the_paper_s() -> None:
    """Eq. 3: 4000 steps up to d^-0.5 4000^-0.5, 7e-4 for the base model, then down with the root of the step."""
    assert learning_rate(4000, 512) == pytest.approx(512**-0.5 * 4000**-0.5) == pytest.approx(6.99e-4, rel=1e-3)
    assert learning_rate(1, 512) == pytest.approx(learning_rate(4000, 512) / 4000)
    assert learning_rate(16000, 512) == pytest.approx(learning_rate(4000, 512) / 2)
    assert max(range(1, 1000), key=lambda step: learning_rate(step, 64, warmup=100)) == 100


def test_smoothing_is_the_divergence_from_the_smoothed_truth() -> None:
    logits, target = noise(2, 5, 7), torch.tensor([[1, 2, 3, 0, 0], [4, 5, 6, 1, 0]])
    found = label_smoothing_loss(logits, target, 0.1)
    truth = F.one_hot(target, 7) * 0.9 + 0.1 / 7
    divergence = (truth * (truth.log() - logits.log_softmax(-1))).sum(-1)
    torch.testing.assert_close(found, divergence[target != 0].mean())
    torch.testing.assert_close(label_smoothing_loss(truth.log(), target, 0.1), torch.tensor(0.0), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        label_smoothing_loss(logits, target, 0.0),
        F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=0),
    )
    assert label_smoothing_loss(logits, torch.zeros_like(target)) == 0


def test_sizes_of_table_3() -> None:
    """65 and 213 million parameters with 37000 tokens; the paper counts some biases and rounds."""
    with torch.device("meta"):
        base, big = (sum(p.numel() for p in build(VARIANTS[f"transformer_{n}"]).parameters()) for n in ("base", "big"))
    layer = 2 * (2 * 512 * 2048) + 12 * 512 * 512  # matrices of one layer on either side
    assert base - 37000 * 512 - 6 * layer == 6 * (2 * (2048 + 512) + 5 * 2 * 512)  # biases of MLPs, and norms
    assert base == pytest.approx(65e6, rel=0.04)
    assert big == pytest.approx(213e6, rel=0.01)


def test_compiled_it_gives_the_same(drawn: Draw) -> None:
    network, source, target = drawn(build(TINY)), sentences(TINY), sentences(TINY, 5)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(source, target), network(source, target))


def test_layers_can_be_recomputed(drawn: Draw, assert_recomputed_the_same: Callable[..., None]) -> None:
    network = drawn(build(replace(TINY, dropout=0.3)))
    layers = [*network.encoder, *network.decoder]
    assert_recomputed_the_same(network, layers, sentences(TINY), sentences(TINY, 5, seed=1))


def test_dropping_is_seeded_and_off_in_evaluation() -> None:
    network, source, target = build(replace(TINY, dropout=0.3)), sentences(TINY), sentences(TINY, 5)

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return network(source, target)

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))
    network.eval()
    assert torch.equal(run(0), run(1))


def test_heads_that_do_not_divide_the_width_are_told() -> None:
    with pytest.raises(ValueError, match="32 numbers per token cannot be shared equally by 5 heads"):
        build(replace(TINY, heads=5))
