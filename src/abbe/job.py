"""One image to segment, cut into tiles that any process can do, in any order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from abbe.contract import Method
from abbe.data.channels import match_channels
from abbe.data.image import Image
from abbe.data.normalize import Statistics
from abbe.data.select import select
from abbe.ops.boxes import Box
from abbe.settings import ImageSettings
from abbe.tiling.grid import Grid, Tile, plan
from abbe.tiling.merge import Finished, Part, join, separate
from abbe.tiling.prefetch import prefetch
from abbe.tiling.prepare import Predictor
from abbe.tiling.rescale import margin_for, rescale, rescaled_core, scaled_region, scaled_shape
from abbe.tiling.run import Region, run
from abbe.tiling.stitch import Maps, Patch, stitch
from abbe.tiling.store import TileStore

Fill = Callable[["Job", TileStore, Sequence[int]], Iterator[int]]
BATCH = {"cpu": 1, "cuda": 4, "mps": 1}


class Reader:
    """Normalised boxes of an image, with the channels that a network takes.

    It can be sent to another process, where it opens the file again.

    Parameters
    ----------
    image
        CYX or CZYX.
    settings
        What it was selected by.
    statistics
        Of its values.
    in_channels
        Of the network; an image of one channel is left as it is, for the predictor repeats it at the last moment.
    """

    def __init__(self, image: Image, settings: ImageSettings, statistics: Statistics, in_channels: int):
        self.image: Image | None = image
        self.name, self.path, self.dimensions = image.name, image.path, len(image.axes) - 1
        self.settings, self.statistics, self.in_channels = settings, statistics, in_channels

    def __call__(self, box: Box) -> np.ndarray:
        """Read a box."""
        if self.image is None:
            self.image = select(self.path, self.settings, self.dimensions)
        pixels = self.statistics.apply(self.image.box(box))
        return pixels if len(pixels) == 1 else match_channels(pixels, self.in_channels, self.name)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | ({"image": None} if self.path is not None else {})


@dataclass
class Job:
    """Everything that a tile of an image needs.

    Attributes
    ----------
    method, predictor
        What decodes, and what computes.
    read : Region
        The image.
    shape : tuple of int
        Its extents, (Z,) Y, X.
    scale : tuple of float
        Factor per axis at which the network sees it.
    tile : tuple of int
        Pixels per axis that the network sees at once.
    min_area : int or None
        Smallest object to keep, in pixels; the method's own limit unless given.
    """

    method: Method
    predictor: Predictor
    read: Region
    shape: tuple[int, ...]
    scale: tuple[float, ...]
    tile: tuple[int, ...]
    min_area: int | None = None

    @cached_property
    def seen(self) -> tuple[int, ...]:
        """Extents of the image as the network sees it."""
        return scaled_shape(self.shape, self.scale)

    @cached_property
    def grid(self) -> Grid:
        """The tiles of the image as the network sees it."""
        margin = margin_for(self.scale) if self.seen != self.shape else None
        return plan(self.seen, self.method.geometry, self.tile, margin)

    @cached_property
    def tiles(self) -> list[Tile]:
        """The tiles that hold pixels of the image; a sliver of an enlarged image may fall between two."""
        return [tile for tile in self.grid if rescaled_core(tile.core, self.seen, self.shape) is not None]

    def maps(self) -> Maps:
        """Compute the maps of the whole image as the network sees it, (C, ...)."""
        return stitch(self._seen_patches(self.grid), self.seen)

    def patches(self, tiles: Iterable[Tile]) -> Iterator[Patch]:
        """Compute the maps of tiles, at the image's own pixels."""
        patches = self._seen_patches(tiles)
        return rescale(patches, self.seen, self.shape) if self.seen != self.shape else patches

    def _seen_patches(self, tiles: Iterable[Tile]) -> Iterator[Patch]:
        region = scaled_region(self.read, self.shape, self.seen) if self.seen != self.shape else self.read
        return run(region, self.seen, tiles, self.predictor, batch=BATCH[self.predictor.device])

    def part(self, number: int) -> Part:
        """Do one tile."""
        (patch,) = self.patches([self.tiles[number]])
        return separate(patch, self.decode, self.shape)

    def parts(self, store: TileStore | None = None, fill: Fill | None = None) -> Iterator[Part]:
        """Do all tiles, in their order.

        Parameters
        ----------
        store
            Tiles that it holds are taken from there, the others are kept there.
        fill
            ``fill(job, store, numbers)`` has the tiles done elsewhere, and gives their numbers in order, each when its
            tile is in the store.
        """
        numbers = range(len(self.tiles))
        if store is None:
            yield from self._computed(numbers)
            return
        done = {number for number in numbers if store.has(number)}
        missing = [number for number in numbers if number not in done]
        if fill is None:
            fresh = self._kept(store, missing)
        else:
            fresh = (self._loaded(store, number) for number in fill(self, store, missing))
        for number in numbers:
            yield self._loaded(store, number) if number in done else next(fresh)

    def _kept(self, store: TileStore, numbers: Sequence[int]) -> Iterator[Part]:
        """Do tiles here and put them into the store."""
        for number, part in zip(numbers, self._computed(numbers), strict=True):
            store.save(number, part)
            yield part

    def _loaded(self, store: TileStore, number: int) -> Part:
        """Take a tile from the store; do it again if its file turns out to be damaged."""
        part = store.load(number)
        if part is None:
            part = self.part(number)
            store.save(number, part)
        return part

    def _computed(self, numbers: Sequence[int]) -> Iterator[Part]:
        """Decode tiles while the next ones are computed."""
        for patch in prefetch(self.patches([self.tiles[number] for number in numbers])):
            yield separate(patch, self.decode, self.shape)

    def objects(self, parts: Iterable[Part]) -> Iterator[Finished]:
        """Bring the tiles together."""
        return join(parts, self.decode)

    def decode(self, maps: Maps, exclude: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Decode maps into ``labels`` and ``regions``."""
        return self.method.decode(maps, exclude=exclude, min_area=self.min_area)
