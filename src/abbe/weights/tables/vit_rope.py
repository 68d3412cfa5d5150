"""Vision transformers with rotary positions (Heo et al. 2024): the names of timm."""

from __future__ import annotations

from abbe.weights.rename import Layout

STEM = "patches.weight"
"""The tensor that meets the image's channels."""

TIMM = Layout(
    "timm",
    (
        ("cls_token", "class_token"),
        ("patch_embed.proj.{LEAF}", "patches.{LEAF}"),
        ("blocks.{i}.norm{n}.{LEAF}", "blocks.{i}.norm{n}.{LEAF}"),
        ("blocks.{i}.gamma_{n}", "blocks.{i}.gamma{n}"),
        ("blocks.{i}.attn.qkv.{LEAF}", "blocks.{i}.attention.qkv.{LEAF}"),
        ("blocks.{i}.attn.proj.{LEAF}", "blocks.{i}.attention.out.{LEAF}"),
        ("blocks.{i}.mlp.fc{n}.{LEAF}", "blocks.{i}.mlp.fc{n}.{LEAF}"),
        ("norm.{LEAF}", "norm.{LEAF}"),
        ("head.{LEAF}", "head.{LEAF}"),
    ),
)

LAYOUTS = (TIMM,)
