"""Where tiles lie on an image: bands from top to bottom, tiles from left to right.

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

Box = tuple[int, int, int, int]  # y0, y1, x0, x1


@dataclass(frozen=True)
class Tile:
    """One step of the runner, in pixels of the image."""

    core: Box
    """What the tile writes."""
    window: Box
    """What the network reads; may reach beyond the image, where it is mirrored."""
    origin: tuple[int, int]
    """Where the network's output starts: the core is cut from there."""


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
    """

    shape: tuple[int, int]
    core: tuple[int, int]
    geometry: Geometry

    def bands(self) -> Iterator[list[Tile]]:
        """Give the tiles row by row."""
        spans_x = list(self._spans(1))
        for y in self._spans(0):
            yield [Tile((*y[0], *x[0]), (*y[1], *x[1]), (y[2], x[2])) for x in spans_x]

    def __len__(self) -> int:
        return int(np.prod([-(-extent // core) for extent, core in zip(self.shape, self.core, strict=True)]))

    def _spans(self, axis: int) -> Iterator[tuple[tuple[int, int], tuple[int, int], int]]:
        """Core, window and output origin along one axis."""
        extent, step = self.shape[axis], self.core[axis]
        for start in range(0, extent, step):
            end = min(start + step, extent)
            window = self._window(axis, start, end)
            yield (start, end), window, window[0] + (self._halo(axis) if self.geometry.crops else 0)

    def _window(self, axis: int, start: int, end: int) -> tuple[int, int]:
        halo, multiple, remainder = (
            self._halo(axis),
            self.geometry.multiple[axis],
            self.geometry.remainder[axis],
        )
        if self.geometry.crops:
            return start - halo, start - halo + fit(end - start + 2 * halo, multiple, remainder)
        whole = fit(self.shape[axis], multiple, remainder)
        low = max(start - halo, 0)
        return low, min(low + fit(end + halo - low, multiple, remainder), whole)

    def _halo(self, axis: int) -> int:
        return 0 if self.geometry.halo is None else self.geometry.halo[axis]


def fit(extent: int, multiple: int, remainder: int = 0) -> int:
    """Find the smallest extent not below ``extent`` that the network takes."""
    return extent + (remainder - extent) % multiple


def plan(shape: tuple[int, int], geometry: Geometry, tile: int, max_pixels: int) -> Grid:
    """Choose cores so that no window exceeds ``tile`` per axis and no band exceeds ``max_pixels``.

    Cores are made equal in size rather than full with a rest, since a batch wants tiles of one shape.

    Raises
    ------
    AbbeError
        When ``tile`` leaves no core beside the halo.
    """
    if geometry.halo is None:
        return Grid(
            shape, (fit(shape[0], geometry.multiple[0]), fit(shape[1], geometry.multiple[1])), geometry
        )
    core = []
    for axis, (extent, halo, multiple) in enumerate(
        zip(shape, geometry.halo, geometry.multiple, strict=True)
    ):
        room = (tile - 2 * halo) // multiple * multiple
        if axis == 0:
            room = min(room, max(max_pixels // shape[1] // multiple * multiple, multiple))
        if room < multiple:
            raise AbbeError(
                f"tile of {tile} px leaves nothing beside the halo of {halo} px that the network needs on each side; "
                f"choose --tile {fit(2 * halo + multiple, 64)} or more"
            )
        number = -(-extent // room)
        core.append(fit(-(-extent // number), multiple))
    return Grid(shape, (core[0], core[1]), geometry)
