"""What is exported: the maps of a model by name as one graph, and what the graph takes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from abbe import __version__
from abbe.contract import Geometry, Method
from abbe.data.normalize import Normalization
from abbe.errors import AbbeError
from abbe.methods.attention.masked_tokens import MaskedTokens
from abbe.methods.backbones.classification import Classification
from abbe.methods.catalog import ENTRIES, Entry, entry
from abbe.model import Model, build_method, load_model
from abbe.tiling.grid import context, fit
from abbe.tiling.prepare import prepared_copy
from abbe.weights.file import Description
from abbe.weights.records import RECORDS, find_model

REFUSED = {"translation": "it searches its answer token by token, in a loop that a graph of layers does not hold"}
"""Objectives that no graph can hold, and why."""
SIDE, CIFAR_SIDE, PATCHES, TOKENS = 224, 32, 14, 16
"""Extents of the samples for networks that tell none: pixels as of ImageNet and, where the stem has stride 1, of CIFAR;
patches; tokens."""
DRAWN = "random weights"
"""What the metadata say of a bare network's."""


class Bare(nn.Module):
    """A network whose forward is its one named output."""

    def __init__(self, network: nn.Module, name: str):
        super().__init__()
        self.network = network
        self.name = name

    def predict(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run the network."""
        return {self.name: self.network(x)}


class Graph(nn.Module):
    """``predict`` as a forward: one tensor in, a tuple of the named outputs out."""

    def __init__(self, method: nn.Module):
        super().__init__()
        self.method = method

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Give the outputs in the order of their names."""
        return tuple(self.method.predict(x).values())  # type: ignore[operator]


@dataclass(frozen=True)
class Subject:
    """A model on its way out."""

    description: Description
    """Of the model; of a bare network no more than its name and config."""
    method: Method
    """In evaluation mode, float32, on the CPU."""
    drawn: bool
    """Whether the weights are random, for nobody gave any."""
    bundled: bool
    """Whether it is a model of the package."""

    @property
    def name(self) -> str:
        """What people call it."""
        return self.description.name

    @property
    def entry(self) -> Entry:
        """What the catalog knows of the network."""
        return entry(self.description.network)

    @cached_property
    def graph(self) -> Graph:
        """One tensor in, the named outputs out; a classifier without classes gives what its network gives."""
        ready: Any = prepared_copy(self.method, fold=False)
        if isinstance(ready, Classification) and not ready.options.classes:
            ready = Bare(ready.network, "logits" if self.description.config.get("num_classes", 1) else "features")
        return Graph(ready).eval()

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        shape = (1, *((self.method.in_channels,) if not self.vocabulary else ()), *self.extents)
        example = torch.ones(shape, dtype=torch.int64 if self.vocabulary else torch.float32)
        with torch.inference_mode():
            return tuple(self.graph.method.predict(example))  # type: ignore[operator]

    @property
    def vocabulary(self) -> int:
        """Tokens that there are; 0 where images go in."""
        return int(self._network.config.vocabulary) if isinstance(self.method, MaskedTokens) else 0

    @property
    def input_name(self) -> str:
        """What goes in."""
        return "tokens" if self.vocabulary else "image"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that are told apart; none of most models."""
        return self.method.options.classes if isinstance(self.method, Classification) else ()

    @property
    def axes(self) -> tuple[str, ...]:
        """Axes behind batch and channels."""
        return ("token",) if self.vocabulary else ("z", "y", "x")[-len(self.geometry.multiple) :]

    @cached_property
    def geometry(self) -> Geometry:
        """How outputs lie on the input; of a bare network for whole pictures the multiple that its patches ask for."""
        method = self.method
        if isinstance(method, Classification) and not method.options.size:
            patch: Any = getattr(self._network, "patch", (1, 1))
            return Geometry(None, tuple(patch))
        return method.geometry

    @property
    def takes_any_size(self) -> bool:
        """Whether the extents are free within :attr:`geometry`; a trained classifier takes squares of one size."""
        return not (isinstance(self.method, Classification) and self.method.options.size)

    @property
    def extents(self) -> tuple[int, ...]:
        """Extents behind batch and channels that the network takes: of the samples it is tried with."""
        geometry = self.geometry
        if self.vocabulary:
            return (TOKENS,)
        if isinstance(self.method, Classification):
            return (self._side(),) * 2
        lost = [context(geometry, axis) if geometry.crops else 0 for axis in range(len(self.axes))]
        return self.fitted([2 * around + 4 * step for around, step in zip(lost, geometry.multiple, strict=True)])

    @property
    def smallest(self) -> tuple[int, ...]:
        """Smallest extents of the input of which something is left without the halo."""
        if self.geometry.halo is None:
            return self.extents
        around = [context(self.geometry, axis) for axis in range(len(self.axes))]
        return self.fitted([2 * halo + step for halo, step in zip(around, self.geometry.multiple, strict=True)])

    def fitted(self, extents: list[int]) -> tuple[int, ...]:
        """Give the smallest extents that the network takes, none below the given ones."""
        steps = zip(extents, self.geometry.multiple, self.geometry.remainder, strict=True)
        return tuple(fit(extent, multiple, remainder) for extent, multiple, remainder in steps)

    def _side(self) -> int:
        network = self._network
        told = self.method.options.size or self.description.colours.get("size")  # type: ignore[attr-defined]
        of_positions = getattr(getattr(network, "config", None), "image_size", 0)
        if told or of_positions:
            return int(told or of_positions)
        if hasattr(network, "patch"):
            return PATCHES * int(network.patch[0])
        return CIFAR_SIDE if network.strides[0] == 1 else SIDE

    @property
    def _network(self) -> Any:
        return self.method.network  # type: ignore[attr-defined]

    @property
    def has_colours(self) -> bool:
        """Whether images are scaled as those of published weights: 0 to 1, then by mean and deviation per channel."""
        return len(self.description.colours.get("mean", ())) == self.method.in_channels

    def normalise(self, image: np.ndarray) -> np.ndarray:
        """Bring the grey values (C, ...) of one image to what the network takes, float32."""
        if not self.has_colours:
            return Normalization(**self.description.normalization).normalize(image)
        mean, std = (
            np.asarray(self.description.colours[name], np.float32).reshape(-1, *[1] * (image.ndim - 1))
            for name in ("mean", "std")
        )
        return ((image / 255 - mean) / std).astype(np.float32)

    @cached_property
    def parameters(self) -> int:
        """Numbers that were learnt."""
        return sum(parameter.numel() for parameter in self.graph.parameters())

    def plain(self, x: np.ndarray) -> list[np.ndarray]:
        """Compute the outputs as Abbe does with ``precision="exact"``: the yardstick of every export."""
        with torch.inference_mode():
            return [output.numpy() for output in self.graph(torch.from_numpy(x))]

    def facts(self) -> dict[str, str]:
        """Tell what a reader of the file needs to know, each as text; structures are JSON."""
        described, geometry = self.description, self.geometry
        facts = {
            "name": self.name,
            "network": described.network,
            "paper": f"{self.entry.title} ({self.entry.year}), {self.entry.paper}",
            "licence": described.licence or "unknown",
            "data": json.dumps(described.data),
            "weights": DRAWN if self.drawn else "trained",
            "normalization": json.dumps(self._scaling()),
            "classes": json.dumps(self.classes),
            "pixel_size": json.dumps(described.pixel_size),
            "diameter": json.dumps(described.diameter),
            "geometry": json.dumps(asdict(geometry)),
            "options": json.dumps(described.options),
            "abbe": __version__,
        }
        return {f"abbe.{key}": value for key, value in facts.items()}

    def _scaling(self) -> dict[str, Any]:
        if self.vocabulary:
            return {}
        return described if (described := dict(self.description.colours)) and self.has_colours else self._statistics()

    def _statistics(self) -> dict[str, Any]:
        return asdict(Normalization(**self.description.normalization))


def find_subject(model: str | Path | Model) -> Subject:
    """Find what to export: a model, or a bare network of the catalog, whose weights are drawn.

    Raises
    ------
    AbbeError
        When there is no such model, it cannot be read, or it is none that a graph can hold.
    """
    name = str(model)
    if not isinstance(model, Model) and name in ENTRIES and not Path(name).expanduser().exists():
        _refuse(name, ENTRIES[name].objective)
        description = Description(name=name, network=name, abbe=__version__)
        return Subject(description, drawn_method(description), True, False)
    loaded = model if isinstance(model, Model) else load_model(model)
    _refuse(loaded.name, loaded.description.objective or entry(loaded.description.network).objective)
    return Subject(loaded.description, loaded.method, False, loaded.path in [find_model(name) for name in RECORDS])


def drawn_method(description: Description) -> Any:
    """Build a method with random weights, the same every time.

    Noise is added to all of them, for layers that begin with zeros would hide from a comparison what stands behind.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        method = build_method(description).eval()
        with torch.no_grad():
            for parameter in method.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return method


def _refuse(name: str, objective: str) -> None:
    if objective in REFUSED:
        raise AbbeError(f"{name}: cannot be exported, for {REFUSED[objective]}; use it from Python with abbe.load")
