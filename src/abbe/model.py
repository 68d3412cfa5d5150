"""A trained method with everything needed to use it on an image: what ``abbe.load`` returns."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from abbe.batch import Batch, Found, Outputs
from abbe.contract import KnowsItsSize, Method
from abbe.data.channels import match_channels
from abbe.data.image import Image
from abbe.data.inputs import Input
from abbe.data.normalize import Normalization
from abbe.data.read import read
from abbe.errors import AbbeError
from abbe.methods.catalog import OBJECTIVES, entry, module_of
from abbe.ops.labels import typical_diameter
from abbe.report.measure import measure_labels, pixel_size_yx
from abbe.report.overlay import overlay_of
from abbe.settings import ImageSettings, SegmentSettings
from abbe.size import WINDOW, Look, busiest_window, find_scale
from abbe.tiling.grid import Grid, plan
from abbe.tiling.merge import Finished, merge
from abbe.tiling.prefetch import prefetch
from abbe.tiling.prepare import Predictor
from abbe.tiling.rescale import margin_for, rescale, scaled_region, scaled_shape
from abbe.tiling.run import Region, run
from abbe.tiling.stitch import Patch, stitch
from abbe.train.settings import build_config
from abbe.weights.file import Description, file_hash, read_model
from abbe.weights.load import load_strict
from abbe.weights.records import find_model

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

IN_MEMORY = 2**26
"""Pixels of a label image up to which it is held in memory; a larger one lies in a temporary file."""
TILE = {"cpu": 1536, "cuda": 2048, "mps": 1024}
BATCH = {"cpu": 1, "cuda": 4, "mps": 1}


class Model:
    """A method, its description, and how to apply it to images of any size.

    Parameters
    ----------
    method
        With its weights.
    description
        What the model file says.
    path
        Where it was read from, if it was.
    """

    def __init__(self, method: Method, description: Description, path: Path | None = None):
        self.method = method
        self.description = description
        self.path = path
        self._predictors: dict[tuple[str, str, str], Predictor] = {}

    @property
    def name(self) -> str:
        """What people call it."""
        return self.description.name

    def identity(self, settings: SegmentSettings) -> dict[str, Any]:
        """Tell runs apart: all that changes the labels of an image."""
        return {"model": self.name, "sha256": self.sha256, **dataclasses.asdict(settings)}

    def record(self) -> dict[str, Any]:
        """Describe itself for the record of a run."""
        return dataclasses.asdict(self.description) | {"sha256": self.sha256}

    @cached_property
    def sha256(self) -> str:
        """Hash of its file; empty for a model that was never saved."""
        return file_hash(self.path) if self.path else ""

    def predict(
        self,
        image: Any,
        settings: SegmentSettings | None = None,
        *,
        progress: Callable[[float], None] | None = None,
    ) -> Segmentation:
        """Find the objects of an image.

        Parameters
        ----------
        image
            A path, an array, or an :class:`~abbe.data.read.Image`.
        settings
            Which plane, what objects to keep, where to compute.
        progress
            Gets the part of the image that is done, 0 to 1.

        Raises
        ------
        AbbeError
            When the image cannot be read or does not fit the model.
        """
        settings = settings or SegmentSettings()
        start = time.perf_counter()
        plane = open_plane(image, settings)
        predictor = self.predictor(settings)
        scale = self.scale(plane, predictor, settings)
        labels = Canvas(extents(plane))
        decode = partial(self.method.decode, min_area=settings.min_area)
        patches = prefetch(self.patches(plane, predictor, scale, settings.tile))
        bottom = 0
        for finished in merge(patches, decode, extents(plane)):
            labels.add(finished)
            bottom = max(bottom, finished.y0 + len(finished.labels))
            if progress is not None:
                progress(bottom / plane.height)
        if settings.drop_border:
            labels.drop_border()
        seconds = time.perf_counter() - start
        return Segmentation(plane, labels.array, self, settings, scale, seconds, labels.folder)

    def patches(
        self, image: Image, predictor: Predictor, scale: float = 1.0, tile: int | None = None
    ) -> Iterator[Patch]:
        """Compute the maps of a planar image, tile by tile, at the image's own pixels."""
        shape = extents(image)
        patches = self._scaled_patches(self.reader(image), shape, predictor, scale, tile)
        target = scaled_shape(shape, scale)
        return rescale(patches, target, shape) if target != shape else patches

    def _scaled_patches(
        self, region: Region, shape: tuple[int, int], predictor: Predictor, scale: float, tile: int | None = None
    ) -> Iterator[Patch]:
        """Compute the maps of a region of ``shape`` at a scale, and leave them at that scale."""
        target = scaled_shape(shape, scale)
        if target != shape:
            region = scaled_region(region, shape, target)
        return run(region, self.grid(shape, predictor, scale, tile), predictor, batch=BATCH[predictor.device])

    def grid(self, shape: tuple[int, int], predictor: Predictor, scale: float = 1.0, tile: int | None = None) -> Grid:
        """Plan the tiles of an image that the network sees at a scale."""
        target = scaled_shape(shape, scale)
        margin = margin_for(scale) if target != shape else 0
        return plan(target, self.method.geometry, tile or TILE[predictor.device], margin)

    def reader(self, image: Image) -> Region:
        """Read normalised regions (C, Y, X) of a planar image, with the channels that the network takes."""
        normalization = Normalization(**self.description.normalization)
        statistics = normalization.statistics(image.region, (image.n_channels, *extents(image)))

        def region(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
            pixels = statistics.apply(image.region(y0, y1, x0, x1))
            if len(pixels) == 1:
                return pixels  # the predictor repeats it, at the last moment, for a network that takes colours
            return match_channels(pixels, self.method.in_channels, image.name)

        region(0, 1, 0, 1)  # channels that do not fit are told before the work begins
        return region

    def predictor(self, settings: SegmentSettings) -> Predictor:
        """Prepare the method for a device and a precision; once for each."""
        key = (settings.device, settings.precision, settings.backend)
        if key not in self._predictors:
            self._predictors[key] = Predictor(
                self.method, device=settings.device, precision=settings.precision, backend=settings.backend
            )
        return self._predictors[key]

    def scale(self, image: Image, predictor: Predictor, settings: SegmentSettings) -> float:
        """Choose the factor at which the network sees an image.

        A model that works at a physical pixel size gets that. One that knows a range of diameters gets objects
        within it: those of ``settings.diameter``, or of the size that a few looks at the image suggest.
        """
        if self.description.pixel_size is not None:
            return self._physical_scale(image)
        if self.description.diameter is None or not isinstance(self.method, KnowsItsSize):
            return 1.0
        if settings.diameter is None:
            return self._estimated_scale(image, predictor)
        if settings.diameter <= 0:
            raise AbbeError(f"a diameter of {settings.diameter:g} px; expected more than 0")
        return float(np.clip(settings.diameter, *self.description.diameter)) / settings.diameter

    def _physical_scale(self, image: Image) -> float:
        size, wanted = pixel_size_yx(image), self.description.pixel_size
        assert wanted is not None
        if size is None:
            raise AbbeError(
                f"{image.name}: pixel size unknown, but model {self.name!r} works at {wanted[0]:g} µm per pixel; "
                "give it with --pixel-size"
            )
        return size[0] / wanted[0]

    def _estimated_scale(self, image: Image, predictor: Predictor) -> float:
        """Look at a part of the image at several scales, and take the one of which the network is most certain."""
        region, shape = self.reader(image), extents(image)
        assert self.description.diameter is not None
        assert isinstance(self.method, KnowsItsSize)
        method = self.method

        def look(scale: float) -> Look:
            y0, y1, x0, x1 = busiest_window(region, shape, round(WINDOW / scale))
            part, part_shape = offset_region(region, y0, x0), (y1 - y0, x1 - x0)
            maps = stitch(self._scaled_patches(part, part_shape, predictor, scale), scaled_shape(part_shape, scale))
            decoded = method.decode(maps)
            return Look(method.certainty(maps, decoded), typical_diameter(decoded["labels"]))

        return find_scale(look, self.description.diameter)


class Canvas:
    """The label image of one picture, filled as objects become final; a large one lies in a temporary file."""

    def __init__(self, shape: tuple[int, int]):
        self.folder: tempfile.TemporaryDirectory | None = None
        if shape[0] * shape[1] <= IN_MEMORY:
            self.array: np.ndarray = np.zeros(shape, np.int32)
        else:
            self.folder = tempfile.TemporaryDirectory(prefix="abbe-")
            self.array = np.memmap(Path(self.folder.name) / "labels.i4", np.int32, "w+", shape=shape)

    def add(self, finished: Finished) -> None:
        """Add new objects; no pixel has two."""
        height, width = finished.labels.shape
        self.array[finished.y0 : finished.y0 + height, finished.x0 : finished.x0 + width] += finished.labels

    def drop_border(self) -> None:
        """Take objects out that touch the border, and close the gaps in the numbers."""
        edges = [self.array[0], self.array[-1], self.array[:, 0], self.array[:, -1]]
        keep = np.ones(int(max((rows.max() for rows in self._rows()), default=0)) + 1, np.int32)
        keep[np.concatenate([np.unique(edge) for edge in edges])] = 0
        keep[0] = 0
        numbers = np.cumsum(keep, dtype=np.int32) * keep
        for rows in self._rows():
            rows[:] = numbers[rows]

    def _rows(self, step: int = 1024) -> Iterator[np.ndarray]:
        return (self.array[y : y + step] for y in range(0, len(self.array), step))


class Segmentation:
    """The objects of one image.

    Attributes
    ----------
    image : Image
        What was segmented, planar.
    labels : ndarray
        (Y, X) int32: 0 is background, objects are numbered from 1.
    scale : float
        Factor at which the network saw the image.
    seconds : float
        What it took.
    """

    def __init__(
        self,
        image: Image,
        labels: np.ndarray,
        model: Model,
        settings: SegmentSettings,
        scale: float,
        seconds: float,
        folder: tempfile.TemporaryDirectory | None = None,
    ):
        self.image, self.labels, self.model, self.settings = image, labels, model, settings
        self.scale, self.seconds = scale, seconds
        self._folder = folder  # lives as long as the labels that lie in it

    @cached_property
    def objects(self) -> pd.DataFrame:
        """One row per object: see :data:`abbe.report.objects.COLUMNS`."""
        return measure_labels(self.labels, self.image)

    def overlay(self, max_side: int = 4096) -> np.ndarray:
        """Draw contours on the image: (Y, X, 3), uint8, no side longer than ``max_side``."""
        return overlay_of(self.image, self.labels, max_side=max_side)

    def found(self) -> Found:
        """Give what was found, measured, as a batch writes it."""
        return Found(self.image, self.labels, self.objects, self.seconds)

    def save(self, folder: Path | str) -> Path:
        """Write mask, tables, overlay and report into a folder, as ``abbe segment`` does; gives the folder."""
        name = self.image.path.name if self.image.path else self.image.name or "image"
        batch = Batch(
            Outputs(Path(folder), overwrite=True),
            self.model.identity(self.settings),
            f"{self.model.name.capitalize()} in {name}",
            ("abbe.segment", name),
            self.model.record(),
            self.model.predictor(self.settings).device,
        )
        item = Input(self.image.path or Path(name), Path(Path(name).stem.removesuffix(".ome") or name))
        result = batch.run([item], lambda _: self.found(), logger.info)
        if result.failures:
            raise AbbeError(result.failures[0][1])
        return result.folder


def open_plane(image: Any, settings: ImageSettings) -> Image:
    """Open an image and choose the plane that the settings name."""
    opened = image if isinstance(image, Image) else read(image, axes=settings.axes)
    plane = opened.select(channel=settings.channel, z=settings.z, time=settings.time).planar()
    if settings.pixel_size is None:
        return plane
    if settings.pixel_size <= 0:
        raise AbbeError(f"a pixel size of {settings.pixel_size:g} µm; expected more than 0")
    return dataclasses.replace(plane, pixel_size={"y": settings.pixel_size, "x": settings.pixel_size})


def load_model(name: str | Path) -> Model:
    """Load a model by name or path.

    Raises
    ------
    AbbeError
        When it cannot be found, is not a model file, or its tensors do not fit its network.
    """
    path = find_model(name)
    tensors, description = read_model(path)
    method = build_method(description)
    load_strict(method, tensors, str(path))
    return Model(method.eval(), description, path)


def build_method(description: Description) -> Any:
    """Build the method that a description names, with random weights."""
    known = entry(description.network)
    file = module_of(known.file)
    published = file.VARIANTS[description.network]
    values = dataclasses.asdict(published) | description.config
    config = build_config(type(published), values, description.name)
    network = file.build(config)
    return wrap(network, description.objective or known.objective, description.options)


def wrap(network: Any, objective: str, options: dict[str, Any]) -> Any:
    """Put a network into its objective."""
    if objective not in OBJECTIVES:
        raise AbbeError(f"no objective is called {objective!r}; there are {', '.join(OBJECTIVES)}")
    found = OBJECTIVES[objective]
    file = module_of(found.file)
    return getattr(file, found.type)(network, build_config(getattr(file, found.config), options, objective))


def offset_region(region: Region, top: int, left: int) -> Region:
    """Read a part of an image as if it began at its own corner."""
    return lambda y0, y1, x0, x1: region(y0 + top, y1 + top, x0 + left, x1 + left)


def extents(image: Image) -> tuple[int, int]:
    """Give (Y, X) of a planar image."""
    return image.height, image.width
