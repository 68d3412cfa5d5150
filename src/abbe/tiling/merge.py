"""Objects across the borders of tiles: each is decoded once, as a whole.

A decoder of objects treats every connected region of foreground by itself. So a region inside a tile is final, objects
and all, and equal to what the whole image would give. The pieces of a region that tiles cut wait until all tiles that
it reaches are there, and are decoded together then. No object is cut, none is matched across a seam, and memory holds
one tile and the waiting pieces.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from abbe.tiling.stitch import Maps, Patch

MAX_WAITING = 2**25
"""Pixels of waiting pieces to keep; past it the largest region is finished as far as it is known."""

Decode = Callable[..., dict[str, np.ndarray]]
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """Objects that became final together."""

    y0: int
    """First row of ``labels`` in the image."""
    x0: int
    """First column."""
    labels: np.ndarray
    """(Y, X) int32: the new objects with their final numbers, 0 elsewhere."""


def merge(
    patches: Iterable[Patch], decode: Decode, shape: tuple[int, int], *, max_waiting: int = MAX_WAITING
) -> Iterator[Finished]:
    """Decode patches into objects, numbered from 1 in the order in which they become final.

    Parameters
    ----------
    patches
        Maps without a margin, row by row, aligned in rows and columns.
    decode
        ``decode(maps, exclude=mask)`` gives ``labels`` (Y, X), 1..n, and ``regions`` (Y, X), the connected regions of
        foreground that it treated each by itself; it takes no notice of excluded pixels.
    shape
        (Y, X) of the image.
    max_waiting
        Pixels of waiting pieces to keep in memory.
    """
    seams = _Seams(shape)
    count = 0
    for patch in patches:
        decoded = decode(patch.maps, exclude=None)
        cut = seams.add(patch, decoded["regions"])
        labels, count = _renumber(np.where(cut[decoded["regions"]], 0, decoded["labels"]), count)
        yield Finished(patch.core[0], patch.core[2], labels)
        for region in seams.closed(max_waiting):
            labels, count = _renumber(region.decode(decode), count)
            yield Finished(region.y0, region.x0, labels)


@dataclass
class _Piece:
    """A region's part in one tile."""

    y0: int
    x0: int
    mask: np.ndarray
    maps: Maps


@dataclass
class _Region:
    """The pieces of one region so far, and how many sides of them face tiles that are not there yet."""

    pieces: list[_Piece] = field(default_factory=list)
    open_sides: int = 0

    @property
    def pixels(self) -> int:
        return sum(piece.mask.size for piece in self.pieces)

    @property
    def y0(self) -> int:
        return min(piece.y0 for piece in self.pieces)

    @property
    def x0(self) -> int:
        return min(piece.x0 for piece in self.pieces)

    def decode(self, decode: Decode) -> np.ndarray:
        """Put the pieces together and decode them: labels of the region's bounding box."""
        bottom = max(piece.y0 + piece.mask.shape[0] for piece in self.pieces)
        right = max(piece.x0 + piece.mask.shape[1] for piece in self.pieces)
        inside = np.zeros((bottom - self.y0, right - self.x0), bool)
        first = self.pieces[0].maps
        whole = {name: np.zeros((len(maps), *inside.shape), maps.dtype) for name, maps in first.items()}
        for piece in self.pieces:
            rows = slice(piece.y0 - self.y0, piece.y0 - self.y0 + piece.mask.shape[0])
            columns = slice(piece.x0 - self.x0, piece.x0 - self.x0 + piece.mask.shape[1])
            inside[rows, columns] |= piece.mask
            for name, maps in piece.maps.items():
                whole[name][:, rows, columns] = np.where(piece.mask, maps, whole[name][:, rows, columns])
        return decode(whole, exclude=~inside)["labels"]


class _Seams:
    """The regions that the borders between tiles cut, each under the number of one of its pieces."""

    def __init__(self, shape: tuple[int, int]):
        self.shape = shape
        self.regions: dict[int, _Region] = {}
        self.parents: list[int] = [0]
        self.above = np.zeros(shape[1], np.int64)  # piece at the lower side of the tile above, by column
        self.beside = np.zeros(shape[0], np.int64)  # piece at the right side of the tile to the left, by row

    def add(self, patch: Patch, regions: np.ndarray) -> np.ndarray:
        """Take the regions that the tile's borders cut; gives for each region of the tile whether it is one."""
        y0, y1, x0, x1 = patch.core
        top, bottom, left, right = regions[0], regions[-1], regions[:, 0], regions[:, -1]
        facing = [side for side, open_ in ((bottom, y1 < self.shape[0]), (right, x1 < self.shape[1])) if open_]
        behind = [side for side, cut in ((top, y0 > 0), (left, x0 > 0)) if cut]
        numbers = np.zeros(int(regions.max()) + 1, np.int64)
        for region in _present(np.concatenate([regions[:0, 0], *facing, *behind])):
            numbers[region] = self._new(sum(bool((side == region).any()) for side in facing))
        self._keep_pieces(patch, regions, numbers)
        self._join(self.above[x0:x1], numbers[top])
        self._join(self.beside[y0:y1] if x0 else np.zeros(y1 - y0, np.int64), numbers[left])
        self.above[x0:x1] = numbers[bottom]
        self.beside[y0:y1] = numbers[right]
        return numbers > 0

    def closed(self, max_waiting: int) -> Iterator[_Region]:
        """Take out the regions that no open side is left of; and the largest ones, if too much waits."""
        for number in [n for n, region in self.regions.items() if region.open_sides == 0]:
            region = self.regions.pop(number)
            if region.pieces:
                yield region
        while sum(region.pixels for region in self.regions.values()) > max_waiting:
            number = max(self.regions, key=lambda n: self.regions[n].pixels)
            region = self.regions[number]
            logger.warning("a connected region of foreground spans many tiles; it is finished at the next border")
            self.regions[number] = _Region([], region.open_sides)
            yield region

    def _new(self, open_sides: int) -> int:
        self.parents.append(len(self.parents))
        self.regions[len(self.parents) - 1] = _Region([], open_sides)
        return len(self.parents) - 1

    def _keep_pieces(self, patch: Patch, regions: np.ndarray, numbers: np.ndarray) -> None:
        boxes = ndimage.find_objects(regions)
        for region in np.flatnonzero(numbers):
            box = boxes[region - 1]
            maps = {name: values[(slice(None), *box)].copy() for name, values in patch.maps.items()}
            piece = _Piece(patch.core[0] + box[0].start, patch.core[2] + box[1].start, regions[box] == region, maps)
            self.regions[int(numbers[region])].pieces.append(piece)

    def _join(self, earlier: np.ndarray, now: np.ndarray) -> None:
        """Join the pieces that meet at a side; every earlier piece there has one open side less."""
        for piece in _present(earlier):
            self.regions[self._root(int(piece))].open_sides -= 1
        meeting = (earlier > 0) & (now > 0)
        for one, other in np.unique(np.stack([earlier[meeting], now[meeting]]), axis=1).T:
            self._unite(self._root(int(one)), self._root(int(other)))

    def _unite(self, one: int, other: int) -> None:
        if one == other:
            return
        self.parents[other] = one
        joined, region = self.regions.pop(other), self.regions[one]
        region.pieces += joined.pieces
        region.open_sides += joined.open_sides

    def _root(self, number: int) -> int:
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]
            number = self.parents[number]
        return number


def _present(values: np.ndarray) -> np.ndarray:
    """Give the numbers above 0 that occur, each once."""
    return np.unique(values[values > 0])


def _renumber(labels: np.ndarray, offset: int) -> tuple[np.ndarray, int]:
    """Number the objects that are left from offset + 1, in the order of their old numbers; gives the last number."""
    present = np.bincount(labels.ravel(), minlength=1) > 0
    present[0] = False
    numbers = np.cumsum(present, dtype=np.int64) + offset
    return np.where(present, numbers, 0).astype(np.int32)[labels], offset + int(present.sum())
