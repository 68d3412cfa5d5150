"""The vision transformer: equal to three other implementations, and to the paper's equations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import abbe
from abbe.errors import AbbeError
from abbe.methods.attention.vit import VARIANTS, ViT, ViTConfig, build, resampled
from abbe.nn.pyramid import TokenBackbone
from abbe.weights.load import load_strict
from abbe.weights.rename import recognise
from abbe.weights.tables.vit import (
    GOOGLE,
    LAYOUTS,
    PUBLISHED,
    STEM,
    TIMM,
    TORCHVISION,
    TRANSFORMERS,
    TRANSFORMERS_BARE,
)
from abbe.weights.tables.vit_rope import PUBLISHED as ROPE_PUBLISHED

Draw = Callable[..., Any]
TINY = VARIANTS["vit_patch4_tiny"]
SMALL = replace(TINY, image_size=64, patch=16, width=192, heads=3, mlp=768, depth=2)
"""Width of ViT-Ti, two blocks."""


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def carried(network: ViT, layout: Any, peer: nn.Module, before: str = "") -> nn.Module:
    theirs = layout.to_theirs(network.state_dict(), asdict(network.config))
    peer.load_state_dict({before + name: tensor for name, tensor in theirs.items()})
    return peer.eval()


# ------------------------------------------------------------------------------------------------ against peers


@pytest.mark.parametrize("config", [TINY, SMALL])
def test_equal_to_timm(config: ViTConfig, drawn: Draw, assert_same: Callable[..., None]) -> None:
    timm = pytest.importorskip("timm.models.vision_transformer")
    network = drawn(build(config))
    peer = timm.VisionTransformer(
        config.image_size,
        config.patch,
        num_classes=config.num_classes,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp / config.width,
    )
    assert_same(network, carried(network, TIMM, peer), noise(2, 3, config.image_size, config.image_size))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_224", "vit_small_patch32_224"])
def test_published_sizes_are_those_of_timm(name: str, drawn: Draw, assert_same: Callable[..., None]) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):  # the numbers come below
        ours, peer = build(VARIANTS[name]), timm.create_model(name)
    network = drawn(ours.to_empty(device="cpu"))
    peer.load_state_dict(TIMM.to_theirs(network.state_dict(), asdict(network.config)), assign=True)
    assert_same(network, peer.eval(), noise(1, 3, 224, 224))


@pytest.mark.parametrize("config", [TINY, replace(SMALL, pre_logits=24)])
def test_equal_to_torchvision(config: ViTConfig, drawn: Draw, assert_same: Callable[..., None]) -> None:
    torchvision = pytest.importorskip("torchvision.models.vision_transformer")
    network = drawn(build(config))
    peer = torchvision.VisionTransformer(
        config.image_size,
        config.patch,
        config.depth,
        config.heads,
        config.width,
        config.mlp,
        num_classes=config.num_classes,
        representation_size=config.pre_logits or None,
    )
    assert_same(network, carried(network, TORCHVISION, peer), noise(2, 3, config.image_size, config.image_size))


@pytest.mark.parametrize("extents", [(16, 16), (20, 12)])
def test_equal_to_transformers(extents: tuple[int, int], drawn: Draw, assert_same: Callable[..., None]) -> None:
    transformers = pytest.importorskip("transformers")
    for config in (replace(TINY, gelu="tanh"), replace(SMALL, image_size=16, patch=4)):
        network = drawn(build(config))
        theirs = transformers_config(config, transformers.ViTConfig)
        peer = transformers.ViTForImageClassification(theirs)
        peer = carried(network, TRANSFORMERS, peer)
        assert_same(network, lambda x, peer=peer: peer(x, interpolate_pos_encoding=True).logits, noise(2, 3, *extents))


def test_equal_to_the_bare_encoder_of_transformers(drawn: Draw, assert_same: Callable[..., None]) -> None:
    transformers = pytest.importorskip("transformers")
    network = drawn(build(replace(TINY, num_classes=0, pre_logits=TINY.width)))
    peer = transformers.ViTModel(transformers_config(network.config, transformers.ViTConfig))
    peer = carried(network, TRANSFORMERS_BARE, peer)
    assert_same(network, lambda x: peer(x).pooler_output, noise(2, 3, 16, 16))


def transformers_config(config: ViTConfig, type_: Any) -> Any:
    return type_(
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp,
        hidden_act="gelu_pytorch_tanh" if config.gelu == "tanh" else "gelu",
        image_size=config.image_size,
        patch_size=config.patch,
        num_labels=config.num_classes,
        layer_norm_eps=1e-6,
        attn_implementation="eager",
    )


def test_equal_to_the_authors_arithmetic(drawn: Draw, assert_same: Callable[..., None]) -> None:
    """In the shapes of their files, each head's kernel by itself, with einsum."""
    network = drawn(build(replace(TINY, gelu="tanh", pre_logits=16)))
    w = GOOGLE.to_theirs(network.state_dict(), asdict(network.config))

    def theirs(image: torch.Tensor) -> torch.Tensor:
        cut = image.unfold(2, 4, 4).unfold(3, 4, 4)  # (B, C, Y/P, X/P, P, P)
        x = torch.einsum("bcyxhw,hwcd->byxd", cut, w["embedding/kernel"]).flatten(1, 2) + w["embedding/bias"]
        x = torch.cat([w["cls"].expand(len(x), -1, -1), x], dim=1) + w["Transformer/posembed_input/pos_embedding"]
        for i in range(TINY.depth):
            x = authors_block(x, {k.split("/", 2)[2]: v for k, v in w.items() if f"encoderblock_{i}/" in k})
        x = layer_norm(x, w["Transformer/encoder_norm/scale"], w["Transformer/encoder_norm/bias"])[:, 0]
        x = torch.tanh(x @ w["pre_logits/kernel"] + w["pre_logits/bias"])
        return x @ w["head/kernel"] + w["head/bias"]

    assert_same(network, theirs, noise(2, 3, 16, 16))


def authors_block(x: torch.Tensor, w: dict[str, torch.Tensor]) -> torch.Tensor:
    y = layer_norm(x, w["LayerNorm_0/scale"], w["LayerNorm_0/bias"])
    a = "MultiHeadDotProductAttention_1/"
    q, k, v = (
        torch.einsum("bnd,dhk->bnhk", y, w[f"{a}{part}/kernel"]) + w[f"{a}{part}/bias"]
        for part in ("query", "key", "value")
    )
    weights = torch.einsum("bqhk,bmhk->bhqm", q / q.shape[-1] ** 0.5, k).softmax(-1)
    y = torch.einsum("bhqm,bmhk->bqhk", weights, v)
    x = x + torch.einsum("bqhk,hkd->bqd", y, w[f"{a}out/kernel"]) + w[f"{a}out/bias"]
    y = layer_norm(x, w["LayerNorm_2/scale"], w["LayerNorm_2/bias"])
    y = y @ w["MlpBlock_3/Dense_0/kernel"] + w["MlpBlock_3/Dense_0/bias"]
    y = 0.5 * y * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (y + 0.044715 * y**3)))
    return x + y @ w["MlpBlock_3/Dense_1/kernel"] + w["MlpBlock_3/Dense_1/bias"]


def layer_norm(x: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * scale + bias


# --------------------------------------------------------------------------------------------------- key tables


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_every_layout_loads_back_to_the_same_network(layout: Any, drawn: Draw) -> None:
    bare = layout is TRANSFORMERS_BARE
    config = replace(TINY, pre_logits=8, num_classes=0 if bare else 5)
    network, other = drawn(build(config)), build(config)
    theirs = layout.to_theirs(network.state_dict(), asdict(config))
    assert recognise(list(theirs), LAYOUTS, "a file") is layout
    load_strict(other, layout.to_ours(theirs, asdict(config), "a file"), "a file")
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), other.state_dict().values()))
    assert set(STEM) < set(network.state_dict())


@pytest.mark.parametrize("layout", [TIMM, TORCHVISION, TRANSFORMERS, GOOGLE], ids=lambda layout: layout.name)
def test_files_of_others_open_by_name(layout: Any, drawn: Draw, tmp_path: Path) -> None:
    """As .npz, .pth and .safetensors; grey images give what they gave as colour."""
    config = replace(TINY, gelu="tanh", pre_logits=6) if layout is GOOGLE else TINY
    network = drawn(build(config))
    theirs, path = layout.to_theirs(network.state_dict(), asdict(config)), tmp_path / "weights"
    if layout is GOOGLE:
        np.savez(path := path.with_suffix(".npz"), **{name: tensor.numpy() for name, tensor in theirs.items()})
    elif layout is TORCHVISION:
        torch.save({"model": theirs}, path := path.with_suffix(".pth"))
    else:
        save_file(theirs, path := path.with_suffix(".safetensors"))
    given = {"gelu": "tanh", "pre_logits": 6} if layout is GOOGLE else {}
    found = abbe.create("vit_patch4_tiny", weights=path, **given).eval()
    grey = abbe.create("vit_patch4_tiny", weights=path, in_channels=1, **given).eval()
    x = noise(2, 1, 16, 20)
    torch.testing.assert_close(found(x.expand(-1, 3, -1, -1)), network(x.expand(-1, 3, -1, -1)))
    torch.testing.assert_close(grey(x), network(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)


def test_published_files_are_of_networks_that_exist() -> None:
    """Parameters as recorded, configs that can be built; one name, one file."""
    assert len({record.name for record in (*PUBLISHED, *ROPE_PUBLISHED)}) == len(PUBLISHED) + len(ROPE_PUBLISHED)
    for record in PUBLISHED:
        config = replace(VARIANTS[record.network], **record.config)
        assert record.size == config.image_size
        grid, layer = (config.image_size // config.patch) ** 2, 4 * config.width + 2 * config.mlp
        body = config.depth * (config.width * layer + 9 * config.width + config.mlp) + 2 * config.width
        body += config.width * (config.patch**2 * 3 + 1) + (2 + grid) * config.width
        body += config.pre_logits * (config.width + 1)
        assert record.parameters == body + config.num_classes * ((config.pre_logits or config.width) + 1), record.name


def test_old_names_of_torchvision_load(drawn: Draw) -> None:
    network = drawn(build(TINY))
    theirs = TORCHVISION.to_theirs(network.state_dict(), asdict(TINY))
    old = {k.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): v for k, v in theirs.items()}
    assert old.keys() != theirs.keys()
    load_strict(build(TINY), TORCHVISION.to_ours(old, asdict(TINY), "a file"), "a file")


def test_weights_of_another_depth_are_refused(drawn: Draw) -> None:
    theirs = TIMM.to_theirs(drawn(build(TINY)).state_dict(), asdict(TINY))
    with pytest.raises(AbbeError, match=r"a file: does not fit ViT; missing: blocks\.3"):
        load_strict(build(replace(TINY, depth=4)), TIMM.to_ours(theirs, asdict(TINY), "a file"), "a file")


# -------------------------------------------------------------------------------------------------------- sizes

TIMMS = (5_717_416, 22_050_664, 22_878_952, 86_567_656, 88_224_232, 304_326_632, 306_535_400, 632_045_800)
"""Parameters as timm 1.0 counts them: Ti/16, S/16, S/32, B/16, B/32, L/16, L/32, H/14, all for 224 pixels."""


def test_parameters_as_counted_by_timm() -> None:
    names = ("tiny_patch16", "small_patch16", "small_patch32", "base_patch16", "base_patch32", "large_patch16")
    names += ("large_patch32", "huge_patch14")
    with torch.device("meta"):
        counts = [sum(p.numel() for p in build(VARIANTS[f"vit_{n}_224"]).parameters()) for n in names]
    assert counts == list(TIMMS)


@pytest.mark.parametrize("size", ["tiny_patch16_384", "small_patch32_384", "large_patch14_224", "huge_patch14_224"])
def test_names_and_shapes_as_in_timm(size: str) -> None:
    timm = pytest.importorskip("timm")
    config = VARIANTS[f"vit_{size}"]
    with torch.device("meta"):
        ours = TIMM.to_theirs(build(config).state_dict(), asdict(config))
        theirs = timm.create_model(f"vit_{size}", num_classes=1000).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_names_and_shapes_as_in_torchvision() -> None:
    models = pytest.importorskip("torchvision.models")
    for ours, theirs in {"base_patch16": "b_16", "large_patch32": "l_32", "huge_patch14": "h_14"}.items():
        config = VARIANTS[f"vit_{ours}_224"]
        with torch.device("meta"):
            shapes = TORCHVISION.to_theirs(build(config).state_dict(), asdict(config))
            peer = models.get_model(f"vit_{theirs}").state_dict()
        assert {k: v.shape for k, v in shapes.items()} == {k: v.shape for k, v in peer.items()}


# --------------------------------------------------------------------------------------------------- properties


def test_without_positions_the_order_of_patches_does_not_matter(drawn: Draw) -> None:
    network = drawn(build(TINY))
    x, order = noise(1, 3, 16, 16), torch.randperm(16, generator=torch.Generator().manual_seed(0))
    shuffled = F.fold(F.unfold(x, 4, stride=4)[..., order], (16, 16), 4, stride=4)
    assert not torch.allclose(network(x), network(shuffled), atol=1e-3)
    nn.init.zeros_(network.positions)
    torch.testing.assert_close(network(x), network(shuffled), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network.tokens(x)[:, 1:][:, order], network.tokens(shuffled)[:, 1:])


def test_resampling_is_cubic_convolution_and_leaves_the_class_token() -> None:
    table = noise(1, 1 + 5 * 8, 3)
    assert resampled(table, (5, 8), (5, 8)) is table
    found = resampled(table, (5, 8), (9, 6))
    assert torch.equal(found[:, 0], table[:, 0])
    expected = torch.einsum("yi,xj,ijd->yxd", cubic(5, 9), cubic(8, 6), table[0, 1:].unflatten(0, (5, 8)))
    torch.testing.assert_close(found[0, 1:].unflatten(0, (9, 6)), expected)


def cubic(old: int, new: int) -> torch.Tensor:
    """Weights (new, old) of Keys' kernel with a = −3/4, pixel centres on pixel centres, the border repeated."""
    weights = torch.zeros(new, old)
    for i in range(new):
        place = (i + 0.5) * old / new - 0.5
        for tap in range(int(place // 1) - 1, int(place // 1) + 3):
            t = abs(place - tap)
            near, far = 1.25 * t**3 - 2.25 * t**2 + 1, -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
            weights[i, min(max(tap, 0), old - 1)] += near if t <= 1 else far
    return weights


def test_features_are_what_the_forward_pass_computes(drawn: Draw) -> None:
    network = drawn(build(TINY))
    x = noise(2, 3, 16, 24)
    found = network.features(x, network.feature_names)
    assert tuple(found) == network.feature_names
    assert torch.equal(found["norm"], network.tokens(x))
    tokens = 1 + 4 * 6
    for i, block in enumerate(network.blocks):
        maps = found[f"blocks.{i}.attention"]
        assert maps.shape == (2, TINY.heads, tokens, tokens)
        torch.testing.assert_close(maps.sum(-1), torch.ones(maps.shape[:-1]))
        before = found[f"blocks.{i - 1}" if i else "embedding"]
        values = block.attention.split(block.norm1(before))[2]
        mixed = block.attention.out((maps @ values).transpose(1, 2).flatten(2))
        torch.testing.assert_close(mixed, block.attention(block.norm1(before)), rtol=1e-4, atol=1e-5)
    assert list(network.features(x, ["blocks.1", "embedding"])) == ["blocks.1", "embedding"]
    with pytest.raises(ValueError, match=r"no features are called blocks\.9; there are embedding, blocks\.0\.att"):
        network.features(x, ["blocks.9"])


@pytest.mark.parametrize("channels", [1, 5])
def test_any_channels_and_any_number_of_patches(channels: int) -> None:
    network = build(replace(TINY, in_channels=channels)).eval()
    assert isinstance(network, TokenBackbone)
    assert network(noise(1, channels, 4, 28)).shape == (1, 10)
    assert network.tokens(noise(1, channels, 8, 28)).shape == (1, network.prefix + 2 * 7, 24)
    assert network.patch == (4, 4)
    for extents in ((18, 16), (0, 4)):
        with pytest.raises(ValueError, match="are not multiples of the patch"):
            network(torch.zeros(1, channels, *extents))


def test_without_head_the_features_come_out(drawn: Draw) -> None:
    network = drawn(build(replace(TINY, num_classes=0)))
    x = noise(2, 3, 16, 16)
    assert torch.equal(network(x), network.tokens(x)[:, 0])
    narrow = drawn(build(replace(TINY, num_classes=0, pre_logits=7)))
    assert narrow(x).shape == (2, 7)
    assert float(narrow(x).detach().abs().max()) < 1


def test_layout_and_compiler_change_nothing(drawn: Draw) -> None:
    network = drawn(build(TINY))
    x = noise(2, 3, 16, 20)
    expected = network(x)
    torch.testing.assert_close(network.to(memory_format=torch.channels_last)(x), expected, rtol=1e-4, atol=1e-5)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)


def test_blocks_can_be_recomputed(drawn: Draw, assert_recomputed_the_same: Callable[..., None]) -> None:
    network = drawn(build(replace(TINY, dropout=0.3, drop_path=0.4)))
    assert_recomputed_the_same(network, network.blocks, noise(4, 3, 16, 16))


def test_dropping_is_seeded_and_off_in_evaluation() -> None:
    network = build(replace(TINY, dropout=0.3, drop_path=0.4))
    nn.init.normal_(network.head.weight)
    x = noise(4, 3, 16, 16)

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return network(x)

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))
    network.eval()
    assert torch.equal(run(0), run(1))
    assert [block.drop_path.rate for block in network.blocks] == pytest.approx([0, 0.2, 0.4])


def test_a_new_network_is_the_authors() -> None:
    torch.manual_seed(0)
    network = build(replace(TINY, width=192, mlp=768))
    assert not network.head.weight.any()  # so that fine-tuning begins with equal odds
    assert network.positions.std().item() == pytest.approx(0.02, rel=0.05)
    bound = (6 / (2 * 192)) ** 0.5  # Xavier's, for each of queries, keys and values
    assert network.blocks[0].attention.qkv.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert network.patches.weight.std().item() == pytest.approx((3 * 16) ** -0.5, rel=0.05)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"image_size": 18}, "not a whole number of patches"), ({"heads": 5}, "cannot be shared equally by 5 heads")],
)
def test_impossible_sizes_are_told(change: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build(replace(TINY, **change))
