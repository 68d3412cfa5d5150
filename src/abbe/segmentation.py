"""The objects of one image: a label image of any size, their measurements, their pictures."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from abbe.batch import Batch, Found, Outputs
from abbe.data.image import Image
from abbe.data.inputs import Input
from abbe.errors import AbbeError
from abbe.ops.boxes import slices
from abbe.report.measure import measure_labels
from abbe.report.overlay import overlay_of
from abbe.tiling.merge import Finished

logger = logging.getLogger(__name__)

IN_MEMORY = 2**26
"""Pixels of a label image up to which it is held in memory; a larger one lies in a file."""


class Canvas:
    """The label image of one picture, filled as objects become final; a large one lies in a file.

    Parameters
    ----------
    shape
        Its extents.
    folder
        Where to put the file; a temporary folder, which goes when the canvas goes, unless given.
    """

    def __init__(self, shape: tuple[int, ...], folder: Path | None = None):
        self.folder: tempfile.TemporaryDirectory | None = None
        if math.prod(shape) <= IN_MEMORY:
            self.array: np.ndarray = np.zeros(shape, np.int32)
            return
        if folder is None:
            self.folder = tempfile.TemporaryDirectory(prefix="abbe-")
            folder = Path(self.folder.name)
        self.array = np.memmap(folder / "labels.i4", np.int32, "w+", shape=shape)

    def add(self, finished: Finished) -> None:
        """Add new objects; no pixel has two."""
        self.array[slices(finished.box)] += finished.labels

    def drop_border(self) -> None:
        """Take objects out that touch the border, and close the gaps in the numbers."""
        sides = [self.array.take(side, axis=axis) for axis in range(self.array.ndim) for side in (0, -1)]
        keep = np.ones(int(max((rows.max() for rows in self._rows()), default=0)) + 1, np.int32)
        keep[np.concatenate([np.unique(side) for side in sides])] = 0
        keep[0] = 0
        numbers = np.cumsum(keep, dtype=np.int32) * keep
        for rows in self._rows():
            rows[:] = numbers[rows]

    def _rows(self) -> Iterator[np.ndarray]:
        step = max(IN_MEMORY // 2 // max(math.prod(self.array.shape[1:]), 1), 1)
        return (self.array[y : y + step] for y in range(0, len(self.array), step))


@dataclass(frozen=True)
class Origin:
    """By what an image was segmented."""

    model: str
    """Name."""
    identity: dict[str, Any]
    """Model and settings: all that changes the labels."""
    record: dict[str, Any]
    """Description of the model."""
    device: str
    """Where it ran."""


class Segmentation:
    """The objects of one image.

    Attributes
    ----------
    image : Image
        What was segmented: CYX or CZYX.
    labels : ndarray
        (Y, X) or (Z, Y, X) int32: 0 is background, objects are numbered from 1.
    origin : Origin
        The model and its settings.
    scale : tuple of float
        Factor per axis at which the network saw the image.
    seconds : float
        What it took.
    """

    def __init__(
        self,
        image: Image,
        canvas: Canvas,
        origin: Origin,
        scale: tuple[float, ...],
        seconds: float,
    ):
        self.image, self.labels, self.origin = image, canvas.array, origin
        self.scale, self.seconds = scale, seconds
        self._canvas = canvas  # the folder of a large one lives as long as the result

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
            self.origin.identity,
            f"{self.origin.model.capitalize()} in {name}",
            ("abbe.segment", name),
            self.origin.record,
            self.origin.device,
        )
        item = Input(self.image.path or Path(name), Path(Path(name).stem.removesuffix(".ome") or name))
        result = batch.run([item], lambda path, work: self.found(), logger.info)
        if result.failures:
            raise AbbeError(result.failures[0][1])
        return result.folder
