"""Vision transformers (Dosovitskiy et al. 2021): where others keep what :mod:`abbe.methods.attention.vit` calls so.

The authors' kernels are (in, heads, in per head) for queries, keys and values and (heads, per head, out) for what joins
the heads; all but timm and torchvision keep the first three apart.
"""

from __future__ import annotations

from abbe.weights.published import Published
from abbe.weights.rename import HWIO, TRANSPOSED, Change, Layout, part

STEM = ("patches.weight",)
HEAD = ("head.",)
OPTIONAL = {"pre_logits": "pre_logits."}

HEADS_OUT = Change(
    lambda t, _: t.flatten(1).T,
    lambda t, config: t.T.unflatten(1, (config["heads"], -1)),
)
"""(in, heads, per head) in place of (out, in)."""
HEADS_IN = Change(
    lambda t, _: t.flatten(0, 1).T,
    lambda t, config: t.T.unflatten(0, (config["heads"], -1)),
)
"""(heads, per head, out) in place of (out, in)."""
HEADS_BIAS = Change(lambda t, _: t.flatten(), lambda t, config: t.unflatten(0, (config["heads"], -1)))
"""(heads, per head) in place of (out)."""

_GOOGLE_BLOCK = "Transformer/encoderblock_{i}/"
_GOOGLE_ATTENTION = _GOOGLE_BLOCK + "MultiHeadDotProductAttention_1/"

GOOGLE = Layout(
    "google-research/vision_transformer",
    (
        ("cls", "class_token"),
        ("embedding/kernel", "patches.weight", HWIO),
        ("embedding/bias", "patches.bias"),
        ("Transformer/posembed_input/pos_embedding", "positions"),
        (_GOOGLE_BLOCK + "LayerNorm_0/scale", "blocks.{i}.norm1.weight"),
        (_GOOGLE_BLOCK + "LayerNorm_0/bias", "blocks.{i}.norm1.bias"),
        (_GOOGLE_ATTENTION + "query/kernel", "blocks.{i}.attention.qkv.weight", part(0, 3, HEADS_OUT)),
        (_GOOGLE_ATTENTION + "key/kernel", "blocks.{i}.attention.qkv.weight", part(1, 3, HEADS_OUT)),
        (_GOOGLE_ATTENTION + "value/kernel", "blocks.{i}.attention.qkv.weight", part(2, 3, HEADS_OUT)),
        (_GOOGLE_ATTENTION + "query/bias", "blocks.{i}.attention.qkv.bias", part(0, 3, HEADS_BIAS)),
        (_GOOGLE_ATTENTION + "key/bias", "blocks.{i}.attention.qkv.bias", part(1, 3, HEADS_BIAS)),
        (_GOOGLE_ATTENTION + "value/bias", "blocks.{i}.attention.qkv.bias", part(2, 3, HEADS_BIAS)),
        (_GOOGLE_ATTENTION + "out/kernel", "blocks.{i}.attention.out.weight", HEADS_IN),
        (_GOOGLE_ATTENTION + "out/bias", "blocks.{i}.attention.out.bias"),
        (_GOOGLE_BLOCK + "LayerNorm_2/scale", "blocks.{i}.norm2.weight"),
        (_GOOGLE_BLOCK + "LayerNorm_2/bias", "blocks.{i}.norm2.bias"),
        (_GOOGLE_BLOCK + "MlpBlock_3/Dense_{n}/kernel", "blocks.{i}.mlp.fc{n+1}.weight", TRANSPOSED),
        (_GOOGLE_BLOCK + "MlpBlock_3/Dense_{n}/bias", "blocks.{i}.mlp.fc{n+1}.bias"),
        ("Transformer/encoder_norm/scale", "norm.weight"),
        ("Transformer/encoder_norm/bias", "norm.bias"),
        ("pre_logits/kernel", "pre_logits.weight", TRANSPOSED),
        ("pre_logits/bias", "pre_logits.bias"),
        ("head/kernel", "head.weight", TRANSPOSED),
        ("head/bias", "head.bias"),
    ),
    config={"gelu": "tanh"},
)

TIMM = Layout(
    "timm",
    (
        ("cls_token", "class_token"),
        ("pos_embed", "positions"),
        ("patch_embed.proj.{LEAF}", "patches.{LEAF}"),
        ("blocks.{i}.norm{n}.{LEAF}", "blocks.{i}.norm{n}.{LEAF}"),
        ("blocks.{i}.attn.qkv.{LEAF}", "blocks.{i}.attention.qkv.{LEAF}"),
        ("blocks.{i}.attn.proj.{LEAF}", "blocks.{i}.attention.out.{LEAF}"),
        ("blocks.{i}.mlp.fc{n}.{LEAF}", "blocks.{i}.mlp.fc{n}.{LEAF}"),
        ("norm.{LEAF}", "norm.{LEAF}"),
        ("pre_logits.fc.{LEAF}", "pre_logits.{LEAF}"),
        ("head.{LEAF}", "head.{LEAF}"),
    ),
)

_TORCHVISION_BLOCK = "encoder.layers.encoder_layer_{i}."

TORCHVISION = Layout(
    "torchvision",
    (
        ("class_token", "class_token"),
        ("encoder.pos_embedding", "positions"),
        ("conv_proj.{LEAF}", "patches.{LEAF}"),
        (_TORCHVISION_BLOCK + "ln_{n}.{LEAF}", "blocks.{i}.norm{n}.{LEAF}"),
        (_TORCHVISION_BLOCK + "self_attention.in_proj_{LEAF}", "blocks.{i}.attention.qkv.{LEAF}"),
        (_TORCHVISION_BLOCK + "self_attention.out_proj.{LEAF}", "blocks.{i}.attention.out.{LEAF}"),
        (_TORCHVISION_BLOCK + "mlp.0.{LEAF}", "blocks.{i}.mlp.fc1.{LEAF}"),
        (_TORCHVISION_BLOCK + "mlp.3.{LEAF}", "blocks.{i}.mlp.fc2.{LEAF}"),
        # files written before torchvision gave its MLP numbers
        (_TORCHVISION_BLOCK + "mlp.linear_{n}.{LEAF}", "blocks.{i}.mlp.fc{n}.{LEAF}"),
        ("encoder.ln.{LEAF}", "norm.{LEAF}"),
        ("heads.pre_logits.{LEAF}", "pre_logits.{LEAF}"),
        ("heads.head.{LEAF}", "head.{LEAF}"),
    ),
)


def transformers(name: str, before: str) -> Layout:
    """Make the layout of transformers' encoder, whose names begin with ``before``."""
    layer = before + "encoder.layer.{i}."
    attention = layer + "attention.attention."
    return Layout(
        name,
        (
            (before + "embeddings.cls_token", "class_token"),
            (before + "embeddings.position_embeddings", "positions"),
            (before + "embeddings.patch_embeddings.projection.{LEAF}", "patches.{LEAF}"),
            (layer + "layernorm_before.{LEAF}", "blocks.{i}.norm1.{LEAF}"),
            (layer + "layernorm_after.{LEAF}", "blocks.{i}.norm2.{LEAF}"),
            (attention + "query.{LEAF}", "blocks.{i}.attention.qkv.{LEAF}", part(0, 3)),
            (attention + "key.{LEAF}", "blocks.{i}.attention.qkv.{LEAF}", part(1, 3)),
            (attention + "value.{LEAF}", "blocks.{i}.attention.qkv.{LEAF}", part(2, 3)),
            (layer + "attention.output.dense.{LEAF}", "blocks.{i}.attention.out.{LEAF}"),
            (layer + "intermediate.dense.{LEAF}", "blocks.{i}.mlp.fc1.{LEAF}"),
            (layer + "output.dense.{LEAF}", "blocks.{i}.mlp.fc2.{LEAF}"),
            (before + "layernorm.{LEAF}", "norm.{LEAF}"),
            (before + "pooler.dense.{LEAF}", "pre_logits.{LEAF}"),
            ("classifier.{LEAF}", "head.{LEAF}"),
        ),
    )


TRANSFORMERS = transformers("transformers", "vit.")
TRANSFORMERS_BARE = transformers("transformers (bare encoder)", "")

LAYOUTS = (TIMM, TORCHVISION, TRANSFORMERS, TRANSFORMERS_BARE, GOOGLE)

HALF = (0.5, 0.5, 0.5)
"""Mean and deviation for the authors' weights, which see pixels from −1 to 1."""
_GOOGLE = "https://storage.googleapis.com/vit_models/"
_TORCHVISION = "https://download.pytorch.org/models/"
_HUB = "https://huggingface.co/"


def _google21k(network: str, name: str, pre_logits: int, parameters: int) -> Published:
    """Pre-trained weights of the authors; their heads are zeros, but the layer before has been learnt."""
    config = {"num_classes": 21843, "pre_logits": pre_logits}
    address = f"{_GOOGLE}imagenet21k/{name}.npz"
    return Published(
        network, address, "Apache-2.0", config=config, data="ImageNet-21k", mean=HALF, std=HALF, parameters=parameters
    )


def _google1k(network: str, name: str, size: int, parameters: int, top1: float | None = None) -> Published:
    """Weights that the authors trained further on ImageNet; those of 384 px are called like the ones of 21k there."""
    return Published(
        network,
        f"{_GOOGLE}imagenet21k%2Bimagenet2012/{name}.npz",
        "Apache-2.0",
        file="" if name.endswith(f"-{size}") else f"{name}-{size}.npz",
        data="ImageNet-21k, ImageNet-1k",
        size=size,
        mean=HALF,
        std=HALF,
        parameters=parameters,
        top1=top1,
    )


def _torchvision(network: str, name: str, sha256: str, parameters: int, top1: float) -> Published:
    address = f"{_TORCHVISION}{name}-{sha256}.pth"
    return Published(network, address, "BSD-3-Clause", parameters=parameters, top1=top1, sha256=sha256)


def _swag(network: str, name: str, sha256: str, size: int, parameters: int, top1: float) -> Published:
    """Pre-trained on pictures of Instagram and their tags, then trained on ImageNet: all of it, or the head (lc)."""
    return Published(
        network,
        f"{_TORCHVISION}{name}-{sha256}.pth",
        "CC-BY-NC-4.0",
        config={"image_size": size},
        data="Instagram tags, ImageNet-1k",
        size=size,
        parameters=parameters,
        top1=top1,
        sha256=sha256,
    )


def _timm(network: str, tag: str, size: int, parameters: int, top1: float) -> Published:
    return Published(
        network,
        f"{_HUB}timm/{network}.{tag}/resolve/main/model.safetensors",
        "Apache-2.0",
        file=f"{network}.{tag}.safetensors",
        data="ImageNet-21k, ImageNet-1k",
        size=size,
        mean=HALF,
        std=HALF,
        parameters=parameters,
        top1=top1,
    )


PUBLISHED = (
    _google21k("vit_base_patch16_224", "ViT-B_16", 768, 103_186_515),
    _google21k("vit_base_patch32_224", "ViT-B_32", 768, 104_843_091),
    _google21k("vit_large_patch16_224", "ViT-L_16", 1024, 326_740_307),
    _google21k("vit_large_patch32_224", "ViT-L_32", 1024, 328_949_075),
    _google21k("vit_huge_patch14_224", "ViT-H_14", 1280, 660_385_363),
    _google1k("vit_base_patch16_224", "ViT-B_16-224", 224, 86_567_656, 81.2),
    _google1k("vit_large_patch16_224", "ViT-L_16-224", 224, 304_326_632, 82.7),
    _google1k("vit_base_patch16_384", "ViT-B_16", 384, 86_859_496),
    _google1k("vit_base_patch32_384", "ViT-B_32", 384, 88_297_192),
    _google1k("vit_large_patch16_384", "ViT-L_16", 384, 304_715_752),
    _google1k("vit_large_patch32_384", "ViT-L_32", 384, 306_632_680),
    _torchvision("vit_base_patch16_224", "vit_b_16", "c867db91", 86_567_656, 81.072),
    _torchvision("vit_base_patch32_224", "vit_b_32", "d86f8d99", 88_224_232, 75.912),
    _torchvision("vit_large_patch16_224", "vit_l_16", "852ce7e3", 304_326_632, 79.662),
    _torchvision("vit_large_patch32_224", "vit_l_32", "c7638314", 306_535_400, 76.972),
    _swag("vit_base_patch16_384", "vit_b_16_swag", "9ac1b537", 384, 86_859_496, 85.304),
    _swag("vit_base_patch16_224", "vit_b_16_lc_swag", "4e70ced5", 224, 86_567_656, 81.886),
    _swag("vit_large_patch16_384", "vit_l_16_swag", "4f3808c9", 512, 305_174_504, 88.064),
    _swag("vit_large_patch16_224", "vit_l_16_lc_swag", "4d563306", 224, 304_326_632, 85.146),
    _swag("vit_huge_patch14_224", "vit_h_14_swag", "80465313", 518, 633_470_440, 88.552),
    _swag("vit_huge_patch14_224", "vit_h_14_lc_swag", "c1eb923e", 224, 632_045_800, 85.708),
    _timm("vit_tiny_patch16_224", "augreg_in21k_ft_in1k", 224, 5_717_416, 75.452),
    _timm("vit_tiny_patch16_384", "augreg_in21k_ft_in1k", 384, 5_790_376, 78.438),
    _timm("vit_small_patch32_224", "augreg_in21k_ft_in1k", 224, 22_878_952, 76.010),
    _timm("vit_small_patch32_384", "augreg_in21k_ft_in1k", 384, 22_915_432, 80.476),
    _timm("vit_small_patch16_224", "augreg_in21k_ft_in1k", 224, 22_050_664, 81.402),
    _timm("vit_small_patch16_384", "augreg_in21k_ft_in1k", 384, 22_196_584, 83.814),
    _timm("vit_base_patch32_224", "augreg_in21k_ft_in1k", 224, 88_224_232, 80.732),
    _timm("vit_base_patch32_384", "augreg_in21k_ft_in1k", 384, 88_297_192, 83.358),
    _timm("vit_base_patch16_224", "augreg2_in21k_ft_in1k", 224, 86_567_656, 85.108),
    _timm("vit_base_patch16_384", "augreg_in21k_ft_in1k", 384, 86_859_496, 86.010),
    _timm("vit_large_patch16_224", "augreg_in21k_ft_in1k", 224, 304_326_632, 85.856),
    _timm("vit_large_patch16_384", "augreg_in21k_ft_in1k", 384, 304_715_752, 87.096),
    _timm("vit_large_patch32_384", "orig_in21k_ft_in1k", 384, 306_632_680, 81.508),
    Published(
        "vit_base_patch16_224",
        f"{_HUB}google/vit-base-patch16-224-in21k/resolve/main/model.safetensors",
        "Apache-2.0",
        file="google-vit-base-patch16-224-in21k.safetensors",
        config={"num_classes": 0, "pre_logits": 768},
        data="ImageNet-21k",
        mean=HALF,
        std=HALF,
        parameters=86_389_248,
    ),
    Published(
        "vit_base_patch16_224",
        f"{_HUB}google/vit-base-patch16-224/resolve/main/model.safetensors",
        "Apache-2.0",
        file="google-vit-base-patch16-224.safetensors",
        data="ImageNet-21k, ImageNet-1k",
        mean=HALF,
        std=HALF,
        parameters=86_567_656,
    ),
)
