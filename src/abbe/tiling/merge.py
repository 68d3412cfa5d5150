"""Objects across the borders of tiles and bands: each is decoded once, as a whole.

A decoder of objects treats every connected region of foreground by itself. So a region that does not touch the lower
edge of what has been computed is final, objects and all, and equal to what the whole image would give. Regions that do
touch it wait, with the maps of their rows, for the next band. No object is cut, and none is matched across a seam.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from abbe.tiling.stitch import Band

MAX_PENDING = 2**26
"""Pixels of unfinished rows to keep; past it a region is finished object by object."""

Decode = Callable[..., dict[str, np.ndarray]]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """Objects that became final together."""

    y0: int
    """First row of ``labels`` in the image."""
    labels: np.ndarray
    """(Y, X) int32: the new objects with their final numbers, 0 elsewhere."""
    count: int
    """How many objects are new."""


def merge(
    bands: Iterable[Band], decode: Decode, height: int, *, max_pending: int = MAX_PENDING
) -> Iterator[Finished]:
    """Decode bands into objects, numbered from 1 in the order in which they become final.

    Parameters
    ----------
    bands
        Maps from the top to the bottom.
    decode
        ``decode(maps, exclude=mask)`` gives ``labels`` (Y, X), 1..n, and ``regions`` (Y, X), the connected regions of
        foreground that it treated each by itself; it takes no notice of excluded pixels.
    height
        Rows of the image.
    max_pending
        Pixels of unfinished rows to keep in memory.
    """
    pending = _Pending()
    total = 0
    for band in bands:
        pending.add(band)
        decoded = decode(pending.maps, exclude=pending.done)
        labels, regions = decoded["labels"], decoded["regions"]
        last = band.y1 == height
        waiting = np.zeros(labels.shape, bool) if last else np.isin(regions, _ids(regions[-1]))
        if waiting.any() and waiting.any(axis=1).sum() * waiting.shape[1] > max_pending:
            logger.warning(
                "a connected region of foreground spans %d rows: finishing it object by object", len(labels)
            )
            waiting = np.isin(labels, _ids(labels[-1]))
        final = np.where(waiting, 0, labels)
        final, count = _renumber(final, total)
        if count:
            yield Finished(pending.y0, final, count)
            total += count
        pending.keep(waiting, final > 0)


class _Pending:
    """Rows whose objects are not all final."""

    def __init__(self) -> None:
        self.y0 = 0
        self.maps: dict[str, np.ndarray] = {}
        self.done = np.zeros((0, 0), bool)

    def add(self, band: Band) -> None:
        rows, width = band.y1 - band.y0, next(iter(band.maps.values())).shape[2]
        if not self.done.size:
            self.y0, self.maps, self.done = band.y0, band.maps, np.zeros((rows, width), bool)
            return
        self.maps = {
            name: np.concatenate([self.maps[name], maps], axis=1) for name, maps in band.maps.items()
        }
        self.done = np.concatenate([self.done, np.zeros((rows, width), bool)])

    def keep(self, waiting: np.ndarray, final: np.ndarray) -> None:
        """Drop the rows above the first that waits, and remember which pixels are taken."""
        rows = np.flatnonzero(waiting.any(axis=1))
        first = int(rows[0]) if len(rows) else len(waiting)
        self.maps = {name: maps[:, first:] for name, maps in self.maps.items()}
        self.done = self.done[first:] | final[first:]
        self.y0 += first


def _ids(row: np.ndarray) -> np.ndarray:
    return np.unique(row[row > 0])


def _renumber(labels: np.ndarray, offset: int) -> tuple[np.ndarray, int]:
    """Number the objects that are left from offset + 1, in the order of their old numbers."""
    present = np.bincount(labels.ravel(), minlength=1) > 0
    present[0] = False
    numbers = np.zeros(len(present), np.int32)
    count = int(present.sum())
    numbers[present] = np.arange(offset + 1, offset + count + 1)
    return numbers[labels], count
