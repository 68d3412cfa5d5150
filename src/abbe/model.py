"""A trained method with everything needed to use it on an image: what ``abbe.load`` returns."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from abbe.contract import KnowsItsSize, Method
from abbe.data.image import Image
from abbe.data.normalize import Normalization
from abbe.data.select import Series, select
from abbe.errors import AbbeError
from abbe.job import Fill, Job, Reader
from abbe.methods.catalog import OBJECTIVES, entry, module_of
from abbe.planning import Plan, announce, plan_job
from abbe.report.measure import measure_finished, placed
from abbe.report.table import ObjectTable
from abbe.segmentation import Canvas, Numbering, Origin, Segmentation
from abbe.settings import ComputeSettings, ImageSettings, SegmentSettings
from abbe.size import find_scale, look
from abbe.tiling.prepare import Predictor, choose_device
from abbe.tiling.store import TileStore
from abbe.train.settings import build_config
from abbe.weights.file import Description, file_hash, read_model
from abbe.weights.load import load_strict
from abbe.weights.records import find_model

TILE: dict[tuple[int, str], int | tuple[int, ...]] = {
    (2, "cpu"): 1280,
    (2, "cuda"): 2048,
    (2, "mps"): 1024,
    (3, "cpu"): (96, 224, 224),
    (3, "cuda"): 192,
    (3, "mps"): 96,
}
"""Pixels that the network sees at once, per side or along Z, Y and X, by spatial axes and device."""


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

    def __getstate__(self) -> dict[str, Any]:
        """Travel without what is prepared for this process."""
        return self.__dict__ | {"_predictors": {}}

    @property
    def name(self) -> str:
        """What people call it."""
        return self.description.name

    def identity(self, settings: ImageSettings) -> dict[str, Any]:
        """Tell runs apart: all that changes the labels of an image, or its class."""
        return {"model": self.name, "sha256": self.sha256, **dataclasses.asdict(settings)}

    def record(self) -> dict[str, Any]:
        """Describe itself for the record of a run."""
        return dataclasses.asdict(self.description) | {"sha256": self.sha256}

    @cached_property
    def sha256(self) -> str:
        """Hash of its file; empty for a model that was never saved."""
        return file_hash(self.path) if self.path else ""

    @property
    def dimensions(self) -> int:
        """Spatial axes of the images that it takes: 2 or 3."""
        return len(self.method.geometry.multiple)

    def predict(
        self,
        image: Any,
        settings: SegmentSettings | None = None,
        *,
        measure: bool = True,
        tell: Callable[[str], None] | None = None,
        progress: Callable[[float], None] | None = None,
        work: Path | None = None,
        fill: Fill | None = None,
    ) -> Segmentation:
        """Find the objects of an image.

        Parameters
        ----------
        image
            A path, an array, or an :class:`~abbe.data.read.Image`.
        settings
            Which planes, what objects to keep, where to compute.
        measure
            Measure the objects too; False where only labels are wanted.
        tell
            Gets a line about what lies ahead, if it is much.
        progress
            Gets the part of the image that is done, 0 to 1.
        work
            A folder for what is not finished: finished tiles are kept there, and are not computed again should the
            same call follow a crash. Nothing is kept unless it is given.
        fill
            Has tiles done elsewhere, as :meth:`abbe.cluster.Cluster.fill`; it needs ``work``.

        Raises
        ------
        AbbeError
            When the image cannot be read or does not fit the model.
        """
        self.expect_objects()
        settings = settings or SegmentSettings()
        start = time.perf_counter()
        series = self.select(image, settings)
        job = self.job(series, settings)
        if tell is not None:
            if series.stains != "off" and settings.stains in (None, "auto"):
                tell(
                    f"{series.image.name}: brown beside blue; nuclei are looked for in its haematoxylin (--stains off)"
                )
            announce(plan_job(job, series, self.name), series.image.name, tell)
        store = None
        if work is not None and len(job) > 1:
            store = TileStore(work / "tiles", {"grid": job.grid, "scale": job.scale, **self.identity(settings)})
        canvas, table = Canvas(job.shape, series.shape, work), ObjectTable(work)
        numbering = Numbering(job.shape, settings.drop_border)
        for done, (frame, together) in enumerate(job.objects(job.parts(store, fill)), 1):
            finished = numbering.renumber(together, frame)
            for one in finished:
                canvas.add(one, series.index(frame))
            if measure:
                table.add(placed(measure_finished(finished, series.measured(frame)), series, frame))
            if progress is not None:
                progress(done / len(job))
        origin = Origin(self.name, self.identity(settings), self.record(), job.predictor.device)
        return Segmentation(series, canvas.finish(), table, origin, job.scale, time.perf_counter() - start)

    def plan(self, image: Any, settings: SegmentSettings | None = None) -> Plan:
        """Say what :meth:`predict` would do with an image, and what that would take."""
        self.expect_objects()
        settings = settings or SegmentSettings()
        series = self.select(image, settings)
        return plan_job(self.job(series, settings), series, self.name)

    def select(self, image: Any, settings: SegmentSettings) -> Series:
        """Choose the frames of an image, and whether they are taken apart into dyes."""
        return select(image, settings, self.dimensions).separated(settings.stains or self.description.stains)

    def job(self, series: Series, settings: SegmentSettings) -> Job:
        """Lay out the work on a selected image: at what scale, in which tiles."""
        self.expect_objects()
        predictor, reader = self.predictor(settings), self.reader(series, settings)
        first, unscaled = series[0], (1.0,) * self.dimensions
        job = Job(
            self.method,
            predictor,
            reader.frame,
            first.extents,
            unscaled,
            self.tile(settings),
            settings.min_area,
            len(series),
        )
        return dataclasses.replace(job, scale=self.scale(first, job, settings))

    def expect_objects(self) -> None:
        """Refuse to look for objects with a model that is for something else."""
        self.expect_images()
        if self.method.joins == "whole":
            raise AbbeError(f"model {self.name!r} tells classes and finds no objects; use it with `abbe classify`")
        if self.method.joins == "stitch":
            raise AbbeError(f"model {self.name!r} restores images and finds no objects; use it with `abbe restore`")

    def expect_images(self) -> None:
        """Refuse images where the model reads sequences."""
        if self.method.joins == "sequence":
            raise AbbeError(f"model {self.name!r} reads sequences and no images; {self.use_of_sequences()}")

    def use_of_sequences(self) -> str:
        """Say how a model of sequences is used."""
        known = self.description.objective or entry(self.description.network).objective
        if known == "translation":
            return "abbe.api.translate uses it"
        return f'in Python, abbe.load("{self.path or self.name}").method.network reads tokens (B, N)'

    def tile(self, settings: ComputeSettings) -> tuple[int, ...]:
        """Give the pixels per axis that the network sees at once.

        Raises
        ------
        AbbeError
            When tiles are asked for, but the network needs the whole image.
        """
        if settings.tile and self.method.geometry.halo is None:
            raise AbbeError(
                f"--tile {settings.tile}: model {self.name!r} needs the whole image, and tiles would not agree; leave "
                "it out, or train one that takes tiles (of NAFNet, with --network.local and the extent of its crops)"
            )
        chosen = settings.tile or TILE[self.dimensions, choose_device(settings.device)]
        if isinstance(chosen, int):
            return (chosen,) * self.dimensions
        halo = self.method.geometry.halo or (0, 0, 0)
        return tuple(max(extent, 3 * around) for extent, around in zip(chosen, halo, strict=True))

    def reader(self, series: Series, settings: ImageSettings) -> Reader:
        """Read normalised boxes (C, ...) of a selected image, with the channels that the network takes."""
        normalization = Normalization(**self.description.normalization)
        reader = Reader(series, settings, normalization, self.method.in_channels)
        reader.frame(0)(((0, 1),) * self.dimensions)  # channels that do not fit are told before the work begins
        return reader

    def predictor(self, settings: ComputeSettings) -> Predictor:
        """Prepare the method for a device and a precision; once for each."""
        key = (settings.device, settings.precision, settings.backend)
        if key not in self._predictors:
            self._predictors[key] = Predictor(
                self.method, device=settings.device, precision=settings.precision, backend=settings.backend
            )
        return self._predictors[key]

    def scale(self, image: Image, job: Job, settings: SegmentSettings) -> tuple[float, ...]:
        """Choose the factor per axis at which the network sees an image.

        A model that works at a physical pixel size gets that. One that knows a range of diameters gets objects
        within it: those of ``settings.diameter``, or of the size that a few looks at the image suggest.
        """
        known = self.description.diameter
        if self.description.pixel_size is not None:
            return self._physical_scale(image)
        if known is None or not isinstance(self.method, KnowsItsSize):
            return job.scale
        if settings.diameter is None:
            factor = find_scale(partial(look, job), known)
        elif settings.diameter <= 0:
            raise AbbeError(f"a diameter of {settings.diameter:g} px; expected more than 0")
        else:
            factor = float(np.clip(settings.diameter, *known)) / settings.diameter
        return (factor,) * self.dimensions

    def _physical_scale(self, image: Image) -> tuple[float, ...]:
        wanted = self.description.pixel_size
        assert wanted is not None
        sizes = [image.pixel_size.get(axis) for axis in "zyx"[-self.dimensions :]]
        if None in sizes:
            raise AbbeError(
                f"{image.name}: pixel size unknown, but model {self.name!r} works at "
                f"{' x '.join(f'{size:g}' for size in wanted)} µm per pixel; give it with --pixel-size"
            )
        return tuple(size / target for size, target in zip(sizes, wanted, strict=True) if size is not None)


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
    """Build the method that a description names, with random weights.

    Raises
    ------
    AbbeError
        When there is no such network, objective or setting, or no network has such numbers.
    """
    known = entry(description.network)
    file = module_of(known.file)
    published = file.VARIANTS[description.network]
    values = dataclasses.asdict(published) | description.config
    config = build_config(type(published), values, description.name)
    try:
        network = file.build(config)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        told = f"{description.name}: no {description.network} can be built with its numbers"
        raise AbbeError(f"{told}; {error}") from error
    return wrap(network, description.objective or known.objective, description.options)


def wrap(network: Any, objective: str, options: dict[str, Any]) -> Any:
    """Put a network into its objective."""
    if objective not in OBJECTIVES:
        raise AbbeError(f"no objective is called {objective!r}; there are {', '.join(OBJECTIVES)}")
    found = OBJECTIVES[objective]
    file = module_of(found.file)
    return getattr(file, found.type)(network, build_config(getattr(file, found.config), options, objective))
