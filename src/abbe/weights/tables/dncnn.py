"""Published weights of DnCNN: names of tensors, and files. All have their norms folded into the convolutions."""

from __future__ import annotations

from abbe.weights.published import Published
from abbe.weights.rename import Change, Layout

STEM = ("layers.0.weight",)
HEAD: tuple[str, ...] = ()
DEPTH = 20
"""Convolutions of DeepInverse's networks."""

NEGATED = Change(lambda t, _: -t, lambda t, _: -t)
"""They add what the last layer gives, the paper takes it away."""
LAYOUTS = (
    Layout("KAIR and spandrel", (("model.{i}.{LEAF}", "layers.{i}.{LEAF}"),)),
    Layout(
        "DeepInverse",
        (
            ("in_conv.{LEAF}", "layers.0.{LEAF}"),
            *((f"conv_list.{i}.{{LEAF}}", f"layers.{2 * i + 2}.{{LEAF}}") for i in range(DEPTH - 2)),
            ("out_conv.{LEAF}", f"layers.{2 * DEPTH - 2}.{{LEAF}}", NEGATED),
        ),
    ),
)

_KAIR = "https://github.com/cszn/KAIR/releases/download/v1.0/"


def _kair(network: str, file: str, parameters: int, channels: int = 1) -> Published:
    return Published(
        network,
        f"{_KAIR}{file}",
        "MIT",
        config={"batch_norm": False},
        data="BSD400",
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        parameters=parameters,
    )


PUBLISHED = (
    _kair("dncnn_s", "dncnn_15.pth", 555137),
    _kair("dncnn_s", "dncnn_25.pth", 555137),
    _kair("dncnn_s", "dncnn_50.pth", 555137),
    _kair("dncnn_b", "dncnn_gray_blind.pth", 665921),
    _kair("dncnn_color", "dncnn_color_blind.pth", 668227, channels=3),
    _kair("dncnn_3", "dncnn3.pth", 665921),
)
