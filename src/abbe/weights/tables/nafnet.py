"""Published weights of NAFNet and of its paper's baseline: names of tensors, and files."""

from __future__ import annotations

from abbe.weights.published import Published
from abbe.weights.rename import Layout

STEM = ("intro.weight",)
HEAD = ()
ENDING = ("ending.weight", "ending.bias")

_CONVOLUTIONS = ("expand", "depthwise", "project", "widen", "narrow")


def _layout(name: str, *attention: tuple[str, str]) -> Layout:
    block = (
        *((f"conv{n}.{{LEAF}}", f"{ours}.{{LEAF}}") for n, ours in enumerate(_CONVOLUTIONS, 1)),
        *((f"{theirs}.{{LEAF}}", f"attention.weigh.{ours}.{{LEAF}}") for theirs, ours in attention),
        ("norm{n}.{LEAF}", "norm{n}.{LEAF}"),
        ("beta", "beta"),
        ("gamma", "gamma"),
    )
    parts = (
        ("encoders.{level}.{i}", "encoders.{level}.{i}"),
        ("middle_blks.{i}", "middle.{i}"),
        ("decoders.{level}.{i}", "decoders.{level}.{i}"),
    )
    return Layout(
        name,
        (
            ("intro.{LEAF}", "intro.{LEAF}"),
            ("downs.{level}.{LEAF}", "downs.{level}.{LEAF}"),
            ("ups.{level}.0.{LEAF}", "ups.{level}.0.{LEAF}"),
            ("ending.{LEAF}", "ending.{LEAF}"),
            *((f"{theirs}.{leaf}", f"{ours}.{own}") for theirs, ours in parts for leaf, own in block),
        ),
    )


LAYOUTS = (
    _layout("megvii-research/NAFNet", ("sca.1", "0")),
    _layout("megvii-research/NAFNet's baseline", ("se.1", "0"), ("se.3", "2")),
)

_AUTHORS = "https://huggingface.co/spaces/chuxiaojie/NAFNet/resolve/main/"
_COPIES = "https://huggingface.co/nyanko7/nafnet-models/resolve/main/"
"""Of the files that the authors keep on drives alone; those that both have are the same, byte for byte."""


def _published(network: str, address: str, data: str, parameters: int, sha256: str) -> Published:
    """Tell of a file; images are in 0 to 1 as they are, the licence is that of the authors' repository."""
    return Published(
        network,
        address,
        "MIT",
        data=data,
        size=256,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        tested=f"{data}, held out",
        parameters=parameters,
        sha256=sha256,
    )


PUBLISHED = (
    _published("nafnet_width32", f"{_COPIES}NAFNet-SIDD-width32.pth", "SIDD", 29159715, "89c70e808d1783b6"),
    _published("nafnet_width64", f"{_AUTHORS}NAFNet-SIDD-width64.pth", "SIDD", 115982915, "cd685efaae01f7c4"),
    _published("nafnet_width32_gopro", f"{_COPIES}NAFNet-GoPro-width32.pth", "GoPro", 17111907, "19394e6155d12ef6"),
    _published("nafnet_width64_gopro", f"{_COPIES}NAFNet-GoPro-width64.pth", "GoPro", 67888835, "329d3ab4077b8d6b"),
    _published("nafnet_width64_gopro", f"{_AUTHORS}NAFNet-REDS-width64.pth", "REDS", 67888835, "175fe8b3cdf3abed"),
)
