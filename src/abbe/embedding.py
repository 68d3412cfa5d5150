"""Vectors of pictures: what a network of classes knows of an image before it names a class.

Pictures that look alike to the network have vectors of nearly the same direction, whether or not they are of a class
that it was trained for.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import nn

from abbe.contract import Geometry, Joins
from abbe.data.masks import read_masks
from abbe.data.select import Series, select
from abbe.data.vectors import vector_columns
from abbe.errors import AbbeError
from abbe.methods.catalog import entry, module_of
from abbe.model import Model
from abbe.nn.pyramid import Backbone, TokenBackbone
from abbe.report.measure import COLUMN_OF
from abbe.settings import EmbedSettings
from abbe.train.settings import build_config, nearest
from abbe.views import boxes_of, views_of
from abbe.weights.load import load_strict

FEATURES = "features"
"""The layer that is taken unless another one is asked for: what the network's last one gets to see."""
FRAME, CORNERS = "frame", ("y0", "y1", "x0", "x1")
"""Columns that say where a picture was taken from: the number of the frame, and the box of an object in pixels."""


class Features(nn.Module):
    """A network without its last layer, or up to one of its layers.

    Parameters
    ----------
    network
        Built with ``num_classes`` 0, so that its forward gives features.
    layer
        One of :func:`layers_of`.
    in_channels, size
        Of the pictures that it takes.
    """

    joins: Joins = "whole"

    def __init__(self, network: nn.Module, layer: str, in_channels: int, size: int):
        super().__init__()
        self.network, self.layer, self.in_channels, self.size = network, layer, in_channels, size

    @property
    def geometry(self) -> Geometry:
        """It takes squares of one size, whole."""
        return Geometry(None, (self.size, self.size))

    def predict(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the ``vector`` (B, D) of each picture (B, C, Y, X); of maps and of patches it is their mean."""
        network: Any = self.network
        if self.layer == FEATURES:
            vector = network(x)
        elif self.layer.startswith("stages."):
            vector = network.pyramid(x)[int(self.layer.removeprefix("stages."))].mean((-2, -1))
        elif self.layer == "class":
            vector = network.tokens(x)[:, 0]
        elif self.layer == "patches":
            vector = network.tokens(x)[:, network.prefix :].mean(1)
        else:
            vector = network.features(x, (self.layer,))[self.layer][:, network.prefix :].mean(1)
        return {"vector": vector}


def layers_of(network: nn.Module) -> tuple[str, ...]:
    """Name the layers of a network whose features can be had, the usual one first; none for a network without any.

    ``stages.0`` and so on are the maps of a convolutional network. Of a transformer ``class`` is the last class token,
    ``patches`` are the last tokens of patches, and names such as ``blocks.3`` those behind a block.
    """
    if isinstance(network, Backbone):
        return FEATURES, *(f"stages.{place}" for place in range(len(network.strides)))
    if isinstance(network, TokenBackbone):
        inner = (name for name in getattr(network, "feature_names", ()) if not name.endswith(".attention"))
        return FEATURES, *(["class"] if network.prefix else []), "patches", *inner
    return ()


def without_head(model: Model, layer: str, size: int) -> Features:
    """Build the network of a model without its last layer, with random weights."""
    known = entry(model.description.network)
    file = module_of(known.file)
    published = file.VARIANTS[model.description.network]
    values = dataclasses.asdict(published) | model.description.config | {"num_classes": 0}
    network = file.build(build_config(type(published), values, model.name))
    return Features(network, layer, model.method.in_channels, size)


@dataclass(frozen=True)
class Part:
    """Some pictures of an image, and their vectors as they come."""

    places: pd.DataFrame
    """A row for each: ``frame``, its number in the series, and in a series the columns time, channel and z; of objects
    ``label`` and the box."""
    vectors: Iterator[np.ndarray]
    """Batches (B, D) float32 in the order of the rows."""


class Embedder:
    """A model of whole pictures without its last layer, and how it is applied.

    Parameters
    ----------
    model
        As :func:`abbe.load` gives it.
    settings
        For all images.

    Raises
    ------
    AbbeError
        When the model is none of whole pictures, has no such layer, or cannot take pictures of that size.

    Attributes
    ----------
    model : Model
        With the network without its last layer as its method.
    layer : str
        Whose features are taken.
    views : Views
        How images come to the network.
    dimensions : int
        Numbers per vector.
    """

    def __init__(self, model: Model, settings: EmbedSettings | None = None):
        self.settings = settings or EmbedSettings()
        self.views = views_of(model, self.settings)
        network = cast(Any, model.method).network
        self.layer = _known_layer(network, self.settings.layer, model.name)
        self.dimensions = self._dimensions(model)
        features = without_head(model, self.layer, self.views.size)
        tensors, wanted = network.state_dict(), features.network.state_dict()
        load_strict(features.network, {name: tensors[name] for name in wanted if name in tensors}, model.name)
        self.model = Model(cast(Any, features.eval()), model.description, model.path)

    def _dimensions(self, model: Model) -> int:
        """Count the numbers of a vector, without computing any."""
        with torch.device("meta"), torch.inference_mode():
            features = without_head(model, self.layer, self.views.size).eval()
            picture = torch.zeros(1, self.views.channels, self.views.size, self.views.size)
            try:
                return features.predict(picture)["vector"].shape[1]
            except (ValueError, RuntimeError) as error:
                side = self.views.size
                raise AbbeError(
                    f"model {model.name!r} takes no squares of {side} px ({error}); choose others with --size"
                ) from error

    def vectors(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Compute the vectors (B, D), float32, of normalised squares (C, size, size), a batch at a time."""
        predictor = self.model.predictor(self.settings)
        waiting = iter(pictures)
        while windows := list(itertools.islice(waiting, self.views.together)):
            yield predictor(np.stack(windows))["vector"]

    def images(self, image: Any) -> tuple[Series, Iterator[Part]]:
        """Look at every frame of an image, whole."""
        series = select(image, self.settings, 2)
        return series, iter([Part(frames_of(series), self.vectors(map(self.views.picture, series)))])

    def objects(self, image: Any, mask: Any) -> tuple[Series, Iterator[Part]]:
        """Look at every object of an image with labels.

        Raises
        ------
        AbbeError
            When the mask does not fit the image, or labels solids.
        """
        masks, series, labels = read_masks(mask, image, self.settings)
        assert series is not None
        if series.dimensions == 3:
            raise AbbeError(
                f"{masks.image.name}: labels of solids, {labels.shape}, but pictures are planes; choose with --z"
            )
        return series, (self._frame(series, number, labels[masks.index(number)]) for number in range(len(series)))

    def _frame(self, series: Series, number: int, labels: np.ndarray) -> Part:
        numbers, boxes = boxes_of(labels)
        corners = np.array(boxes, np.int64).reshape(-1, len(CORNERS))
        columns = {FRAME: np.full(len(numbers), number), "label": numbers}
        columns |= {name: corners[:, place] for place, name in enumerate(CORNERS)}
        places = _place(series, number, pd.DataFrame(columns))
        return Part(places, self.vectors(self.views.squares(series[number], boxes)))


def _known_layer(network: nn.Module, asked: str | None, name: str) -> str:
    layers = layers_of(network)
    if not layers:
        raise AbbeError(f"model {name!r}: {type(network).__name__} gives nothing but its classes, so it has no vectors")
    if asked is not None and asked not in layers:
        raise AbbeError(f"model {name!r} has no layer {asked!r}; {nearest(asked, layers)} (all: {', '.join(layers)})")
    return asked or FEATURES


def frames_of(series: Series) -> pd.DataFrame:
    """Say of every frame of an image which one it is, as :class:`Part` has it."""
    rows = [_place(series, number, pd.DataFrame({FRAME: [number]})) for number in range(len(series))]
    return pd.concat(rows, ignore_index=True)


def _place(series: Series, number: int, rows: pd.DataFrame) -> pd.DataFrame:
    """Say in the rows of a frame which one it is; changes them in place."""
    for place, (axis, name) in enumerate(series.names(number).items(), 1):
        rows.insert(place, COLUMN_OF[axis], name)
    return rows


def embed_image(embedder: Embedder, image: Any, objects: Any = None) -> pd.DataFrame:
    """Give the vectors of an image or of its objects as a table; see :func:`abbe.api.embed`."""
    _, parts = embedder.images(image) if objects is None else embedder.objects(image, objects)
    places, vectors = [], [np.zeros((0, embedder.dimensions), np.float32)]
    for part in parts:
        places.append(part.places)
        vectors += part.vectors
    index = pd.concat(places, ignore_index=True).drop(columns=[FRAME, *CORNERS], errors="ignore")
    table = pd.DataFrame(np.concatenate(vectors), columns=vector_columns(embedder.dimensions))
    return table.set_index(pd.MultiIndex.from_frame(index)) if len(index.columns) > 1 else _single(table, index)


def _single(table: pd.DataFrame, index: pd.DataFrame) -> pd.DataFrame:
    return table if index.empty else table.set_index(pd.Index(index.iloc[:, 0]))
