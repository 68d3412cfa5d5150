"""Published weights of AlexNet: names of tensors, and files."""

from __future__ import annotations

from abbe.weights.published import Published
from abbe.weights.rename import Layout

STEM = ("stages.0.0.weight",)
HEAD = ("head.",)

LAYOUTS = (
    Layout(
        "torchvision",
        (
            ("features.0.{LEAF}", "stages.0.0.{LEAF}"),
            ("features.3.{LEAF}", "stages.1.2.{LEAF}"),
            ("features.6.{LEAF}", "stages.2.2.{LEAF}"),
            ("features.8.{LEAF}", "stages.2.4.{LEAF}"),
            ("features.10.{LEAF}", "stages.2.6.{LEAF}"),
            ("classifier.1.{LEAF}", "hidden.0.{LEAF}"),
            ("classifier.4.{LEAF}", "hidden.1.{LEAF}"),
            ("classifier.6.{LEAF}", "head.{LEAF}"),
        ),
    ),
    Layout(
        "Caffe, as converters write it",
        (
            ("conv1.{LEAF}", "stages.0.0.{LEAF}"),
            ("conv2.{LEAF}", "stages.1.2.{LEAF}"),
            ("conv3.{LEAF}", "stages.2.2.{LEAF}"),
            ("conv4.{LEAF}", "stages.2.4.{LEAF}"),
            ("conv5.{LEAF}", "stages.2.6.{LEAF}"),
            ("fc6.{LEAF}", "hidden.0.{LEAF}"),
            ("fc7.{LEAF}", "hidden.1.{LEAF}"),
            ("fc8.{LEAF}", "head.{LEAF}"),
        ),
    ),
)

PUBLISHED = (
    Published(
        "alexnet",
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "BSD-3-Clause",
        parameters=61100840,
        top1=56.522,
        sha256="7be5be79",
    ),
)
