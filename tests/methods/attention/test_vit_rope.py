"""The vision transformer with rotary positions: equal to timm's, and blind to where the image begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch

from abbe.methods.attention.vit_rope import VARIANTS, ViTRoPEConfig, build
from abbe.nn.pyramid import TokenBackbone
from abbe.nn.rope import angles, grid
from abbe.weights.load import load_strict
from abbe.weights.rename import recognise
from abbe.weights.tables.vit_rope import LAYOUTS, STEM, TIMM

Draw = Callable[..., Any]
TINY = VARIANTS["vit_rope_tiny"]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("config", "extents"),
    [(TINY, (24, 16)), (replace(TINY, patch=16, width=192, heads=3, mlp=768), (48, 64))],
)
def test_equal_to_timm(
    config: ViTRoPEConfig, extents: tuple[int, int], drawn: Draw, assert_same: Callable[..., None]
) -> None:
    eva = pytest.importorskip("timm.models.eva")
    network = drawn(build(config))
    peer = eva.Eva(
        img_size=extents,
        patch_size=config.patch,
        num_classes=config.num_classes,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp / config.width,
        attn_type="rope",
        qkv_bias=True,
        init_values=1e-5,
        global_pool="token",
        use_abs_pos_emb=False,
        use_rot_pos_emb=True,
        rope_grid_indexing="xy",
        rope_temperature=100.0,
    ).eval()
    peer.load_state_dict(TIMM.to_theirs(network.state_dict(), asdict(config)))
    assert_same(network, peer, noise(2, 3, *extents))


@pytest.mark.parametrize("name", ["vit_small_patch16_rope_224", "vit_base_patch16_rope_224"])
def test_published_sizes_are_those_of_timm(name: str, drawn: Draw, assert_same: Callable[..., None]) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):  # the numbers come below
        ours = build(VARIANTS[name])
    network, peer = drawn(ours.to_empty(device="cpu")), timm.create_model(name).eval()
    peer.load_state_dict(TIMM.to_theirs(network.state_dict(), asdict(network.config)))
    assert_same(network, peer, noise(1, 3, 224, 224))


def test_equal_to_the_equations(drawn: Draw, assert_same: Callable[..., None]) -> None:
    """Attention with complex numbers, patch by patch and head by head."""
    attention = drawn(build(TINY)).blocks[0].attention
    rows, columns, heads, d = 3, 2, TINY.heads, TINY.width // TINY.heads
    turned = torch.zeros(rows * columns, d // 2)
    for n in range(rows * columns):
        for i in range(d // 4):
            turned[n, i] = n % columns * 100.0 ** (-4 * i / d)
            turned[n, d // 4 + i] = n // columns * 100.0 ** (-4 * i / d)

    def theirs(x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros_like(x)
        q, k, v = attention.qkv(x).chunk(3, dim=-1)
        for h in range(heads):
            mine = slice(h * d, (h + 1) * d)
            qh, kh = (torch.view_as_complex(t[..., mine].unflatten(-1, (-1, 2)).contiguous()) for t in (q, k))
            phase = torch.polar(torch.ones_like(turned), turned)
            qh, kh = (torch.cat([t[:, :1], t[:, 1:] * phase], dim=1) for t in (qh, kh))
            scores = (qh @ kh.conj().transpose(1, 2)).real / d**0.5
            y = y.index_copy(2, torch.arange(h * d, (h + 1) * d), scores.softmax(-1) @ v[..., mine])
        return attention.out(y)

    assert_same(lambda x: attention(x, turned), theirs, noise(2, 1 + rows * columns, TINY.width))


def test_attention_is_blind_to_where_the_image_begins(drawn: Draw) -> None:
    """All places moved by one step: the same scores."""
    attention = drawn(build(TINY)).blocks[0].attention
    x, d = noise(1, 1 + 12, TINY.width), TINY.width // TINY.heads
    here = attention(x[:, 1:], angles(grid((3, 4)), d, 100.0))
    there = attention(x[:, 1:], angles(grid((3, 4)) + torch.tensor([5, 9]), d, 100.0))
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)


def test_layouts_load_back(drawn: Draw) -> None:
    network, other = drawn(build(TINY)), build(TINY)
    theirs = TIMM.to_theirs(network.state_dict(), asdict(TINY))
    assert recognise(list(theirs), LAYOUTS, "a file") is TIMM
    load_strict(other, TIMM.to_ours(theirs, asdict(TINY), "a file"), "a file")
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), other.state_dict().values()))
    assert set(STEM) < set(network.state_dict())


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_names_and_shapes_as_in_timm(size: str) -> None:
    timm = pytest.importorskip("timm")
    name = f"vit_{size}_patch16_rope_224"
    with torch.device("meta"):
        ours = TIMM.to_theirs(build(VARIANTS[name]).state_dict(), asdict(VARIANTS[name]))
        theirs = timm.create_model(name).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize("channels", [1, 5])
def test_any_channels_and_any_number_of_patches(channels: int) -> None:
    network = build(replace(TINY, in_channels=channels)).eval()
    assert isinstance(network, TokenBackbone)
    assert network(noise(1, channels, 4, 28)).shape == (1, 10)
    assert network.tokens(noise(1, channels, 8, 28)).shape == (1, network.prefix + 14, 24)
    with pytest.raises(ValueError, match="are not multiples of the patch"):
        network(torch.zeros(1, channels, 6, 8))


def test_without_head_the_features_come_out(drawn: Draw) -> None:
    network = drawn(build(replace(TINY, num_classes=0)))
    x = noise(2, 3, 8, 8)
    assert torch.equal(network(x), network.tokens(x)[:, 0])


def test_layout_and_compiler_change_nothing(drawn: Draw) -> None:
    network = drawn(build(TINY))
    x = noise(2, 3, 16, 20)
    expected = network(x)
    torch.testing.assert_close(network.to(memory_format=torch.channels_last)(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.compile(network, backend="eager", fullgraph=True)(x), expected)


def test_blocks_can_be_recomputed(drawn: Draw, assert_recomputed_the_same: Callable[..., None]) -> None:
    network = drawn(build(replace(TINY, dropout=0.3, drop_path=0.4)))
    assert_recomputed_the_same(network, network.blocks, noise(4, 3, 16, 20))
