"""One image to segment, cut into tiles that any process can do, in any order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from abbe.contract import Method
from abbe.data.channels import match_channels
from abbe.data.image import Image
from abbe.data.normalize import Normalization, Statistics
from abbe.data.select import Series, select
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
    """Normalised boxes of the frames of an image, with the channels that a network takes.

    It can be sent to another process, where it opens the file again.

    Parameters
    ----------
    series
        Frames CYX or CZYX.
    settings
        What they were selected by.
    normalization
        Applied to each frame by the statistics of the frame, or of its whole stack where the planes are frames.
    in_channels
        Of the network; an image of one channel is left as it is, for the predictor repeats it at the last moment.
    """

    def __init__(self, series: Series, settings: ImageSettings, normalization: Normalization, in_channels: int):
        self._series: Series | None = series
        self.name, self.path, self.dimensions = series.image.name, series.image.path, series.dimensions
        self.stains = series.stains
        self.settings, self.normalization, self.in_channels = settings, normalization, in_channels
        self._statistics: dict[tuple[int, ...], Statistics] = {}

    @property
    def series(self) -> Series:
        """The image."""
        if self._series is None:
            self._series = select(self.path, self.settings, self.dimensions).separated(self.stains)
        return self._series

    def frame(self, number: int) -> Region:
        """Give what reads boxes of a frame."""
        return partial(self._read, self.series.seen(number), self.statistics_of(number))

    def _read(self, image: Image, statistics: Statistics, box: Box) -> np.ndarray:
        pixels = statistics.apply(image.box(box))
        return pixels if len(pixels) == 1 else match_channels(pixels, self.in_channels, self.name)

    def statistics_of(self, number: int) -> Statistics:
        """Measure a frame, or take what was measured of its stack."""
        place = self.series.index(number)
        key = place[:-1] if self.series.axes.endswith("Z") else place
        if key not in self._statistics:
            around = self.series.around(number)
            self._statistics[key] = self.normalization.statistics(around.box, around.extents)
        return self._statistics[key]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | ({"_series": None} if self.path is not None else {})


@dataclass
class Job:
    """Everything that a tile of an image needs.

    Attributes
    ----------
    method, predictor
        What decodes, and what computes.
    read : callable
        ``read(frame)`` gives the reader of a frame of the image.
    shape : tuple of int
        Extents of a frame, (Z,) Y, X.
    scale : tuple of float
        Factor per axis at which the network sees it.
    tile : tuple of int
        Pixels per axis that the network sees at once.
    min_area : int or None
        Smallest object to keep, in pixels; the method's own limit unless given.
    frames : int
        Of the image: planes or time points that have nothing to do with each other.
    """

    method: Method
    predictor: Predictor
    read: Callable[[int], Region]
    shape: tuple[int, ...]
    scale: tuple[float, ...]
    tile: tuple[int, ...]
    min_area: int | None = None
    frames: int = 1

    @cached_property
    def seen(self) -> tuple[int, ...]:
        """Extents of a frame as the network sees it."""
        return scaled_shape(self.shape, self.scale)

    @cached_property
    def grid(self) -> Grid:
        """The tiles of a frame as the network sees it."""
        margin = margin_for(self.scale) if self.seen != self.shape else None
        return plan(self.seen, self.method.geometry, self.tile, margin)

    @cached_property
    def tiles(self) -> list[Tile]:
        """The tiles that hold pixels of a frame; a sliver of an enlarged one may fall between two."""
        return [tile for tile in self.grid if rescaled_core(tile.core, self.seen, self.shape) is not None]

    def __len__(self) -> int:
        """Count the tiles of all frames."""
        return self.frames * len(self.tiles)

    def maps(self, frame: int = 0) -> Maps:
        """Compute the maps of a whole frame as the network sees it, (C, ...)."""
        return stitch(self._seen_patches(frame, self.grid), self.seen)

    def patches(self, numbers: Iterable[int]) -> Iterator[Patch]:
        """Compute the maps of tiles, at the image's own pixels; tiles are numbered frame by frame."""
        places = (divmod(number, len(self.tiles)) for number in numbers)
        for frame, group in itertools.groupby(places, key=lambda place: place[0]):
            patches = self._seen_patches(frame, (self.tiles[tile] for _, tile in group))
            yield from rescale(patches, self.seen, self.shape) if self.seen != self.shape else patches

    def _seen_patches(self, frame: int, tiles: Iterable[Tile]) -> Iterator[Patch]:
        region = self.read(frame)
        region = scaled_region(region, self.shape, self.seen) if self.seen != self.shape else region
        return run(region, self.seen, tiles, self.predictor, batch=BATCH[self.predictor.device])

    def part(self, number: int) -> Part:
        """Do one tile."""
        (patch,) = self.patches([number])
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
        numbers = range(len(self))
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

    def _computed(self, numbers: Iterable[int]) -> Iterator[Part]:
        """Decode tiles while the next ones are computed."""
        for patch in prefetch(self.patches(numbers)):
            yield separate(patch, self.decode, self.shape)

    def objects(self, parts: Iterator[Part]) -> Iterator[tuple[int, list[Finished]]]:
        """Bring the tiles together: for each its frame, and the objects that became final with it."""
        for frame in range(self.frames):
            for finished in join(itertools.islice(parts, len(self.tiles)), self.decode):
                yield frame, finished

    def decode(self, maps: Maps, exclude: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Decode maps into ``labels`` and ``regions``."""
        return self.method.decode(maps, exclude=exclude, min_area=self.min_area)
