"""Objects across the borders of tiles: each is decoded once, as a whole.

A decoder of objects treats every connected region of foreground by itself. So a region inside a tile is final, objects
and all, and equal to what the whole image would give. The pieces of a region that tiles cut wait until all tiles that
it reaches are there, and are decoded together then. No object is cut, none is matched across a seam, and memory holds
one tile and the waiting pieces.

A region that would take too much memory, such as tissue without a gap, is decoded before all of it is there. Its
objects that touch no tile to come are final; the others go on as regions of their own, and are decoded again with what
joins them. Only an object that is itself too large is cut.

:func:`separate` is the work on one tile, which knows nothing of the others; :func:`join` brings the tiles together, in
their order, and is cheap.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from abbe.ops.boxes import Box, bounding, corner, extents, moved, slices
from abbe.tiling.stitch import Maps, Patch

MAX_WAITING = 2**25
"""Pixels of waiting pieces to keep, 9 bytes each."""
MAX_DECODED = 2**22
"""Pixels to decode at once, some 70 bytes each: those of the bounding box of a region; two tiles if that is more."""

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
    patches: Iterable[Patch],
    decode: Decode,
    shape: Sequence[int],
    *,
    max_waiting: int = MAX_WAITING,
    max_decoded: int = MAX_DECODED,
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
    max_decoded
        Pixels to decode at once; two tiles are always allowed.
    """
    parts = (separate(patch, decode, shape) for patch in patches)
    for finished in join(parts, decode, max_waiting=max_waiting, max_decoded=max_decoded):
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


def join(
    parts: Iterable[Part], decode: Decode, *, max_waiting: int = MAX_WAITING, max_decoded: int = MAX_DECODED
) -> Iterator[list[Finished]]:
    """Number the objects of all tiles, and decode what their borders cut; see :func:`merge`.

    Yields
    ------
    list of Finished
        For every tile what became final with it: its own objects first, then those that it brought together.
    """
    seams = _Seams(decode, max_waiting, max_decoded)
    count = 0
    for part in parts:
        labels, count = _renumber(part.labels, count)
        finished = [Finished(part.core, labels)]
        for box, found in seams.take(part):
            labels, count = _renumber(found, count)
            finished.append(Finished(box, labels))
        yield finished


@dataclass
class _Region:
    """The pieces of one region so far."""

    pieces: list[Piece]
    box: Box
    """Around all of them."""
    waiting: int
    """Pixels of all of them."""
    open_sides: int = 0
    """How many sides of them face tiles that are not there yet."""
    single: bool = False
    """It is one object of a region that was decoded before, and nothing has joined it since."""

    @classmethod
    def of(cls, piece: Piece, *, single: bool = False) -> _Region:
        """Begin with one piece."""
        return cls([piece], piece.box, piece.mask.size, single=single)

    def take(self, other: _Region) -> None:
        """Take in another region."""
        self.pieces += other.pieces
        self.box = bounding([self.box, other.box])
        self.waiting += other.waiting
        self.open_sides += other.open_sides
        self.single = False

    def maps(self) -> tuple[Maps, np.ndarray]:
        """Put the pieces together: maps (C, ...) of the box, and which of its pixels are the region's."""
        inside = np.zeros(extents(self.box), bool)
        first = self.pieces[0].maps
        whole = {name: np.zeros((len(maps), *inside.shape), maps.dtype) for name, maps in first.items()}
        for piece in self.pieces:
            place = slices(piece.box, corner(self.box))
            inside[place] |= piece.mask
            for name, maps in piece.maps.items():
                whole[name][:, *place] = np.where(piece.mask, maps, whole[name][:, *place])
        return whole, inside


class _Seams:
    """The regions that the borders between tiles cut, each under the number of one of its pieces."""

    def __init__(self, decode: Decode, max_waiting: int, max_decoded: int) -> None:
        self.decode, self.max_waiting, self.max_decoded = decode, max_waiting, max_decoded
        self.regions: dict[int, _Region] = {}
        self.parents: list[int] = [0]
        self.waiting: dict[tuple[int, Box], np.ndarray] = {}
        """Pieces at the far sides of tiles whose neighbour there is still to come, by axis and place of the side."""

    def take(self, part: Part) -> Iterator[tuple[Box, np.ndarray]]:
        """Take the pieces of a tile; gives the labels of regions that are whole, or too large to wait for the rest."""
        limit = max(self.max_decoded, 2 * math.prod(extents(part.core)))
        while (meeting := self._meeting(part)) and math.prod(extents(self._around(part.core, meeting))) > limit:
            yield self._reduced(max(meeting, key=lambda number: math.prod(extents(self.regions[number].box))))
        self._add(part)
        for number in [n for n, region in self.regions.items() if region.open_sides == 0]:
            region = self.regions.pop(number)
            maps, inside = region.maps()
            yield region.box, self.decode(maps, exclude=~inside)["labels"]
        while sum(region.waiting for region in self.regions.values()) > self.max_waiting:
            yield self._reduced(max(self.regions, key=lambda number: self.regions[number].waiting))

    def _meeting(self, part: Part) -> set[int]:
        """Find the regions that pieces of a tile will join."""
        found: set[int] = set()
        for (axis, side), face in part.faces.items():
            if not side:
                earlier = self.waiting[axis, _place(part.core, axis, side)]
                found |= {self._root(int(piece)) for piece in _present(earlier[face > 0])}
        return found

    def _around(self, core: Box, numbers: Iterable[int]) -> Box:
        return bounding([core, *(self.regions[number].box for number in numbers)])

    def _add(self, part: Part) -> None:
        """Keep the pieces of a tile, and join those that meet pieces of tiles before it."""
        numbers = np.array([0, *(self._new(_Region.of(piece)) for piece in part.pieces)], np.int64)
        for (axis, side), face in part.faces.items():
            pieces, place = numbers[face], _place(part.core, axis, side)
            if side:
                self.waiting[axis, place] = pieces
                self._open(pieces)
            else:
                self._join(self.waiting.pop((axis, place)), pieces)

    def _reduced(self, number: int) -> tuple[Box, np.ndarray]:
        """Decode a region as far as it is known, and keep those of its objects that touch tiles to come."""
        sides = list(self._sides(number))
        region = self.regions.pop(number)
        maps, inside = region.maps()
        labels = self.decode(maps, exclude=~inside)["labels"]
        kept = np.zeros(int(labels.max(initial=0)) + 1, np.int64)  # the new number of each object that goes on
        if region.single:
            logger.warning("an object spans many tiles; it is cut at the border of one")
        else:
            touching = [labels[place] for _, _, place in sides]
            for label, piece in _objects(labels, _present(np.concatenate(touching)), region.box, maps):
                kept[label] = self._new(_Region.of(piece, single=True))
        for face, mine, place in sides:
            face[mine] = kept[labels[place]]
            self._open(face[mine])
        return region.box, np.where(kept[labels] > 0, 0, labels)

    def _sides(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]]:
        """Find the open sides of a region: the side's pieces, which of its pixels, where those lie in the box."""
        first = corner(self.regions[number].box)
        for (axis, box), face in self.waiting.items():
            mine = np.isin(face, [piece for piece in _present(face) if self._root(int(piece)) == number])
            if mine.any():
                along = [start - zero for (start, _), zero in zip(box, first, strict=True)]
                across = list(np.nonzero(mine))
                across.insert(axis, np.full(len(across[0]), -1))  # the last pixels before the border
                yield face, mine, tuple(at + zero for at, zero in zip(across, along, strict=True))

    def _new(self, region: _Region) -> int:
        self.parents.append(len(self.parents))
        self.regions[len(self.parents) - 1] = region
        return len(self.parents) - 1

    def _open(self, pieces: np.ndarray) -> None:
        """Count an open side of every piece there."""
        for piece in _present(pieces):
            self.regions[self._root(int(piece))].open_sides += 1

    def _join(self, earlier: np.ndarray, now: np.ndarray) -> None:
        """Join the pieces that meet at a side; every earlier piece there has one open side less."""
        for piece in _present(earlier):
            self.regions[self._root(int(piece))].open_sides -= 1
        meeting = (earlier > 0) & (now > 0)
        for one, other in np.unique(np.stack([earlier[meeting], now[meeting]]), axis=1).T:
            self._unite(self._root(int(one)), self._root(int(other)))

    def _unite(self, one: int, other: int) -> None:
        if one != other:
            self.parents[other] = one
            self.regions[one].take(self.regions.pop(other))

    def _root(self, number: int) -> int:
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]
            number = self.parents[number]
        return number


def _objects(labels: np.ndarray, wanted: np.ndarray, box: Box, maps: Maps) -> Iterator[tuple[int, Piece]]:
    """Cut objects out of a region: their labels, and each as a piece."""
    boxes = ndimage.find_objects(labels)
    for label in wanted:
        inside = boxes[label - 1]
        place = moved([(along.start, along.stop) for along in inside], corner(box))
        cut = {name: values[:, *inside].copy() for name, values in maps.items()}
        yield int(label), Piece(place, labels[inside] == label, cut)


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
