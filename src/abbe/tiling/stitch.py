"""Maps of tiles joined to maps of the whole image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from abbe.ops.boxes import Box, corner, slices
from abbe.tiling.grid import Tile

Maps = dict[str, np.ndarray]


@dataclass(frozen=True)
class Patch:
    """A finished part of an image's maps."""

    core: Box
    """What it is there for; the cores of all patches partition the image."""
    kept: Box
    """Where the maps lie: the core, and perhaps a margin around it."""
    maps: Maps
    """(C, ...) of ``kept``, by name."""


def cut(tile: Tile, outputs: Maps) -> Patch:
    """Cut what a tile keeps out of the network's outputs (C, ...)."""
    kept = slices(tile.kept, tile.origin)
    return Patch(tile.core, tile.kept, {name: maps[:, *kept].copy() for name, maps in outputs.items()})


def stitch(patches: Iterable[Patch], shape: Sequence[int]) -> Maps:
    """Join the cores of all patches to whole maps (C, ...)."""
    whole: Maps = {}
    for patch in patches:
        into, out_of = slices(patch.core), slices(patch.core, corner(patch.kept))
        for name, maps in patch.maps.items():
            if name not in whole:
                whole[name] = np.empty((len(maps), *shape), maps.dtype)
            whole[name][:, *into] = maps[:, *out_of]
    return whole
