"""The part of an image that a method works on: one plane or one stack, or all of them one after another."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, overload

import numpy as np

from abbe.data.image import Image, first_channels
from abbe.data.read import read
from abbe.data.stains import Stains, is_brown_and_blue, take_apart
from abbe.errors import AbbeError
from abbe.settings import ImageSettings

ALL = "all"


class Series(Sequence[Image]):
    """The planes (CYX), or with three ``dimensions`` the stacks (CZYX), of an image that are worked on one by one.

    Most images are a series of one.

    Parameters
    ----------
    image
        With the axes of its frames and those that the series runs along.
    axes
        The latter, in the order in which they are run through, the last one fastest: some of "TCZ".
    dimensions
        Spatial axes of a frame.

    Attributes
    ----------
    shape : tuple of int
        Extents along ``axes``.
    stains : str
        Dyes that the frames are taken apart into, for the network and the table.
    """

    def __init__(self, image: Image, axes: str = "", dimensions: int = 2, stains: Stains = "off"):
        self.image, self.axes, self.dimensions, self.stains = image, axes, dimensions, stains
        self._apart: dict[int, Image] = {}
        self.shape = tuple(image.sizes[axis] for axis in axes)
        self[0]  # what cannot be taken apart so is told now

    def __len__(self) -> int:
        """Count the frames."""
        return math.prod(self.shape)

    @overload
    def __getitem__(self, number: int) -> Image: ...
    @overload
    def __getitem__(self, number: slice) -> list[Image]: ...
    def __getitem__(self, number: int | slice) -> Any:
        """Take a frame, by its number from 0."""
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        return _spatial(self._at(self.index(number)), self.dimensions)

    def index(self, number: int, *_: Any) -> tuple[int, ...]:  # type: ignore[override]
        """Give the place of a frame along ``axes``."""
        if not 0 <= number < len(self):
            raise IndexError(f"frame {number} of {len(self)}")
        return tuple(int(place) for place in np.unravel_index(number, self.shape))

    def around(self, number: int) -> Image:
        """Take what a frame's brightness is judged by: the whole stack where its planes are frames, else the frame."""
        if self.axes[-1:] != "Z" or self.stains != "off":
            return self.seen(number)
        return self._at(self.index(number)[:-1]).volume()

    def measured(self, number: int) -> Image:
        """Take what is measured of a frame: its own values, or the amounts of its dyes."""
        if self.stains == "off":
            return self[number]
        if number not in self._apart:  # the light without tissue is measured once, not for every tile
            self._apart = {number: take_apart(self[number])}
        return self._apart[number]

    def seen(self, number: int) -> Image:
        """Take what a network sees of a frame: all channels, or the dye of the nuclei."""
        return self[number] if self.stains == "off" else first_channels(self.measured(number), 1)

    def separated(self, stains: str) -> Series:
        """Take the frames apart into dyes where there are colours; "auto" where there is brown beside blue."""
        if stains == "auto":
            stains = "h-dab" if self._has_colours and is_brown_and_blue(self[0]) else "off"
        return Series(self.image, self.axes, self.dimensions, stains if self._has_colours else "off")  # type: ignore[arg-type]

    @property
    def _has_colours(self) -> bool:
        return self[0].rgb and self[0].n_channels == 3

    def _at(self, index: Sequence[int]) -> Image:
        chosen = dict(zip(self.axes, index))
        return self.image.select(channel=chosen.get("C"), z=chosen.get("Z"), time=chosen.get("T"))

    def names(self, number: int) -> dict[str, int | str]:
        """Say where a frame is, by axis: its number from 0, or the name of its channel if that is known."""
        named = self.image.channels
        places = zip(self.axes, self.index(number))
        return {axis: named[place] if axis == "C" and place < len(named) else place for axis, place in places}


def select(image: Any, settings: ImageSettings, dimensions: int = 2) -> Series:
    """Open an image and choose the plane, or with three ``dimensions`` the stack, that the settings name, or all.

    Parameters
    ----------
    image
        A path, an array, or an :class:`~abbe.data.image.Image`.
    settings
        Their ``z`` and ``time`` are a number, "all", or None where there is only one; ``channel`` also where all
        channels are one image.
    dimensions
        Spatial axes of a frame: 2 or 3.

    Raises
    ------
    AbbeError
        If the image cannot be read, lacks what was chosen, or leaves a choice open.
    """
    opened = image if isinstance(image, Image) else read(image, axes=settings.axes)
    z = None if dimensions == 3 and settings.z == ALL else settings.z
    asked: dict[str, Any] = {"T": settings.time, "C": settings.channel, "Z": z}
    one = {axis: choice for axis, choice in asked.items() if choice != ALL}
    chosen = opened.select(channel=one.get("C"), z=one.get("Z"), time=one.get("T"))
    looped = "".join(axis for axis in asked if axis not in one and chosen.sizes.get(axis, 1) > 1)
    return Series(_resized(chosen, settings), looped, dimensions)


def _resized(image: Image, settings: ImageSettings) -> Image:
    """Put the pixel size that the settings name in place of the file's."""
    sizes = dict(image.pixel_size)
    for asked, axes, what in ((settings.pixel_size, "yx", "pixel size"), (settings.z_step, "z", "distance of planes")):
        if asked is not None and asked <= 0:
            raise AbbeError(f"a {what} of {asked:g} µm; expected more than 0")
        sizes |= {} if asked is None else dict.fromkeys(axes, asked)
    return dataclasses.replace(image, pixel_size=sizes)


def _spatial(image: Image, dimensions: int) -> Image:
    return image.planar() if dimensions == 2 else image.volume()
