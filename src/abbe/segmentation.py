"""The objects of one image: a label image of any size, their measurements, their pictures."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from abbe.batch import Batch, Found, Outputs
from abbe.data.image import Image
from abbe.data.inputs import Input
from abbe.data.select import Series
from abbe.data.stored_labels import LabelStore, StoredLabels
from abbe.errors import AbbeError
from abbe.ops.boxes import slices
from abbe.report.overlay import picture_of
from abbe.report.table import ObjectTable
from abbe.tiling.merge import Finished

logger = logging.getLogger(__name__)

IN_MEMORY = 2**25
"""Pixels of a label image up to which it is held in memory; a larger one lies in chunks on the disk."""


class Canvas:
    """The label image of one picture, filled as objects become final; a large one goes to the disk chunk by chunk.

    Parameters
    ----------
    extents
        Of a frame, (Z,) Y, X.
    series
        Extents along the axes of a series of frames.
    folder
        Where to put the chunks; a temporary folder, which goes with the labels, unless given.
    """

    def __init__(self, extents: tuple[int, ...], series: tuple[int, ...] = (), folder: Path | None = None):
        shape = series + extents
        self._target: np.ndarray | LabelStore
        if math.prod(shape) <= IN_MEMORY:
            self._target = np.zeros(shape, np.int32)
        else:
            self._target = LabelStore(folder / "labels.zarr" if folder else None, shape, len(extents))

    def add(self, finished: Finished, index: tuple[int, ...] = ()) -> None:
        """Add new objects to a frame; no pixel has two."""
        if isinstance(self._target, LabelStore):
            frame = tuple((place, place + 1) for place in index)
            self._target.add(frame + finished.box, finished.labels[(None,) * len(index)])
        else:
            self._target[index][slices(finished.box)] += finished.labels

    def finish(self) -> np.ndarray | StoredLabels:
        """Give the label image, to which nothing is added any more."""
        return self._target.finish() if isinstance(self._target, LabelStore) else self._target


class Numbering:
    """Numbers for the objects of all frames in one row, without gaps where objects are left out.

    Parameters
    ----------
    extents
        Of a frame.
    drop_border
        Leave out what touches the border of a frame.
    """

    def __init__(self, extents: tuple[int, ...], drop_border: bool = False):
        self.extents, self.drop_border = extents, drop_border
        self.last = 0
        """The last number given out."""
        self._frame = self._seen = 0

    def renumber(self, finished: Sequence[Finished], frame: int = 0) -> list[Finished]:
        """Number objects that became final together; those of each frame come numbered from 1."""
        if frame != self._frame:
            self._frame, self._seen = frame, 0
        highest = max(self._seen, *(int(one.labels.max(initial=0)) for one in finished))
        if self._seen == self.last and not self.drop_border:
            self._seen = self.last = highest
            return list(finished)
        keep = np.ones(highest - self._seen + 1, bool)
        keep[0] = False
        if self.drop_border:
            for one in finished:
                keep[self._within(self._at_border(one))] = False
        numbers = np.where(keep, np.cumsum(keep) + self.last, 0).astype(np.int32)
        renumbered = [Finished(one.box, numbers[self._within(one.labels)]) for one in finished]
        self._seen, self.last = highest, self.last + int(keep.sum())
        return renumbered

    def _within(self, labels: np.ndarray) -> np.ndarray:
        """Count labels from the first of those that are new."""
        return np.maximum(labels - self._seen, 0)

    def _at_border(self, finished: Finished) -> np.ndarray:
        """Give the labels at the border of the frame."""
        sides = [np.zeros(0, np.int32)]
        for axis, ((start, stop), extent) in enumerate(zip(finished.box, self.extents, strict=True)):
            if start == 0:
                sides.append(finished.labels.take(0, axis=axis).ravel())
            if stop == extent:
                sides.append(finished.labels.take(-1, axis=axis).ravel())
        return np.unique(np.concatenate(sides))


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
    series : Series
        What was segmented: the planes or stacks of an image, mostly one.
    labels : ndarray or StoredLabels
        int32, (Y, X) or (Z, Y, X); of a series of planes or stacks with its axes before these. 0 is background,
        objects are numbered from 1 through all of it. Above 2**25 pixels it is uint32 and lies on the disk: slices of
        it are arrays, as ``numpy.asarray(labels)`` is, which loads it all.
    origin : Origin
        The model and its settings.
    scale : tuple of float
        Factor per axis at which the network saw the image.
    seconds : float
        What it took.
    """

    def __init__(
        self,
        series: Series,
        labels: np.ndarray | StoredLabels,
        table: ObjectTable,
        origin: Origin,
        scale: tuple[float, ...],
        seconds: float,
    ):
        self.series, self.labels, self.origin = series, labels, origin
        self.scale, self.seconds = scale, seconds
        self._table = table

    @property
    def image(self) -> Image:
        """What was segmented, CYX or CZYX; of a series the first."""
        return self.series[0]

    @cached_property
    def objects(self) -> pd.DataFrame:
        """One row per object: see :data:`abbe.report.objects.COLUMNS`."""
        return self._table.frame()

    def overlay(self, max_side: int = 4096) -> np.ndarray:
        """Draw contours on the image: (Y, X, 3), uint8, no side longer than ``max_side``."""
        return picture_of(self.series, self.labels, max_side)

    def found(self) -> Found:
        """Give what was found, measured, as a batch writes it."""
        return Found(self.series, self.labels, self._table, self.seconds)

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
