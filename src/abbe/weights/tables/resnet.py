"""Published weights of ResNet: names of tensors, and files."""

from __future__ import annotations

from abbe.weights.published import Published
from abbe.weights.rename import Layout

STEM = ("stem.0.weight",)
HEAD = ("head.",)

BODY = (
    ("conv1.weight", "stem.0.weight"),
    ("bn1.{LEAF}", "stem.1.{LEAF}"),
    ("layer{stage+1}.{block}.conv1.weight", "stages.{stage}.{block}.body.0.weight"),
    ("layer{stage+1}.{block}.bn1.{LEAF}", "stages.{stage}.{block}.body.1.{LEAF}"),
    ("layer{stage+1}.{block}.conv2.weight", "stages.{stage}.{block}.body.3.weight"),
    ("layer{stage+1}.{block}.bn2.{LEAF}", "stages.{stage}.{block}.body.4.{LEAF}"),
    ("layer{stage+1}.{block}.conv3.weight", "stages.{stage}.{block}.body.6.weight"),
    ("layer{stage+1}.{block}.bn3.{LEAF}", "stages.{stage}.{block}.body.7.{LEAF}"),
    ("layer{stage+1}.{block}.downsample.{n}.{LEAF}", "stages.{stage}.{block}.shortcut.{n}.{LEAF}"),
)
LAYOUTS = (
    Layout("torchvision and timm", (*BODY, ("fc.{LEAF}", "head.{LEAF}"))),
    Layout("pytorch_resnet_cifar10", (*BODY, ("linear.{LEAF}", "head.{LEAF}"))),
)

_TORCHVISION = "https://download.pytorch.org/models/"
_TIMM = "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-rsb-weights/"
_CIFAR = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/"


def _torchvision(network: str, sha256: str, parameters: int, top1: float) -> Published:
    return Published(
        network,
        f"{_TORCHVISION}{network}-{sha256}.pth",
        "BSD-3-Clause",
        parameters=parameters,
        top1=top1,
        sha256=sha256,
    )


def _timm(network: str, sha256: str, parameters: int, top1: float) -> Published:
    return Published(
        network,
        f"{_TIMM}{network}_a1_0-{sha256}.pth",
        "Apache-2.0",
        parameters=parameters,
        top1=top1,
        sha256=sha256,
    )


CIFAR_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _cifar(network: str, sha256: str, parameters: int, top1: float) -> Published:
    return Published(
        f"{network}_cifar",
        f"{_CIFAR}{network}-{sha256}.th",
        "BSD-2-Clause",
        data="CIFAR-10",
        classes=CIFAR_10,
        tested="CIFAR-10 test",
        size=32,
        parameters=parameters,
        top1=top1,
        sha256=sha256,
    )


PUBLISHED = (
    _torchvision("resnet18", "f37072fd", 11689512, 69.758),
    _torchvision("resnet34", "b627a593", 21797672, 73.314),
    _torchvision("resnet50", "0676ba61", 25557032, 76.130),
    _torchvision("resnet50", "11ad3fa6", 25557032, 80.858),
    _torchvision("resnet101", "63fe2227", 44549160, 77.374),
    _torchvision("resnet101", "cd907fc2", 44549160, 81.886),
    _torchvision("resnet152", "394f9c45", 60192808, 78.312),
    _torchvision("resnet152", "f82ba261", 60192808, 82.284),
    _timm("resnet18", "d63eafa0", 11689512, 71.504),
    _timm("resnet34", "46f8f793", 21797672, 76.420),
    _timm("resnet50", "14fe96d1", 25557032, 80.382),
    _timm("resnet101", "cdcb52a9", 44549160, 81.494),
    _timm("resnet152", "2eee8a7a", 60192808, 81.998),
    _cifar("resnet20", "12fca82f", 269722, 91.73),
    _cifar("resnet32", "d509ac18", 464154, 92.63),
    _cifar("resnet44", "014dd654", 658586, 93.10),
    _cifar("resnet56", "4bfd9763", 853018, 93.39),
    _cifar("resnet110", "1d1ed7c2", 1727962, 93.68),
)
