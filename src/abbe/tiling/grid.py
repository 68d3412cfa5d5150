"""Where tiles lie on an image: row by row, from left to right.

A tile writes its *core* and reads a *window*: the core and, around it, the context (halo) that makes the core equal to
what the network would give on the whole image. Cores start at multiples of the network's stride, so that pooling sees
the same pixels together in a tile and in the whole. Where a window reaches the border of the image it ends there, as
the whole image does; networks with unpadded convolutions read a mirrored margin beyond it instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from abbe.contract import Geometry
from abbe.errors import AbbeError

Span = tuple[int, int]  # start, stop
Box = tuple[int, int, int, int]  # y0, y1, x0, x1


@dataclass(frozen=True)
class Tile:
    """One step of the runner, in pixels of the image."""

    core: Box
    """What the tile is there for; the cores of all tiles partition the image."""
    kept: Box
    """What is kept of the output: the core, and the grid's margin around it within the image."""
    window: Box
    """What the network reads; may reach beyond the image, where it is mirrored."""
    origin: tuple[int, int]
    """Where the network's output starts."""


@dataclass(frozen=True)
class Grid:
    """The tiles of one image.

    Parameters
    ----------
    shape
        (Y, X) of the image.
    core
        (Y, X) of a tile's core, multiples of ``geometry.multiple``; see :func:`plan`.
    geometry
        Of the method.
    margin
        Pixels around each core to keep as well, as exact as the core; a multiple of the stride.
    """

    shape: tuple[int, int]
    core: tuple[int, int]
    geometry: Geometry
    margin: int = 0

    def __iter__(self) -> Iterator[Tile]:
        columns = list(self._spans(1))
        for y in self._spans(0):
            for x in columns:
                yield Tile(y[0] + x[0], y[1] + x[1], y[2] + x[2], (y[3], x[3]))

    def __len__(self) -> int:
        return int(np.prod([-(-extent // core) for extent, core in zip(self.shape, self.core, strict=True)]))

    def _spans(self, axis: int) -> Iterator[tuple[Span, Span, Span, int]]:
        """Core, kept part, window and output origin along one axis."""
        extent, step = self.shape[axis], self.core[axis]
        for start in range(0, extent, step):
            end = min(start + step, extent)
            kept = max(start - self.margin, 0), min(end + self.margin, extent)
            window = self._window(axis, *kept)
            origin = window[0] + (context(self.geometry, axis) if self.geometry.crops else 0)
            yield (start, end), kept, window, origin

    def _window(self, axis: int, start: int, end: int) -> Span:
        halo, multiple = context(self.geometry, axis), self.geometry.multiple[axis]
        remainder = self.geometry.remainder[axis]
        if self.geometry.crops:
            return start - halo, start - halo + fit(end - start + 2 * halo, multiple, remainder)
        whole = fit(self.shape[axis], multiple, remainder)
        low = max(start - halo, 0)
        return low, min(low + fit(end + halo - low, multiple, remainder), whole)


def context(geometry: Geometry, axis: int) -> int:
    """Give the pixels that a window reads before its core; padded networks' windows start at multiples as well."""
    if geometry.halo is None:
        return 0
    return geometry.halo[axis] if geometry.crops else fit(geometry.halo[axis], geometry.multiple[axis])


def fit(extent: int, multiple: int, remainder: int = 0) -> int:
    """Find the smallest extent not below ``extent`` that the network takes."""
    return extent + (remainder - extent) % multiple


def plan(shape: tuple[int, int], geometry: Geometry, tile: int, margin: int = 0) -> Grid:
    """Choose cores so that no window exceeds ``tile`` pixels along an axis.

    Cores are made equal in size rather than full with a rest, since a batch wants tiles of one shape.

    Raises
    ------
    AbbeError
        When ``tile`` leaves no core beside the halo.
    """
    if geometry.halo is None:
        return Grid(shape, (fit(shape[0], geometry.multiple[0]), fit(shape[1], geometry.multiple[1])), geometry)
    core = []
    for axis, extent in enumerate(shape):
        around, multiple = context(geometry, axis) + margin, geometry.multiple[axis]
        window = tile - (tile - geometry.remainder[axis]) % multiple
        room = (window - 2 * around) // multiple * multiple
        if room < multiple:
            raise AbbeError(
                f"tile of {tile} px leaves nothing beside the halo of {around} px that the network needs on each "
                f"side; choose --tile {fit(2 * (around + multiple), 64)} or more"
            )
        number = -(-extent // room)
        core.append(fit(-(-extent // number), multiple))
    return Grid(shape, (core[0], core[1]), geometry, margin)
