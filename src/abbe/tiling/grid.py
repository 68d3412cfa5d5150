"""Where tiles lie on an image or a stack: in reading order, the last axis fastest.

A tile writes its *core* and reads a *window*: the core and, around it, the context (halo) that makes the core equal to
what the network would give on the whole image. Cores start at multiples of the network's stride, so that pooling sees
the same pixels together in a tile and in the whole. Where a window reaches the border of the image it ends there, as
the whole image does; networks with unpadded convolutions read a mirrored margin beyond it instead.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from abbe.contract import Geometry
from abbe.errors import AbbeError
from abbe.ops.boxes import Box, Span


@dataclass(frozen=True)
class Tile:
    """One step of the runner, in pixels of the image."""

    core: Box
    """What the tile is there for; the cores of all tiles partition the image."""
    kept: Box
    """What is kept of the output: the core, and the grid's margin around it within the image."""
    window: Box
    """What the network reads; may reach beyond the image, where it is mirrored."""
    origin: tuple[int, ...]
    """Where the network's output starts."""


@dataclass(frozen=True)
class Grid:
    """The tiles of one image.

    Parameters
    ----------
    shape
        Extents of the image, (Z,) Y, X.
    core
        Extents of a tile's core, multiples of ``geometry.multiple``; see :func:`plan`.
    geometry
        Of the method.
    margin
        Pixels around each core to keep as well, as exact as the core; per axis, multiples of the stride.
    """

    shape: tuple[int, ...]
    core: tuple[int, ...]
    geometry: Geometry
    margin: tuple[int, ...]

    def __iter__(self) -> Iterator[Tile]:
        axes = [list(self._spans(axis)) for axis in range(len(self.shape))]
        for along in itertools.product(*axes):
            core, kept, window, origin = zip(*along, strict=True)
            yield Tile(core, kept, window, origin)

    def __len__(self) -> int:
        return math.prod(self.counts)

    @property
    def counts(self) -> tuple[int, ...]:
        """Tiles along each axis."""
        return tuple(-(-extent // core) for extent, core in zip(self.shape, self.core, strict=True))

    def _spans(self, axis: int) -> Iterator[tuple[Span, Span, Span, int]]:
        """Core, kept part, window and output origin along one axis."""
        extent, step, margin = self.shape[axis], self.core[axis], self.margin[axis]
        for start in range(0, extent, step):
            end = min(start + step, extent)
            kept = max(start - margin, 0), min(end + margin, extent)
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


def plan(shape: Sequence[int], geometry: Geometry, tile: Sequence[int], margin: Sequence[int] | None = None) -> Grid:
    """Choose cores so that no window exceeds ``tile`` pixels along an axis.

    Cores are made equal in size rather than full with a rest, since a batch wants tiles of one shape.

    Raises
    ------
    AbbeError
        When ``tile`` leaves no core beside the halo.
    """
    whole, around = tuple(shape), tuple(margin or [0] * len(shape))
    if geometry.halo is None:
        core = tuple(fit(extent, multiple) for extent, multiple in zip(whole, geometry.multiple, strict=True))
        return Grid(whole, core, geometry, (0,) * len(whole))
    core = tuple(_core(extent, geometry, axis, tile[axis], around[axis]) for axis, extent in enumerate(whole))
    return Grid(whole, core, geometry, around)


def _core(extent: int, geometry: Geometry, axis: int, tile: int, margin: int) -> int:
    around, multiple = context(geometry, axis) + margin, geometry.multiple[axis]
    whole = fit(extent, multiple, geometry.remainder[axis]) if not geometry.crops else math.inf
    if whole <= tile:
        return fit(extent, multiple)  # one window holds the axis: it needs no context
    window = tile - (tile - geometry.remainder[axis]) % multiple
    room = (window - 2 * around) // multiple * multiple
    if room < multiple:
        raise AbbeError(
            f"tile of {tile} px leaves nothing beside the halo of {around} px that the network needs on each "
            f"side; choose --tile {fit(2 * (around + multiple), 64)} or more"
        )
    number = -(-extent // room)
    return fit(-(-extent // number), multiple)
