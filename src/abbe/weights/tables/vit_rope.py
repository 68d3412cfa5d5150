"""Vision transformers with rotary positions (Heo et al. 2024): the names of timm."""

from __future__ import annotations

from abbe.weights.published import Published
from abbe.weights.rename import Layout

STEM = ("patches.weight",)
HEAD = ("head.",)

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


def _timm(network: str, parameters: int, top1: float) -> Published:
    return Published(
        network,
        f"https://huggingface.co/timm/{network}.naver_in1k/resolve/main/model.safetensors",
        "Apache-2.0",
        file=f"{network}.naver_in1k.safetensors",
        parameters=parameters,
        top1=top1,
    )


PUBLISHED = (
    _timm("vit_small_patch16_rope_224", 21_984_232, 81.222),
    _timm("vit_base_patch16_rope_224", 86_434_792, 83.714),
    _timm("vit_large_patch16_rope_224", 304_174_056, 84.646),
)
