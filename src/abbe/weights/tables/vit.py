"""Vision transformers (Dosovitskiy et al. 2021): where others keep what :mod:`abbe.methods.attention.vit` calls so.

The authors' kernels are (in, heads, in per head) for queries, keys and values and (heads, per head, out) for what joins
the heads; all but timm and torchvision keep the first three apart.
"""

from __future__ import annotations

from abbe.weights.rename import HWIO, TRANSPOSED, Change, Layout, part

STEM = "patches.weight"
"""The tensor that meets the image's channels."""

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
