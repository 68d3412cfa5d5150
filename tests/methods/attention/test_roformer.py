"""RoFormer: equal to transformers' and to the equations; what it sees is distance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from abbe.methods.attention.roformer import VARIANTS, RoFormer, RoFormerConfig, build, linear_attention
from abbe.nn.rope import angles, rotate
from abbe.weights.load import load_strict
from abbe.weights.rename import recognise
from abbe.weights.tables.roformer import LAYOUTS, TRANSFORMERS, TRANSFORMERS_BARE

Draw = Callable[..., Any]
TINY = VARIANTS["roformer_tiny"]
WIDER = replace(TINY, width=48, heads=3, embedding_width=20, mlp=40, depth=3)
BASE = VARIANTS["roformer_base"]
SMALL = replace(BASE, vocabulary=12000, width=384, depth=6, heads=6, mlp=1536)
"""Of the published roformer_chinese_char_small."""


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sentences(config: RoFormerConfig, seed: int = 0) -> torch.Tensor:
    tokens = torch.randint(1, config.vocabulary, (2, 9), generator=torch.Generator().manual_seed(seed))
    tokens[1, 6:] = config.padding
    return tokens


def through_words(network: Any, tokens: torch.Tensor, **more: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network as a function of its table of words, which is where a gradient can go."""
    name = next(n for n, _ in network.named_parameters() if n.endswith(("words.weight", "word_embeddings.weight")))

    def call(words: torch.Tensor) -> torch.Tensor:
        found = torch.func.functional_call(network, {name: words}, (tokens,), more, tie_weights=True)
        return found if isinstance(found, torch.Tensor) else found[0]

    return call


@pytest.mark.parametrize(
    "config",
    [TINY, WIDER, replace(TINY, pairing="half"), replace(WIDER, pairing="half"), SMALL],
    ids=["tiny", "wider", "tiny-half", "wider-half", "small"],
)
def test_equal_to_transformers(config: RoFormerConfig, drawn: Draw, assert_same: Callable[..., None]) -> None:
    transformers = pytest.importorskip("transformers")
    network = drawn(build(replace(config, masked_head=False)))
    peer = transformers.RoFormerModel(transformers_config(config, transformers.RoFormerConfig)).eval()
    theirs = TRANSFORMERS_BARE.to_theirs(network.state_dict(), asdict(config))
    found = peer.load_state_dict(theirs, strict=False)
    assert found.unexpected_keys == []
    assert set(found.missing_keys) <= {"encoder.embed_positions.weight"}
    tokens, seen = sentences(config), (sentences(config) != 0).long()
    segments = torch.tensor([[0] * 4 + [1] * 5] * 2)
    ours = through_words(network, tokens, segments=segments)
    peers = through_words(peer, tokens, token_type_ids=segments, attention_mask=seen)
    visible = seen.bool()
    assert_same(lambda w: ours(w)[visible], lambda w: peers(w)[visible], network.words.weight.detach())


@pytest.mark.parametrize("config", [WIDER, SMALL, BASE], ids=["wider", "small", "base"])
def test_head_equal_to_transformers(config: RoFormerConfig, drawn: Draw, assert_same: Callable[..., None]) -> None:
    """The table of words is the last layer too, and its gradient comes from both ends."""
    transformers = pytest.importorskip("transformers")
    network = drawn(build(config))
    peer = transformers.RoFormerForMaskedLM(transformers_config(config, transformers.RoFormerConfig)).eval()
    theirs = TRANSFORMERS.to_theirs(network.state_dict(), asdict(config))
    peer.load_state_dict(theirs, strict=False)
    peer.cls.predictions.decoder.load_state_dict({"weight": network.words.weight, "bias": network.head.bias})
    tokens = sentences(config)
    seen = tokens != config.padding
    ours, peers = through_words(network, tokens), through_words(peer, tokens, attention_mask=seen.long())
    assert_same(lambda w: ours(w)[seen], lambda w: peers(w)[seen], network.words.weight.detach())


def transformers_config(config: RoFormerConfig, type_: Any) -> Any:
    return type_(
        vocab_size=config.vocabulary,
        embedding_size=config.embedding_width or config.width,
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp,
        max_position_embeddings=32,
        type_vocab_size=config.segments,
        pad_token_id=config.padding,
        rotary_value=False,
    )


@pytest.mark.parametrize("config", [TINY, WIDER])
def test_equal_to_the_equations(config: RoFormerConfig, drawn: Draw, assert_same: Callable[..., None]) -> None:
    """With complex numbers for pairs of channels, one head at a time, in the published names."""
    network = drawn(build(config))
    w = TRANSFORMERS.to_theirs(network.state_dict(), asdict(config))
    tokens = sentences(config)

    def theirs(words: torch.Tensor) -> torch.Tensor:
        def linear(name: str, x: torch.Tensor) -> torch.Tensor:
            return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

        def norm(name: str, x: torch.Tensor) -> torch.Tensor:
            x = x - x.mean(-1, keepdim=True)
            return x / (x.square().mean(-1, keepdim=True) + 1e-12).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]

        x = words[tokens] + w["roformer.embeddings.token_type_embeddings.weight"][0]
        x = norm("roformer.embeddings.LayerNorm", x)
        if config.embedding_width:
            x = linear("roformer.embeddings_project", x)
        for i in range(config.depth):
            layer = f"roformer.encoder.layer.{i}."
            q, k, v = (linear(f"{layer}attention.self.{part}", x) for part in ("query", "key", "value"))
            x = norm(
                f"{layer}attention.output.LayerNorm",
                x + linear(f"{layer}attention.output.dense", complex_attention(q, k, v, tokens == 0, config.heads)),
            )
            y = linear(f"{layer}output.dense", F.gelu(linear(f"{layer}intermediate.dense", x)))
            x = norm(f"{layer}output.LayerNorm", x + y)
        x = norm("cls.predictions.transform.LayerNorm", F.gelu(linear("cls.predictions.transform.dense", x)))
        return x @ words.T + w["cls.predictions.bias"]

    assert_same(through_words(network, tokens), theirs, network.words.weight.detach())


def complex_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, hidden: torch.Tensor, heads: int
) -> torch.Tensor:
    found = []
    for qh, kh, vh in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1)):
        d = qh.shape[-1]
        turned = torch.arange(q.shape[1])[:, None] * 10000.0 ** (-torch.arange(0, d, 2) / d)
        phase = torch.polar(torch.ones_like(turned), turned)
        qc, kc = (torch.view_as_complex(t.unflatten(-1, (-1, 2)).contiguous()) * phase for t in (qh, kh))
        scores = (qc @ kc.conj().transpose(1, 2)).real / d**0.5
        found.append(scores.masked_fill(hidden[:, None], -torch.inf).softmax(-1) @ vh)
    return torch.cat(found, dim=-1)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_both_layouts_load_into_both_pairings(layout: Any, drawn: Draw) -> None:
    """Reordered rows, the same outputs."""
    config = replace(WIDER, masked_head=layout is TRANSFORMERS)
    network, other = drawn(build(config)), build(replace(config, pairing="half")).eval()
    theirs = layout.to_theirs(network.state_dict(), asdict(config))
    before = "roformer." if layout is TRANSFORMERS else ""
    published = theirs | {f"{before}encoder.embed_positions.weight": torch.zeros(3, 4)}
    assert recognise(list(published), LAYOUTS, "a file") is layout
    load_strict(other, layout.to_ours(published, asdict(other.config), "a file"), "a file")
    back = layout.to_theirs(other.state_dict(), asdict(other.config))
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.items())
    tokens = sentences(config)
    torch.testing.assert_close(other(tokens), network(tokens), rtol=1e-4, atol=1e-4)
    assert not torch.equal(other.blocks[0].attention.query.weight, network.blocks[0].attention.query.weight)


def test_a_sentence_may_begin_anywhere(drawn: Draw) -> None:
    """Without a look at what is before, the same words mean the same at any place."""
    network = drawn(build(replace(TINY, masked_head=False)))
    words = sentences(TINY)[:1, :5]
    moved = F.pad(words, (7, 0), value=TINY.padding)
    torch.testing.assert_close(network(moved)[:, 7:], network(words), rtol=1e-4, atol=1e-4)
    waves = drawn(build(replace(TINY, masked_head=False, positions="sinusoidal")))
    assert not torch.allclose(waves(moved)[:, 7:], waves(words), atol=0.1)


def test_order_matters_only_with_positions(drawn: Draw) -> None:
    tokens, order = sentences(TINY)[:1], torch.tensor([3, 1, 4, 0, 5, 2, 8, 7, 6])
    for positions in ("rotary", "sinusoidal", "none"):
        network: RoFormer = drawn(build(replace(TINY, positions=positions)))
        same = torch.allclose(network(tokens)[:, order], network(tokens[:, order]), rtol=1e-4, atol=1e-4)
        assert same == (positions == "none")


@pytest.mark.parametrize("turned", [True, False])
def test_linear_attention_is_the_sum_over_all_pairs(turned: bool) -> None:
    q, k, v = (noise(2, 3, 7, 8, seed=i) for i in range(3))
    seen = torch.ones(2, 1, 7, 1, dtype=torch.bool)
    seen[1, :, 5:] = False
    angle = angles(torch.arange(7), 8) if turned else None
    phi_q, phi_k = F.elu(q) + 1, F.elu(k) + 1
    plain = phi_q @ phi_k.transpose(-2, -1)
    turn = (rotate(phi_q, angle) @ rotate(phi_k, angle).transpose(-2, -1)) if angle is not None else plain
    mask = seen.transpose(-2, -1)
    expected = (turn * mask) @ v / (plain * mask).sum(-1, keepdim=True)  # Eq. 19
    torch.testing.assert_close(linear_attention(q, k, v, angle, seen), expected, rtol=1e-4, atol=1e-4)


def test_linear_attention_in_a_network(drawn: Draw) -> None:
    network = drawn(build(replace(TINY, attention="linear", masked_head=False)))
    words = sentences(TINY)[:1, :5]
    moved = F.pad(words, (7, 0), value=TINY.padding)
    torch.testing.assert_close(network(moved)[:, 7:], network(words), rtol=1e-3, atol=1e-3)


def test_parameters_of_the_published_size() -> None:
    """BERT base's layers, 50000 words and no table of positions."""
    layer = 4 * (768 * 768 + 768) + (768 * 3072 + 3072) + (3072 * 768 + 768) + 4 * 768
    body = 50000 * 768 + 2 * 768 + 2 * 768 + 12 * layer
    with torch.device("meta"):
        network = build(VARIANTS["roformer_base"])
    assert sum(p.numel() for p in network.parameters()) == body + (768 * 768 + 768) + 2 * 768 + 50000


def test_compiled_it_gives_the_same(drawn: Draw) -> None:
    network, tokens = drawn(build(TINY)), sentences(TINY)
    torch.testing.assert_close(torch.compile(network, backend="eager", fullgraph=True)(tokens), network(tokens))


def test_blocks_can_be_recomputed(drawn: Draw, assert_recomputed_the_same: Callable[..., None]) -> None:
    network = drawn(build(replace(TINY, dropout=0.3)))
    assert_recomputed_the_same(network, network.blocks, sentences(TINY))


def test_heads_that_do_not_divide_the_width_are_told() -> None:
    with pytest.raises(ValueError, match="32 numbers per token cannot be shared equally by 5 heads"):
        build(replace(TINY, heads=5))
