"""Maps of tiles joined to maps of bands and of the whole image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from abbe.tiling.grid import Tile


@dataclass(frozen=True)
class Band:
    """Finished rows of an image: maps (C, y1 - y0, X) by name."""

    y0: int
    y1: int
    maps: dict[str, np.ndarray]


class BandBuffer:
    """Collects the cores of one row of tiles."""

    def __init__(self, tiles: list[Tile]):
        self.y0, self.y1 = tiles[0].core[:2]
        self.width = tiles[-1].core[3]
        self.maps: dict[str, np.ndarray] = {}

    def put(self, tile: Tile, outputs: dict[str, np.ndarray]) -> None:
        """Cut the core out of a tile's outputs (C, Y, X) and keep it."""
        y0, y1, x0, x1 = tile.core
        for name, output in outputs.items():
            if name not in self.maps:
                self.maps[name] = np.empty((len(output), self.y1 - self.y0, self.width), output.dtype)
            core = output[
                :, y0 - tile.origin[0] : y1 - tile.origin[0], x0 - tile.origin[1] : x1 - tile.origin[1]
            ]
            self.maps[name][:, :, x0:x1] = core

    def band(self) -> Band:
        """Give what was collected."""
        return Band(self.y0, self.y1, self.maps)


def stitch(bands: Iterable[Band], height: int) -> dict[str, np.ndarray]:
    """Join the bands of an image to whole maps (C, Y, X)."""
    whole: dict[str, np.ndarray] = {}
    for band in bands:
        for name, rows in band.maps.items():
            if name not in whole:
                whole[name] = np.empty((len(rows), height, rows.shape[2]), rows.dtype)
            whole[name][:, band.y0 : band.y1] = rows
    return whole
