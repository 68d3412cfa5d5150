"""An image that is not loaded: pixels behind slices, and what its file says about them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from abbe.data import axes as axes_of_image
from abbe.data.axes import UNKNOWN, View
from abbe.errors import AbbeError
from abbe.ops.boxes import Box, slices

SUFFIXES = (
    *(".tif", ".tiff", ".btf", ".tf8", ".lsm", ".svs", ".ndpi", ".scn"),
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".npy"),
    *(".czi", ".nd2", ".lif"),
)
"""What the files of a folder must end with, in small letters, to be taken as images."""

_OPTIONS = {"C": ("--channel", "channels"), "Z": ("--z", "z planes"), "T": ("--time", "time points")}


@dataclass
class Image:
    """A lazy image and what its file says about it."""

    data: Any
    """Array, memory map or lazy array: ``shape``, ``dtype``, and slices that read only what they ask for."""
    axes: str
    """One letter per axis of ``data`` from TCZYX; Q for an axis that the file does not name."""
    pixel_size: dict[str, float] = field(default_factory=dict)
    """µm, keys among "z", "y" and "x"; empty when unknown."""
    channels: tuple[str, ...] = ()
    """Channel names; empty when unknown."""
    rgb: bool = False
    """The C axis is red, green, blue."""
    name: str = ""
    """What to call it in messages: the file's name."""
    path: Path | None = None
    """The file; None for an array."""
    format: str = "array"
    """"OME-TIFF", "ImageJ TIFF", "TIFF", "PNG", ..., "NPY" or "array"."""
    warnings: list[str] = field(default_factory=list)
    """What the reader found odd, in plain words."""
    time_step: float | None = None
    """Seconds between time points; None when unknown."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else an OME-TIFF says: Name, AcquisitionDate, Description, and of each Channel its colour and light."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents, in the order of ``axes``."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> np.dtype:
        """Type of the values, native byte order."""
        return np.dtype(self.data.dtype).newbyteorder("=")

    @property
    def held(self) -> int:
        """Bytes that reading it keeps in memory, at most; none of an array or a memory map."""
        return getattr(self.data, "held", 0)

    @property
    def sizes(self) -> dict[str, int]:
        """Extent of each axis; of several unnamed ones the last."""
        return dict(zip(self.axes, self.shape))

    @property
    def height(self) -> int:
        """Pixels along Y."""
        return self.sizes["Y"]

    @property
    def width(self) -> int:
        """Pixels along X."""
        return self.sizes["X"]

    @property
    def extents(self) -> tuple[int, ...]:
        """Pixels along the spatial axes, in the order of ``axes``."""
        return tuple(extent for axis, extent in zip(self.axes, self.shape) if axis in "ZYX")

    @property
    def n_channels(self) -> int:
        """Extent of C; 1 without that axis."""
        return self.sizes.get("C", 1)

    def select(self, channel: int | str | None = None, z: int | None = None, time: int | None = None) -> Image:
        """Fix a channel (number from 0, or name), a z plane or a time point (from 0), without reading.

        An axis that the image lacks counts as one of extent 1.

        Raises
        ------
        AbbeError
            If there is no such index or name.
        """
        image = self
        for axis, asked in (("C", channel), ("Z", z), ("T", time)):
            if asked is not None:
                image = image._fixed(axis, image._index(axis, asked))
        return image

    def planar(self) -> Image:
        """View the image as CYX, without reading; axes of extent 1 are dropped, a missing C is added.

        Raises
        ------
        AbbeError
            If time points or z planes remain to be chosen, or the file does not name its axes.
        """
        return self._viewed("CYX")

    def volume(self) -> Image:
        """View the image as CZYX, without reading; axes of extent 1 are dropped, a missing C or Z is added.

        Raises
        ------
        AbbeError
            If time points remain to be chosen, or the file does not name its axes.
        """
        return self._viewed("CZYX")

    def _viewed(self, axes: str) -> Image:
        """View the image with these axes, in this order."""
        image = self
        for axis in image.axes:
            if axis not in axes and image.shape[image.axes.index(axis)] == 1:
                image = image._fixed(axis, 0)
        if UNKNOWN in image.axes:
            raise axes_of_image.ambiguous(self.name, image.axes, image.shape)
        if left := [axis for axis in image.axes if axis not in axes]:
            raise self._unchosen(left, "one plane" if axes == "CYX" else "one stack")
        order = [image.axes.index(axis) if axis in image.axes else None for axis in axes]
        sizes = {axis: size for axis, size in self.pixel_size.items() if axis.upper() in axes}
        return replace(image, data=View(image.data, order), axes=axes, pixel_size=sizes)

    def region(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Read pixels y0 to y1 and x0 to x1 (exclusive) of a planar image.

        Returns
        -------
        np.ndarray
            (C, y1 - y0, x1 - x0), the file's type.

        Raises
        ------
        ValueError
            If the image is not planar, or the region is not inside it.
        AbbeError
            If the file turns out to be damaged.
        """
        return self.box(((y0, y1), (x0, x1)))

    def box(self, box: Box) -> np.ndarray:
        """Read a box of a planar image or of a volume; see :meth:`region`.

        Returns
        -------
        np.ndarray
            (C, ...), the file's type.
        """
        if self.axes not in ("CYX", "CZYX"):
            raise ValueError(f"{self.name}: pixels are read from planar images and volumes, not {self.axes}")
        if not all(0 <= start <= stop <= extent for (start, stop), extent in zip(box, self.extents, strict=True)):
            raise ValueError(f"{self.name}: box {box} is outside {self.extents} pixels")
        # Own memory: whoever gets the pixels may write to them, and a memory map behind them may go.
        return np.require(self.data[:, *slices(box)], requirements=["C", "O", "W"])

    def _fixed(self, axis: str, index: int) -> Image:
        """Drop one axis by choosing an index on it."""
        if axis not in self.axes:
            return self
        at = self.axes.index(axis)
        bounds = [(index, index + 1) if i == at else (0, extent) for i, extent in enumerate(self.shape)]
        view = View(self.data, [i for i in range(len(bounds)) if i != at], bounds)
        fixed = replace(self, data=view, axes=self.axes[:at] + self.axes[at + 1 :])
        if axis == "C":
            fixed.channels, fixed.rgb = self.channels[index : index + 1], False
            if len(stated := self.facts.get("Channel", ())) == self.n_channels:
                fixed.facts = self.facts | {"Channel": stated[index : index + 1]}
        return fixed

    def _index(self, axis: str, asked: int | str) -> int:
        """Check an index, or find the index of a channel's name."""
        option, plural = _OPTIONS[axis]
        extent = self.sizes.get(axis, 1)
        names = [name.lower() for name in self.channels] if axis == "C" else []
        if str(asked).lower() in names:
            return names.index(str(asked).lower())
        with suppress(ValueError):
            if 0 <= int(asked) < extent:
                return int(asked)
        there = f"{extent} {plural} (0 to {extent - 1})" if extent > 1 else f"1 of the {plural}, number 0"
        named = f" named {', '.join(self.channels)}" if names else ""
        raise AbbeError(f"{self.name}: {option} {asked} does not exist; the image has {there}{named}")

    def _unchosen(self, left: Sequence[str], needed: str) -> AbbeError:
        """Word the error for axes that remain to be chosen."""
        choices = [f"{_OPTIONS[axis][0]} 0..{self.sizes[axis] - 1}" for axis in left]
        every = " ".join(f"{_OPTIONS[axis][0]} all" for axis in left if axis in "TZ")
        extents = " x ".join(str(extent) for extent in self.shape)
        channel = f"; --channel picks one of {self.n_channels} channels" if self.n_channels > 1 else ""
        return AbbeError(
            f"{self.name}: {len(self.axes)} axes {self.axes} ({extents}), but {needed} is needed;"
            f" choose with {' and '.join(choices)}{f', or take them one by one with {every}' if every else ''}{channel}"
        )


def describe(image: Image) -> dict[str, Any]:
    """Gather what a file says about itself: plain values, ready to print or to write as JSON."""
    return {
        "name": image.name,
        "format": image.format,
        "shape": list(image.shape),
        "axes": image.axes,
        "readings": axes_of_image.readings(image.axes) if UNKNOWN in image.axes else [],
        "dtype": str(image.dtype),
        "pixel_size": dict(image.pixel_size),
        "channels": list(image.channels),
        "rgb": image.rgb,
        "warnings": list(image.warnings),
    }


def first_channels(image: Image, n: int) -> Image:
    """View the first ``n`` channels only."""
    bounds = [(0, n if axis == "C" else extent) for axis, extent in zip(image.axes, image.shape)]
    return image if image.n_channels == n else replace(image, data=View(image.data, range(len(bounds)), bounds))
