"""A model of restoration on images of any axes and type: what comes out has the values and the type of what went in."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from abbe.data.image import Image
from abbe.data.read import read
from abbe.data.select import ALL, Series, select
from abbe.errors import AbbeError
from abbe.job import Job, Reader
from abbe.model import Model
from abbe.settings import RestoreSettings


@dataclass(frozen=True)
class Restored:
    """What came of an image."""

    series: Series
    """The frames that were restored."""
    pixels: np.ndarray
    """The restored image."""
    axes: str
    """Of it, letters of TCZYX."""
    seconds: float
    """What it took."""


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

    def __init__(self, model: Model):
        if model.method.joins != "stitch":
            raise AbbeError(
                f"model {model.name!r} restores no images; use one that a recipe such as dncnn_s has trained"
            )
        self.model = model

    def restore(self, image: Any, settings: RestoreSettings) -> Restored:
        """Restore all planes, time points and channels of an image, or those that the settings choose.

        Raises
        ------
        AbbeError
            When the image cannot be read or does not fit the model.
        """
        start = time.perf_counter()
        series = self.series(image, settings)
        reader = self.model.reader(series, settings)
        first, channels = series[0], series[0].n_channels
        unscaled, predictor = (1.0,) * self.model.dimensions, self.model.predictor(settings)
        tile = self.model.tile(settings)
        job = Job(self.model.method, predictor, reader.frame, first.extents, unscaled, tile, None, len(series))
        inner = ((channels,) if channels > 1 else ()) + first.extents
        dtype = first.dtype if settings.dtype == "keep" else np.dtype(np.float32)
        pixels = np.empty(series.shape + inner, dtype)
        for number in range(len(series)):
            values = self._frame(job, reader, number, channels)
            pixels[series.index(number)] = to_type(values, dtype).reshape(inner)
        axes = series.axes + ("C" if channels > 1 else "") + first.axes[1:]
        return Restored(series, pixels, axes, time.perf_counter() - start)

    def series(self, image: Any, settings: RestoreSettings) -> Series:
        """Choose the frames: each channel by itself, unless the network takes as many as there are."""
        opened = image if isinstance(image, Image) else read(image, axes=settings.axes)
        chosen = {axis: getattr(settings, axis) for axis in ("time", "z")}
        loops: dict[str, Any] = {axis: ALL if value is None else value for axis, value in chosen.items()}
        if settings.channel is None and opened.n_channels not in (1, self.model.method.in_channels):
            loops["channel"] = ALL
        return select(opened, dataclasses.replace(settings, **loops), self.model.dimensions)

    def _frame(self, job: Job, reader: Reader, number: int, channels: int) -> np.ndarray:
        """Restore a frame, (C, ...) in the image's own values; a grey image that a colour network saw is grey again."""
        maps = job.maps(number)["restored"]
        if channels == 1 and len(maps) > 1:
            maps = maps.mean(axis=0, keepdims=True)
        return reader.statistics_of(number).invert(maps)


def to_type(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Bring values to a type: whole numbers are rounded, and held within what the type can hold."""
    if dtype.kind == "b":
        return values > 0.5
    if dtype.kind in "iu":
        ends = np.iinfo(dtype)
        return np.clip(np.rint(values), float(ends.min), float(ends.max)).astype(dtype)
    return values.astype(dtype)
