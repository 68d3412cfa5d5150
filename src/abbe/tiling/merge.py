"""Objects across the borders of tiles: each is decoded once, as a whole.

A decoder of objects treats every connected region of foreground by itself. So a region inside a tile is final, objects
and all, and equal to what the whole image would give. The pieces of a region that tiles cut wait until all tiles that
it reaches are there, and are decoded together then. No object is cut, none is matched across a seam, and memory holds
one tile and the waiting pieces.

:func:`separate` is the work on one tile, which knows nothing of the others; :func:`join` brings the tiles together, in
their order, and is cheap.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from abbe.ops.boxes import Box, corner, moved, slices
from abbe.tiling.stitch import Maps, Patch

MAX_WAITING = 2**25
"""Pixels of waiting pieces to keep; past it the largest region is finished as far as it is known."""

Decode = Callable[..., dict[str, np.ndarray]]
Face = tuple[int, int]
"""A side of a tile: the axis it is perpendicular to, and 0 for the near or 1 for the far one."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """A region's part in one tile."""

    box: Box
    """Its bounding box in the image."""
    mask: np.ndarray
    """Which pixels of the box."""
    maps: Maps
    """The maps (C, ...) of the box."""


@dataclass(frozen=True)
class Part:
    """What one tile gives."""

    core: Box
    """Where it lies."""
    labels: np.ndarray
    """int32, of the core: the objects that no border of the tile cuts, 1..n."""
    pieces: tuple[Piece, ...]
    """The parts of regions that its borders cut, number 1 first."""
    faces: dict[Face, np.ndarray]
    """For each side with a neighbour the number of the piece at its pixels, 0 where none is."""


@dataclass(frozen=True)
class Finished:
    """Objects that became final together."""

    box: Box
    """Where ``labels`` lies in the image."""
    labels: np.ndarray
    """int32: the new objects with their final numbers, 0 elsewhere."""


def merge(
    patches: Iterable[Patch], decode: Decode, shape: Sequence[int], *, max_waiting: int = MAX_WAITING
) -> Iterator[Finished]:
    """Decode patches into objects, numbered from 1 in the order in which they become final.

    Parameters
    ----------
    patches
        Maps without a margin, in reading order, aligned along every axis.
    decode
        ``decode(maps, exclude=mask)`` gives ``labels``, 1..n, and ``regions``, the connected regions of foreground
        that it treated each by itself; it takes no notice of excluded pixels.
    shape
        Extents of the image.
    max_waiting
        Pixels of waiting pieces to keep in memory.
    """
    for finished in join((separate(patch, decode, shape) for patch in patches), decode, max_waiting=max_waiting):
        yield from finished


def separate(patch: Patch, decode: Decode, shape: Sequence[int]) -> Part:
    """Decode one tile, and set apart what its borders cut."""
    decoded = decode(patch.maps, exclude=None)
    regions = decoded["regions"]
    sides = {
        (axis, side): regions.take(-side, axis=axis)
        for axis, (span, extent) in enumerate(zip(patch.core, shape, strict=True))
        for side, inner in enumerate((span[0] > 0, span[1] < extent))
        if inner
    }
    numbers = np.zeros(int(regions.max(initial=0)) + 1, np.int32)
    cut = _present(np.concatenate([np.zeros(0, int), *(side.ravel() for side in sides.values())]))
    numbers[cut] = np.arange(1, len(cut) + 1)
    labels, _ = _renumber(np.where(numbers[regions] > 0, 0, decoded["labels"]), 0)
    faces = {face: numbers[side] for face, side in sides.items()}
    return Part(patch.core, labels, tuple(_pieces(patch, regions, cut)), faces)


def _pieces(patch: Patch, regions: np.ndarray, cut: np.ndarray) -> Iterator[Piece]:
    boxes = ndimage.find_objects(regions)
    for region in cut:
        inside = boxes[region - 1]
        maps = {name: values[:, *inside].copy() for name, values in patch.maps.items()}
        box = moved([(along.start, along.stop) for along in inside], corner(patch.core))
        yield Piece(box, regions[inside] == region, maps)


def join(parts: Iterable[Part], decode: Decode, *, max_waiting: int = MAX_WAITING) -> Iterator[list[Finished]]:
    """Number the objects of all tiles, and decode what their borders cut; see :func:`merge`.

    Yields
    ------
    list of Finished
        For every tile what became final with it: its own objects first, then those that it brought together.
    """
    seams = _Seams()
    count = 0
    for part in parts:
        labels, count = _renumber(part.labels, count)
        finished = [Finished(part.core, labels)]
        seams.add(part)
        for region in seams.closed(max_waiting):
            labels, count = _renumber(region.decode(decode), count)
            finished.append(Finished(region.box, labels))
        yield finished


@dataclass
class _Region:
    """The pieces of one region so far, and how many sides of them face tiles that are not there yet."""

    pieces: list[Piece] = field(default_factory=list)
    open_sides: int = 0

    @property
    def pixels(self) -> int:
        return sum(piece.mask.size for piece in self.pieces)

    @property
    def box(self) -> Box:
        spans = zip(*(piece.box for piece in self.pieces), strict=True)
        return tuple((min(start for start, _ in along), max(stop for _, stop in along)) for along in spans)

    def decode(self, decode: Decode) -> np.ndarray:
        """Put the pieces together and decode them: labels of the region's bounding box."""
        box = self.box
        inside = np.zeros([stop - start for start, stop in box], bool)
        first = self.pieces[0].maps
        whole = {name: np.zeros((len(maps), *inside.shape), maps.dtype) for name, maps in first.items()}
        for piece in self.pieces:
            place = slices(piece.box, corner(box))
            inside[place] |= piece.mask
            for name, maps in piece.maps.items():
                whole[name][:, *place] = np.where(piece.mask, maps, whole[name][:, *place])
        return decode(whole, exclude=~inside)["labels"]


class _Seams:
    """The regions that the borders between tiles cut, each under the number of one of its pieces."""

    def __init__(self) -> None:
        self.regions: dict[int, _Region] = {}
        self.parents: list[int] = [0]
        self.waiting: dict[tuple[int, Box], np.ndarray] = {}
        """Pieces at the far sides of tiles whose neighbour there is still to come, by axis and place of the side."""

    def add(self, part: Part) -> None:
        """Take the pieces of a tile, and join those that meet pieces of tiles before it."""
        numbers = np.array([0, *(self._new(piece) for piece in part.pieces)], np.int64)
        for (axis, side), face in part.faces.items():
            pieces, place = numbers[face], _place(part.core, axis, side)
            if side:
                self.waiting[axis, place] = pieces
                for piece in _present(pieces):
                    self.regions[self._root(int(piece))].open_sides += 1
            else:
                self._join(self.waiting.pop((axis, place)), pieces)

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

    def _new(self, piece: Piece) -> int:
        self.parents.append(len(self.parents))
        self.regions[len(self.parents) - 1] = _Region([piece])
        return len(self.parents) - 1

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


def _place(core: Box, axis: int, side: int) -> Box:
    """Tell a side of a tile by where it lies, the same for the two tiles that it lies between."""
    return (*core[:axis], (core[axis][side], core[axis][side]), *core[axis + 1 :])


def _present(values: np.ndarray) -> np.ndarray:
    """Give the numbers above 0 that occur, each once."""
    return np.unique(values[values > 0])


def _renumber(labels: np.ndarray, offset: int) -> tuple[np.ndarray, int]:
    """Number the objects that are left from offset + 1, in the order of their old numbers; gives the last number."""
    present = np.bincount(labels.ravel(), minlength=1) > 0
    present[0] = False
    numbers = np.cumsum(present, dtype=np.int64) + offset
    return np.where(present, numbers, 0).astype(np.int32)[labels], offset + int(present.sum())
