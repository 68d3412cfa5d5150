"""RoFormer (Su et al. 2021): the names of transformers.

Their weights pair adjacent channels; for a network that pairs halves the rows of queries and keys are reordered. The
last layer of the masked-token head is a copy of the table of words, and the table of angles is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from abbe.nn.rope import adjacent_from_half, half_from_adjacent
from abbe.weights.published import Published
from abbe.weights.rename import Change, Layout

STEM = ()
HEAD = ()


def _paired(rows: torch.Tensor, config: Mapping[str, Any]) -> torch.Tensor:
    return half_from_adjacent(rows, config["heads"]) if config["pairing"] == "half" else rows


def _adjacent(rows: torch.Tensor, config: Mapping[str, Any]) -> torch.Tensor:
    return adjacent_from_half(rows, config["heads"]) if config["pairing"] == "half" else rows


PAIRED = Change(_paired, _adjacent)
"""Rows of queries and keys in the order of the network's own pairing."""


def transformers(name: str, before: str) -> Layout:
    """Make the layout of transformers' encoder, whose names begin with ``before``."""
    layer = before + "encoder.layer.{i}."
    return Layout(
        name,
        (
            (before + "embeddings.word_embeddings.weight", "words.weight"),
            (before + "embeddings.token_type_embeddings.weight", "segments.weight"),
            (before + "embeddings.LayerNorm.{LEAF}", "norm.{LEAF}"),
            (before + "embeddings_project.{LEAF}", "widen.{LEAF}"),
            (layer + "attention.self.query.{LEAF}", "blocks.{i}.attention.query.{LEAF}", PAIRED),
            (layer + "attention.self.key.{LEAF}", "blocks.{i}.attention.key.{LEAF}", PAIRED),
            (layer + "attention.self.value.{LEAF}", "blocks.{i}.attention.value.{LEAF}"),
            (layer + "attention.output.dense.{LEAF}", "blocks.{i}.attention.out.{LEAF}"),
            (layer + "attention.output.LayerNorm.{LEAF}", "blocks.{i}.norm1.{LEAF}"),
            (layer + "intermediate.dense.{LEAF}", "blocks.{i}.fc1.{LEAF}"),
            (layer + "output.dense.{LEAF}", "blocks.{i}.fc2.{LEAF}"),
            (layer + "output.LayerNorm.{LEAF}", "blocks.{i}.norm2.{LEAF}"),
            ("cls.predictions.transform.dense.{LEAF}", "head.dense.{LEAF}"),
            ("cls.predictions.transform.LayerNorm.{LEAF}", "head.norm.{LEAF}"),
            ("cls.predictions.bias", "head.bias"),
        ),
        dropped=(
            before + "encoder.embed_positions.weight",
            before + "embeddings.position_ids",
            "cls.predictions.decoder.{LEAF}",
        ),
    )


TRANSFORMERS = transformers("transformers", "roformer.")
TRANSFORMERS_BARE = transformers("transformers (bare encoder)", "")

LAYOUTS = (TRANSFORMERS, TRANSFORMERS_BARE)

PUBLISHED = (
    Published(
        "roformer_base",
        "https://huggingface.co/junnyu/roformer_chinese_base/resolve/main/pytorch_model.bin",
        "not stated (the authors' code: Apache-2.0)",
        file="roformer_chinese_base.bin",
        data="Chinese text",
        mean=(),
        std=(),
        parameters=124_099_664,
    ),
)
