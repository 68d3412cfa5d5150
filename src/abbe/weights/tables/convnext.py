"""Published weights of ConvNeXt: names of tensors, and files."""

from __future__ import annotations

from abbe.weights.published import Published
from abbe.weights.rename import Change, Layout

STEM = ("stem.0.weight",)
HEAD = ("head.",)

PER_PIXEL = Change(lambda t, _: t.reshape(-1), lambda t, _: t.reshape(-1, 1, 1))
"""Layer scale as (C, 1, 1) in place of (C,)."""

LAYOUTS = (
    Layout(
        "facebookresearch/ConvNeXt",
        (
            ("downsample_layers.0.{n}.{LEAF}", "stem.{n}.{LEAF}"),
            ("downsample_layers.{stage+1}.{n}.{LEAF}", "downsamples.{stage}.{n}.{LEAF}"),
            ("stages.{stage}.{block}.dwconv.{LEAF}", "stages.{stage}.{block}.depthwise.{LEAF}"),
            ("stages.{stage}.{block}.norm.{LEAF}", "stages.{stage}.{block}.norm.{LEAF}"),
            ("stages.{stage}.{block}.pwconv1.{LEAF}", "stages.{stage}.{block}.expand.{LEAF}"),
            ("stages.{stage}.{block}.pwconv2.{LEAF}", "stages.{stage}.{block}.reduce.{LEAF}"),
            ("stages.{stage}.{block}.gamma", "stages.{stage}.{block}.gamma"),
            ("norm.{LEAF}", "norm.{LEAF}"),
            ("head.{LEAF}", "head.{LEAF}"),
        ),
    ),
    Layout(
        "timm",
        (
            ("stem.{n}.{LEAF}", "stem.{n}.{LEAF}"),
            ("stages.{stage+1}.downsample.{n}.{LEAF}", "downsamples.{stage}.{n}.{LEAF}"),
            ("stages.{stage}.blocks.{block}.conv_dw.{LEAF}", "stages.{stage}.{block}.depthwise.{LEAF}"),
            ("stages.{stage}.blocks.{block}.norm.{LEAF}", "stages.{stage}.{block}.norm.{LEAF}"),
            ("stages.{stage}.blocks.{block}.mlp.fc1.{LEAF}", "stages.{stage}.{block}.expand.{LEAF}"),
            ("stages.{stage}.blocks.{block}.mlp.fc2.{LEAF}", "stages.{stage}.{block}.reduce.{LEAF}"),
            ("stages.{stage}.blocks.{block}.gamma", "stages.{stage}.{block}.gamma"),
            ("head.norm.{LEAF}", "norm.{LEAF}"),
            ("head.fc.{LEAF}", "head.{LEAF}"),
        ),
    ),
    Layout(
        "torchvision",  # its features alternate: stem, stage, downsampling, stage, ...
        (
            ("features.0.{n}.{LEAF}", "stem.{n}.{LEAF}"),
            *((f"features.{2 * i + 2}.{{n}}.{{LEAF}}", f"downsamples.{i}.{{n}}.{{LEAF}}") for i in range(3)),
            *(
                (f"features.{2 * i + 1}.{{block}}.{theirs}", f"stages.{i}.{{block}}.{ours}", *change)
                for i in range(4)
                for theirs, ours, *change in (
                    ("block.0.{LEAF}", "depthwise.{LEAF}"),
                    ("block.2.{LEAF}", "norm.{LEAF}"),
                    ("block.3.{LEAF}", "expand.{LEAF}"),
                    ("block.5.{LEAF}", "reduce.{LEAF}"),
                    ("layer_scale", "gamma", PER_PIXEL),
                )
            ),
            ("classifier.0.{LEAF}", "norm.{LEAF}"),
            ("classifier.2.{LEAF}", "head.{LEAF}"),
        ),
    ),
)

_FACEBOOK = "https://dl.fbaipublicfiles.com/convnext/"
_TORCHVISION = "https://download.pytorch.org/models/"
_22K = {"num_classes": 21841}


def _torchvision(network: str, sha256: str, parameters: int, top1: float) -> Published:
    return Published(
        network,
        f"{_TORCHVISION}{network}-{sha256}.pth",
        "BSD-3-Clause",
        parameters=parameters,
        top1=top1,
        sha256=sha256,
    )


def _facebook(name: str, parameters: int, top1: float | None = None, size: int = 224) -> Published:
    """Read data and classes off a file's name, such as convnext_tiny_22k_1k_384.pth."""
    network = "_".join(name.split("_")[:2])
    data = (
        "ImageNet-22k, then ImageNet-1k" if "_22k_1k" in name else "ImageNet-22k" if "_22k" in name else "ImageNet-1k"
    )
    return Published(
        network,
        _FACEBOOK + name,
        "MIT",
        config=_22K if data == "ImageNet-22k" else {},
        data=data,
        size=size,
        parameters=parameters,
        top1=top1,
    )


PUBLISHED = (
    _facebook("convnext_tiny_1k_224_ema.pth", 28589128, 82.1),
    _facebook("convnext_small_1k_224_ema.pth", 50223688, 83.1),
    _facebook("convnext_base_1k_224_ema.pth", 88591464, 83.8),
    _facebook("convnext_base_1k_384.pth", 88591464, 85.1, 384),
    _facebook("convnext_large_1k_224_ema.pth", 197767336, 84.3),
    _facebook("convnext_large_1k_384.pth", 197767336, 85.5, 384),
    _facebook("convnext_tiny_22k_224.pth", 44615857),
    _facebook("convnext_small_22k_224.pth", 66250417),
    _facebook("convnext_base_22k_224.pth", 109953489),
    _facebook("convnext_large_22k_224.pth", 229799953),
    _facebook("convnext_xlarge_22k_224.pth", 392900177),
    _facebook("convnext_tiny_22k_1k_224.pth", 28589128, 82.9),
    _facebook("convnext_tiny_22k_1k_384.pth", 28589128, 84.1, 384),
    _facebook("convnext_small_22k_1k_224.pth", 50223688, 84.6),
    _facebook("convnext_small_22k_1k_384.pth", 50223688, 85.8, 384),
    _facebook("convnext_base_22k_1k_224.pth", 88591464, 85.8),
    _facebook("convnext_base_22k_1k_384.pth", 88591464, 86.8, 384),
    _facebook("convnext_large_22k_1k_224.pth", 197767336, 86.6),
    _facebook("convnext_large_22k_1k_384.pth", 197767336, 87.5, 384),
    _facebook("convnext_xlarge_22k_1k_224_ema.pth", 350196968, 87.0),
    _facebook("convnext_xlarge_22k_1k_384_ema.pth", 350196968, 87.8, 384),
    _torchvision("convnext_tiny", "983f1562", 28589128, 82.520),
    _torchvision("convnext_small", "0c510722", 50223688, 83.616),
    _torchvision("convnext_base", "6075fbad", 88591464, 84.062),
    _torchvision("convnext_large", "ea097f82", 197767336, 84.414),
)
