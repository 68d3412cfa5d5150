"""A model of restoration on images of any axes and type: what comes out has the values and the type of what went in."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from abbe.data.axes import LETTERS
from abbe.data.image import Image
from abbe.data.normalize import sample_pixels
from abbe.data.read import read
from abbe.data.select import ALL, Series, select
from abbe.errors import AbbeError
from abbe.job import Job, Reader
from abbe.model import Model
from abbe.ops.boxes import Box, corner, slices
from abbe.settings import RestoreSettings
from abbe.tiling.turned import Turned

IN_MEMORY = 2**28
"""Bytes up to which a restored image is kept in memory; a larger one lies in a file that is mapped."""


@dataclass(frozen=True)
class Restored:
    """What came of an image."""

    series: Series
    """The frames that were restored."""
    pixels: np.ndarray
    """The restored image."""
    axes: str
    """Of it, letters of TCZYX in that order."""
    seconds: float
    """What it took."""

    def plane(self, z: int) -> Restored:
        """Take one plane of a restored stack."""
        series = Series(self.series.image.select(z=z), self.series.axes, self.series.dimensions)
        place = tuple(z if axis == "Z" else slice(None) for axis in self.axes)
        return dataclasses.replace(self, series=series, pixels=self.pixels[place], axes=self.axes.replace("Z", ""))


class Restorer:
    """A model that gives a better image, and how it is applied.

    Parameters
    ----------
    model
        As :func:`abbe.load` gives it.

    Raises
    ------
    AbbeError
        When the model restores nothing.
    """

    order = LETTERS
    """Of the axes of what comes out."""

    def __init__(self, model: Model):
        if model.method.joins != "stitch":
            raise AbbeError(
                f"model {model.name!r} restores no images; leave it out to learn from the images themselves, or take "
                "the bundled denoise or deblur, or one that a recipe such as dncnn_s has trained"
            )
        self.model = model

    def restore(
        self,
        image: Any,
        settings: RestoreSettings,
        *,
        work: Path | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Restored:
        """Restore all planes, time points and channels of an image, or those that the settings choose.

        Parameters
        ----------
        image
            A path, an array, or an :class:`~abbe.data.image.Image`.
        settings
            Which frames, where to compute, and the type of what comes out.
        work
            A folder for an image that is too large for the memory.
        progress
            Gets the part of the image that is done, 0 to 1.

        Raises
        ------
        AbbeError
            When the image cannot be read or does not fit the model, or lacks what was chosen.
        """
        start = time.perf_counter()
        series = self.series(image, settings)  # what is not there is told before anything is done
        plane = settings.z if self.model.dimensions == 3 and isinstance(settings.z, int) else None
        if plane is not None:  # the network looks at its neighbours as well
            settings = dataclasses.replace(settings, z=None)
            series = self.series(image, settings)
        reader, job = self._job(series, settings)
        first, channels = series[0], series[0].n_channels
        running = series.axes + ("C" if channels > 1 else "") + first.axes[1:]
        inner = ((channels,) if channels > 1 else ()) + first.extents
        extents = dict(zip(running, series.shape + inner, strict=True))
        axes = "".join(sorted(running, key=self.order.index))
        dtype = first.dtype if settings.dtype == "keep" else np.dtype(np.float32)
        pixels = empty(tuple(extents[axis] for axis in axes), dtype, work)
        even: dict[int, bool] = {}
        frames = pixels.transpose([axes.index(axis) for axis in running])
        for number, patch in enumerate(job.patches(range(len(job)))):
            frame = number // len(job.tiles)
            if frame not in even:
                even = {frame: is_even(series[frame])}
            maps = patch.maps["restored"][:, *slices(patch.core, corner(patch.kept))]
            values = series[frame].box(patch.core) if even[frame] else self._values(reader, frame, maps, patch.core)
            values = values if settings.clip is None else np.clip(values, *settings.clip)
            place = (*series.index(frame), *((slice(None),) if channels > 1 else ()), *slices(patch.core))
            frames[place] = to_type(values, dtype)[slice(None) if channels > 1 else 0]
            if progress is not None:
                progress((number + 1) / len(job))
        found = Restored(series, pixels, axes, time.perf_counter() - start)
        return found if plane is None else found.plane(plane)

    def series(self, image: Any, settings: RestoreSettings) -> Series:
        """Choose the frames: each channel by itself, unless the network takes as many as there are."""
        opened = image if isinstance(image, Image) else read(image, axes=settings.axes)
        chosen = {axis: getattr(settings, axis) for axis in ("time", "z")}
        loops: dict[str, Any] = {axis: ALL if value is None else value for axis, value in chosen.items()}
        channels, taken = opened.n_channels, self.model.method.in_channels
        known = len(self.model.description.normalization.get("offset", ()))
        if known > 1 and (channels != known or settings.channel is not None):
            given = f"{channels} channel{'s' * (channels > 1)}"
            given = given if settings.channel is None else f"channel {settings.channel} of {given}"
            raise AbbeError(f"{opened.name}: {given}, but model {self.model.name!r} was made for {known} together")
        if settings.channel is None and channels not in (1, taken):
            loops["channel"] = ALL
        return select(opened, dataclasses.replace(settings, **loops), self.model.dimensions)

    def _job(self, series: Series, settings: RestoreSettings) -> tuple[Reader, Job]:
        """Lay out the tiles of all frames."""
        reader = self.model.reader(series, settings)
        predictor: Any = self.model.predictor(settings)
        predictor = Turned(predictor) if settings.flips else predictor
        unscaled, tile = (1.0,) * self.model.dimensions, self.model.tile(settings)
        shape = series[0].extents
        return reader, Job(self.model.method, predictor, reader.frame, shape, unscaled, tile, None, len(series))

    def _values(self, reader: Reader, frame: int, maps: np.ndarray, box: Box) -> np.ndarray:
        """Bring a part of a frame, (C, ...), to the image's own values; a grey one of a colour network is grey again.

        A pixel without a value stays so.
        """
        image = reader.series[frame]
        if image.n_channels == 1 and len(maps) > 1:
            maps = maps.mean(axis=0, keepdims=True)
        values = reader.statistics_of(frame).invert(maps)
        if image.dtype.kind == "f":
            before = image.box(box)
            values[~np.isfinite(before)] = before[~np.isfinite(before)]
        return values


def spell_tiles(model: Model, settings: RestoreSettings) -> str:
    """Warn of tiles that are little more than their halos, where these do not hold all that a pixel depends on."""
    geometry = model.method.geometry
    if not settings.tile or geometry.exact or geometry.halo is None:
        return ""
    halo = max(geometry.halo)
    inner = settings.tile - 2 * halo
    if not 0 < inner < halo:
        return ""
    return (
        f"warning: tiles of {settings.tile} pixels are {inner} beside the {halo} of context on each side; model "
        f"{model.name!r} looks farther, and they differ a little where they meet; --tile {3 * halo} or more is better"
    )


def is_even(image: Image) -> bool:
    """Tell whether all pixels (C, ...) that are looked at have the value of the first: there is nothing to restore."""
    pixels = sample_pixels(image.box, image.extents)
    return bool((pixels == pixels[:, :1]).all())


def denoises(model: Model) -> bool:
    """Tell whether what a model takes away from an image is noise alone, as far as its training says."""
    options = model.description.options
    kinds = set(options.get("kinds", ()))
    return "share" in options or bool(kinds and kinds <= {"gaussian", "camera"})


def empty(shape: tuple[int, ...], dtype: np.dtype, work: Path | None) -> np.ndarray:
    """Make room for an image: in memory, or in a file of the folder ``work`` where it is large."""
    if work is None or math.prod(shape) * dtype.itemsize <= IN_MEMORY:
        return np.empty(shape, dtype)
    return np.lib.format.open_memmap(work / "restored.npy", "w+", dtype, shape)


def to_type(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Bring values to a type: whole numbers are rounded, and held within what the type can hold."""
    if dtype.kind == "b":
        return values > 0.5
    if dtype.kind in "iu":
        ends = np.iinfo(dtype)
        # A type's largest number has no float32, and becomes the next one, which no longer fits into the type.
        low, high = values <= float(ends.min), values >= float(ends.max)
        inside = np.where(low | high | np.isnan(values), 0, values)
        whole = np.rint(inside).astype(dtype)
        whole[low], whole[high] = ends.min, ends.max
        return whole
    return values.astype(dtype)
