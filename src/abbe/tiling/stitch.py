"""Maps of tiles joined to maps of the whole image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from abbe.tiling.grid import Box, Tile

Maps = dict[str, np.ndarray]


@dataclass(frozen=True)
class Patch:
    """A finished part of an image's maps."""

    core: Box
    """What it is there for; the cores of all patches partition the image."""
    kept: Box
    """Where the maps lie: the core, and perhaps a margin around it."""
    maps: Maps
    """(C, y1 - y0, x1 - x0) of ``kept``, by name."""


def cut(tile: Tile, outputs: Maps) -> Patch:
    """Cut what a tile keeps out of the network's outputs (C, Y, X)."""
    y0, y1, x0, x1 = tile.kept
    rows = slice(y0 - tile.origin[0], y1 - tile.origin[0])
    columns = slice(x0 - tile.origin[1], x1 - tile.origin[1])
    return Patch(tile.core, tile.kept, {name: maps[:, rows, columns].copy() for name, maps in outputs.items()})


def stitch(patches: Iterable[Patch], shape: tuple[int, int]) -> Maps:
    """Join the cores of all patches to whole maps (C, Y, X)."""
    whole: Maps = {}
    for patch in patches:
        y0, y1, x0, x1 = patch.core
        top, left = y0 - patch.kept[0], x0 - patch.kept[2]
        for name, maps in patch.maps.items():
            if name not in whole:
                whole[name] = np.empty((len(maps), *shape), maps.dtype)
            whole[name][:, y0:y1, x0:x1] = maps[:, top : top + y1 - y0, left : left + x1 - x0]
    return whole
