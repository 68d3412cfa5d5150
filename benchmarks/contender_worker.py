"""Time the networks of one library inside their own interpreter, one command per line that arrives on standard input.

    python benchmarks/contender_worker.py LIBRARY THREADS DEVICE CLOCK

LIBRARY is ``abbe``, ``timm``, ``torchvision``, ``transformers`` or ``monai``; CLOCK ``wall``, or ``processor`` for the
seconds that all threads compute, which other programs on the machine disturb less. A command is one line of JSON,
``{"do": NAME, ...}``, NAME one of the functions of :class:`Bench`; the answer is one line of JSON too. ``backbones.py``
is the caller: it takes rounds of several workers in turn.

Peers have their own initial weights. Abbe's are drawn anew, all of them, so that the errors of the prepared paths mean
something: fresh vision transformers have a head of zeros, fresh ConvNeXts a layer scale that hides their blocks.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

SIDES = {"unet_residual": 256}
"""Sides of images, where they are not 224 pixels."""
CLASSES = 1000
WAYS: dict[str, dict[str, Any]] = {
    "OpenVINO bfloat16": {"precision": "bfloat16", "backend": "openvino"},
    "torch bfloat16": {"precision": "bfloat16", "backend": "torch"},
    "OpenVINO float32": {"precision": "float32", "backend": "openvino"},
    "torch float32": {"precision": "float32", "backend": "torch"},
}
"""Abbe's prepared ways through a network, as options of its predictor."""
IMPORTS = {
    "abbe": ("openvino", "abbe.tiling.prepare", "abbe.methods.segmentation.instances"),
    "transformers": tuple(f"transformers.models.{name}.modeling_{name}" for name in ("resnet", "convnext", "vit")),
    "monai": ("monai.networks.nets",),
}
"""What libraries import only when it is needed."""


def side(network: str) -> int:
    return SIDES.get(network, 224)


# -------------------------------------------------------------------------------------------------- networks


def build_timm(name: str) -> nn.Module:
    import timm

    return timm.create_model(name)


def build_torchvision(name: str) -> nn.Module:
    from torchvision import models

    known = {"vit_base_patch16_224": ("vit_b_16", {}), "convnext_tiny": (name, {"stochastic_depth_prob": 0.0})}
    there, options = known.get(name, (name, {}))
    return models.get_model(there, **options)


def build_transformers(name: str) -> nn.Module:
    import transformers

    family = {"resnet50": "ResNet", "convnext_tiny": "ConvNext", "vit_base_patch16_224": "ViT"}[name]  # their defaults
    config = getattr(transformers, f"{family}Config")(num_labels=CLASSES)
    return Logits(getattr(transformers, f"{family}ForImageClassification")(config))


def build_monai(name: str) -> nn.Module:
    from monai.networks.nets import BasicUNet

    return BasicUNet(spatial_dims=2, in_channels=3, out_channels=2)


def build_abbe(name: str) -> nn.Module:
    from abbe.methods.catalog import entry, module_of, variant

    config = variant(name)
    if "drop_path" in {field.name for field in fields(config)}:  # the peers' defaults are without
        config = replace(config, drop_path=0.0)
    network = module_of(entry(name).file).build(config)
    return randomised(network)


BUILDERS: dict[str, Callable[[str], nn.Module]] = {
    "abbe": build_abbe,
    "timm": build_timm,
    "torchvision": build_torchvision,
    "transformers": build_transformers,
    "monai": build_monai,
}


class Logits(nn.Module):
    """A network of transformers as the function that the others are."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Give the logits alone."""
        return self.network(x).logits


@torch.no_grad()
def randomised(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        fan = parameter[0].numel() if parameter.ndim > 1 else 10
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / fan) ** 0.5)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5, generator=generator)
            module.running_mean.normal_(0, 0.3, generator=generator)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5, generator=generator)  # type: ignore[union-attr]
    return network


def prepared(network: nn.Module, name: str, way: str, device: str) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Wrap a network as the verbs do, and prepare it."""
    from abbe.methods.backbones.classification import Classification, ClassificationOptions
    from abbe.methods.segmentation.instances import InstanceSegmentation
    from abbe.tiling.prepare import Predictor

    if name.startswith("unet"):
        return Predictor(InstanceSegmentation(network), device=device, **WAYS[way])  # type: ignore[arg-type]
    classes = tuple(map(str, range(CLASSES)))
    method = Classification(network, ClassificationOptions(classes=classes, size=side(name)))
    return Predictor(method, device=device, **WAYS[way])


# ---------------------------------------------------------------------------------------------------- timing


class Bench:
    """What the caller may ask for."""

    def __init__(self, library: str, device: str, clock: str):
        self.library, self.device = library, device
        self.clock = {"wall": time.perf_counter, "processor": time.process_time}[clock]
        self.name = ""
        self.network: Any = None
        self.predictors: dict[str, Any] = {}
        self.started = 0

    def start(self) -> None:
        """Import what is imported late anyway, forget the peak of memory, and remember what is held now."""
        for name in IMPORTS.get(self.library, ()):
            with suppress(ImportError):
                importlib.import_module(name)
        Path("/proc/self/clear_refs").write_text("5")
        self.started = resident("VmRSS")

    def peak(self) -> int:
        """Give the most bytes held since ``start``, beyond what was held then."""
        return resident("VmHWM") - self.started

    def build(self, network: str, batch: int, compiled: bool = False) -> None:
        """Make a network and images for it, in place of those before."""
        self.name, self.network, self.predictors = network, None, {}
        torch.manual_seed(0)
        self.network = BUILDERS[self.library](network).to(self.device)
        self.x = torch.randn(batch, 3, side(network), side(network), device=self.device)
        if compiled:
            self.network = torch.compile(self.network.to(torch.bfloat16).to(memory_format=torch.channels_last))
            self.x = self.x.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)

    def forget(self) -> None:
        """Make room for others."""
        self.network, self.predictors = None, {}
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)

    def prepare(self, way: str) -> None:
        """Prepare the network."""
        self.predictors[way] = prepared(self.network, self.name, way, self.device)

    def forward(self) -> float:
        """Give the seconds of a forward without gradients."""
        self.network.eval()
        with torch.inference_mode():
            return self._timed(lambda: self.network(self.x))

    def backward(self) -> float:
        """Give the seconds of a forward and a backward, in training mode."""
        self.network.train()
        self.network.zero_grad(set_to_none=True)
        return self._timed(lambda: self.network(self.x).square().mean().backward())

    def predict(self, way: str) -> float:
        """Give the seconds of a prepared way, arrays in and out."""
        x = self.x.cpu().numpy()
        return self._timed(lambda: self.predictors[way](x))

    def error(self, way: str) -> float:
        """Compare a prepared way with the plain forward: the norm of the difference, as a share."""
        predictor = self.predictors[way]
        with torch.inference_mode():
            expected = predictor.method.eval().predict(self.x)
        found = predictor(self.x.cpu().numpy())
        names = ["logit"] if "logit" in found else list(found)
        return max(relative(found[name], expected[name].cpu().numpy()) for name in names)

    def _timed(self, run: Callable[[], Any]) -> float:
        self._wait()
        begin = self.clock()
        run()
        self._wait()
        return self.clock() - begin

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def resident(line: str) -> int:
    """Read a line of what the kernel knows of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(found.split()[1]) * 1024 for found in lines if found.startswith(line))


def main() -> None:
    library, threads, device, clock = sys.argv[1:5]
    torch.set_num_threads(int(threads))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print must not mix with the answers
    bench = Bench(library, device, clock)
    print(json.dumps(f"{library} {importlib.import_module(library).__version__}"), file=answers, flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        answer = getattr(bench, command.pop("do"))(**command)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
