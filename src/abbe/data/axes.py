"""What the axes of an image mean: their letters, their scale in µm, and lazy views along them.

Letters: T time, C channels (and colour samples), Z Y X space; Q stands for an axis that a file does not name.
"""

from __future__ import annotations

import itertools
import math
import operator
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np

from abbe.data.kept import KEPT_BYTES
from abbe.errors import AbbeError

LETTERS = "TCZYX"
UNKNOWN = "Q"

CHANNEL_FACTS = (
    *("AcquisitionMode", "Color", "ContrastMethod", "EmissionWavelength", "EmissionWavelengthUnit"),
    *("ExcitationWavelength", "ExcitationWavelengthUnit", "Fluor", "IlluminationType", "NDFilter", "PinholeSize"),
    *("PinholeSizeUnit", "PockelCellSetting"),
)
"""What OME-XML may say of a channel beside its name."""

Bounds = Sequence[tuple[int, int]]
"""First index and the one after the last, per axis."""


# --- letters --------------------------------------------------------------------------------------


def parse_axes(text: str, shape: Sequence[int], name: str) -> str:
    """Check the axes that a user gave for an array of this shape.

    ``S`` (samples) is taken as ``C``; letters may be small.

    Raises
    ------
    AbbeError
        If a letter is unknown or doubled, Y or X is missing, or their number is not that of the array's axes.
    """
    axes = text.strip().upper().replace("S", "C")
    if set(axes) - set(LETTERS) or len(set(axes)) < len(axes) or not {"Y", "X"} <= set(axes):
        raise AbbeError(f"{name}: axes {text!r}: expected letters of {LETTERS}, each once, with Y and X")
    if len(axes) != len(shape):
        raise AbbeError(f"{name}: axes {text!r} name {len(axes)} axes, but the data has {len(shape)}: {tuple(shape)}")
    return axes


def letters_of(axes: str) -> str:
    """Translate the axes of a file to ours: samples are channels, letters without a meaning here become Q."""
    return "".join(letter if letter in LETTERS else "C" if letter == "S" else UNKNOWN for letter in axes)


def readings(axes: str) -> list[str]:
    """List the ways to read axes that hold Q: ``QYX`` is ZYX, TYX or CYX."""
    free = [letter for letter in "ZTC" if letter not in axes]
    choices = itertools.permutations(free, axes.count(UNKNOWN))
    return ["".join(next(source) if letter == UNKNOWN else letter for letter in axes) for source in map(iter, choices)]


def ambiguous(name: str, axes: str, shape: Sequence[int], how: str = "say --axes") -> AbbeError:
    """Word the error for a stack with unnamed axes: its possible readings and ``how`` to choose."""
    offered = readings(axes) + (["YXC"] if len(shape) == 3 and shape[-1] <= 4 else [])
    if not offered:
        return AbbeError(f"{name}: {len(shape)} axes {tuple(shape)} are more than the five of {LETTERS}")
    pages = " x ".join(str(extent) for extent, letter in zip(shape, axes) if letter == UNKNOWN)
    choice = " or ".join(filter(None, [", ".join(offered[:-1]), offered[-1]]))
    return AbbeError(f"{name}: {pages} pages without axes (shape {tuple(shape)}); {how} {choice}")


# --- lazy arrays ----------------------------------------------------------------------------------


class LazyArray:
    """An array that is read block by block; indexed by integers and slices like a NumPy array.

    Whoever inherits sets ``shape`` and ``dtype`` and writes ``block``.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    def block(self, bounds: Bounds) -> np.ndarray:
        """Read the block between ``bounds``, all axes kept; called from several threads at once."""
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def held(self) -> int:
        """Bytes that reading it keeps in memory, at most."""
        return min(KEPT_BYTES, math.prod(self.shape) * self.dtype.itemsize)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        bounds, rest = split_key(key, self.shape)
        return self.block(bounds)[rest]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype=dtype)


def split_key(key: Any, shape: Sequence[int]) -> tuple[list[tuple[int, int]], tuple[int | slice, ...]]:
    """Split an index into the block that holds everything it asks for, and the index within that block.

    Raises
    ------
    IndexError
        If an index is out of range, or there are more than axes.
    """
    keys = list(key) if isinstance(key, tuple) else [key]
    at = next((i for i, one in enumerate(keys) if one is Ellipsis), len(keys))
    keys[at : at + 1] = [slice(None)] * (len(shape) - len(keys) + (at < len(keys)))
    if len(keys) != len(shape):
        raise IndexError(f"{len(keys)} indices for {len(shape)} axes")
    bounds: list[tuple[int, int]] = []
    rest: list[int | slice] = []
    for one, extent in zip(keys, shape):
        if isinstance(one, slice):
            picked = range(extent)[one]
            bounds.append((min(picked), max(picked) + 1) if picked else (0, 0))
            rest.append(slice(None, None, picked.step))
        else:
            index = range(extent)[operator.index(one)]
            bounds.append((index, index + 1))
            rest.append(0)
    return bounds, tuple(rest)


def overlap(
    bounds: Bounds, origin: Sequence[int], extents: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Tell where a segment at ``origin`` lies in the block between ``bounds``, and which part of it."""
    into, out_of = [], []
    for (start, stop), first, extent in zip(bounds, origin, extents):
        low, high = max(start, first), min(stop, first + extent)
        into.append(slice(low - start, high - start))
        out_of.append(slice(low - first, high - first))
    return tuple(into), tuple(out_of)


class View(LazyArray):
    """Another array with its axes cropped, left out, added and put in another order; native byte order.

    Parameters
    ----------
    source
        Anything with ``shape``, ``dtype`` and slices.
    order
        For each axis of the view the axis of the source; None for a new one of extent 1.
    bounds
        What the view sees of each axis of the source; all of it if None. Of an axis that ``order`` leaves out
        it sees the first index.
    """

    def __init__(self, source: Any, order: Sequence[int | None], bounds: Bounds | None = None):
        self._source, self._order = source, tuple(order)
        self._bounds = list(bounds if bounds is not None else ((0, extent) for extent in source.shape))
        self.shape = tuple(1 if axis is None else self._bounds[axis][1] - self._bounds[axis][0] for axis in self._order)
        self.dtype = np.dtype(source.dtype).newbyteorder("=")

    @property
    def held(self) -> int:
        """Bytes that reading the source keeps; none of an array or a memory map."""
        return getattr(self._source, "held", 0)

    def block(self, bounds: Bounds) -> np.ndarray:
        """Read the block from the source."""
        seen = [(first, first + 1) for first, _ in self._bounds]
        for (start, stop), axis in zip(bounds, self._order):
            if axis is not None:
                first = self._bounds[axis][0]
                seen[axis] = (first + start, first + stop)
        block = np.asarray(self._source[tuple(itertools.starmap(slice, seen))])
        kept = [axis for axis in self._order if axis is not None]
        left_out = [axis for axis in range(block.ndim) if axis not in kept]
        block = block.transpose(*kept, *left_out).reshape([block.shape[axis] for axis in kept])
        block = block[tuple(None if axis is None else slice(None) for axis in self._order)]
        return block.astype(self.dtype, copy=False)


class Deferred(LazyArray):
    """An array that can only be read whole, which happens when its first pixel is asked for."""

    def __init__(self, shape: Sequence[int], dtype: np.dtype, load: Callable[[], np.ndarray]):
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self._load, self._lock, self._loaded = load, threading.Lock(), np.empty(0)

    @property
    def held(self) -> int:
        """Bytes of the whole array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def block(self, bounds: Bounds) -> np.ndarray:
        """Cut the block from the loaded array."""
        with self._lock:
            if self._loaded.shape != self.shape:
                self._loaded = self._load().reshape(self.shape)
        return self._loaded[tuple(itertools.starmap(slice, bounds))]


class Palette(LazyArray):
    """Indices seen through their colour table: (N,) greys, or (N, 3) colours, which become a last axis."""

    def __init__(self, indices: Any, table: np.ndarray):
        self._indices, self._table = indices, table
        self.shape, self.dtype = tuple(indices.shape) + table.shape[1:], table.dtype

    @property
    def held(self) -> int:
        """Bytes that reading the indices keeps."""
        return getattr(self._indices, "held", 0)

    def block(self, bounds: Bounds) -> np.ndarray:
        """Look the block up in the table."""
        indices = np.asarray(self._indices[tuple(itertools.starmap(slice, bounds[: len(self._indices.shape)]))])
        colours = [slice(*bound) for bound in bounds[len(self._indices.shape) :]]
        return self._table[indices][(..., *colours)]


# --- scale ----------------------------------------------------------------------------------------

_MICROMETRES = {
    "m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "um": 1.0, "nm": 1e-3, "pm": 1e-6, "Å": 1e-4, "in": 25400.0,
    "inch": 25400.0, "inches": 25400.0, "angstrom": 1e-4,
    "meter": 1e6, "metre": 1e6, "centimeter": 1e4, "centimetre": 1e4, "millimeter": 1e3, "millimetre": 1e3,
    "micrometer": 1.0, "micrometre": 1.0, "micron": 1.0, "nanometer": 1e-3, "nanometre": 1e-3,
}  # fmt: skip

_RESOLUTION_UNITS = {2: "in", 3: "cm", 4: "mm", 5: "µm"}  # TIFF 6.0 defines 2 and 3; tifffile writes 4 and 5


def micrometres(value: Any, unit: str | None) -> float | None:
    """Convert a length to µm; None where the unit is no length or the value is not a positive number."""
    unit = (
        (unit or "µm").strip().replace("\\u00B5", "µ").replace("\\u00b5", "µ").replace("Âµ", "µ").replace("\u03bc", "µ")
    )
    word = unit if len(unit) <= 2 else unit.lower()
    return _in_units(value, word, _MICROMETRES)


_SECONDS = {
    "s": 1.0, "sec": 1.0, "second": 1.0, "ms": 1e-3, "msec": 1e-3, "millisecond": 1e-3, "min": 60.0, "minute": 60.0,
    "h": 3600.0, "hour": 3600.0, "µs": 1e-6, "us": 1e-6, "microsecond": 1e-6, "d": 86400.0, "day": 86400.0,
}  # fmt: skip


def seconds(value: Any, unit: str | None) -> float | None:
    """Convert a time to seconds; None where the unit is no time or the value is not a positive number."""
    word = (unit or "s").strip().lower().replace("\u03bc", "µ")
    return _in_units(value, word, _SECONDS)


def _in_units(value: Any, word: str, units: Mapping[str, float]) -> float | None:
    """Multiply a number by what its unit is worth, in the plural too; None without either."""
    factor = units.get(word) or units.get(word.removesuffix("s"))
    try:
        found = float(value) * factor if factor else math.nan
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) and found > 0 else None


def known(sizes: Mapping[str, float | None]) -> dict[str, float]:
    """Keep the sizes that are known."""
    return {axis: size for axis, size in sizes.items() if size is not None}


def ome_scale(xml: str) -> tuple[dict[str, float], tuple[str, ...]]:
    """Read pixel size in µm and channel names of the first image from OME-XML; empty where not stated."""
    pixels = _ome_pixels(xml)
    if pixels is None:
        return {}, ()
    sizes = {
        axis.lower(): micrometres(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit"))
        for axis in "ZYX"
    }
    names = [channel.get("Name", "") for channel in _named(pixels, "Channel")]
    return known(sizes), tuple(names) if all(names) else ()


def ome_time_step(xml: str) -> float | None:
    """Read the seconds between the time points of the first image from OME-XML; None where not stated."""
    pixels = _ome_pixels(xml)
    return None if pixels is None else seconds(pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit"))


def ome_facts(xml: str) -> dict[str, Any]:
    """Read what else OME-XML states of the first image, by its names there: texts, and a mapping for each channel."""
    try:
        image = next(_named(ElementTree.fromstring(xml), "Image"))
    except (ElementTree.ParseError, StopIteration):
        return {}
    texts = {"Name": image.get("Name"), **{tag: _text(image, tag) for tag in ("AcquisitionDate", "Description")}}
    channels = [
        {name: value for name, value in channel.attrib.items() if name in CHANNEL_FACTS}
        for channel in _named(image, "Channel")
    ]
    facts: dict[str, Any] = {name: text for name, text in texts.items() if text}
    return facts | ({"Channel": channels} if any(channels) else {})


def _text(image: ElementTree.Element, tag: str) -> str:
    """Read the text of an image's own element."""
    return next(((child.text or "").strip() for child in image if re.fullmatch(rf"(\{{.*\}})?{tag}", child.tag)), "")


def _ome_pixels(xml: str) -> ElementTree.Element | None:
    """Find the description of the first image; None where the text is damaged or has none."""
    try:
        return next(_named(ElementTree.fromstring(xml), "Pixels"))
    except (ElementTree.ParseError, StopIteration):
        return None


def _named(root: ElementTree.Element, tag: str) -> Iterator[ElementTree.Element]:
    """Elements of that name in any version of the OME name space."""
    return (element for element in root.iter() if re.fullmatch(rf"(\{{.*\}})?{tag}", str(element.tag)))


def imagej_scale(metadata: Mapping[str, Any], pixels_per_unit: Mapping[str, float]) -> dict[str, float]:
    """Read the pixel size in µm from ImageJ's metadata and the TIFF tags' pixels per unit (keys y, x)."""
    unit = metadata.get("unit")
    if not unit:
        return {}
    sizes = {
        "z": micrometres(metadata.get("spacing"), metadata.get("zunit", unit)),
        "y": micrometres(_inverse(pixels_per_unit.get("y")), metadata.get("yunit", unit)),
        "x": micrometres(_inverse(pixels_per_unit.get("x")), unit),
    }
    # A picture without calibration keeps its printer resolution, which ImageJ calls "inch".
    printed = str(unit).lower() in ("in", "inch", "inches") and not plausible(sizes["x"])
    return {} if printed else known(sizes)


def tag_scale(resolution_unit: int, pixels_per_unit: Mapping[str, float]) -> dict[str, float]:
    """Read the pixel size in µm from TIFF resolution tags, where it can be one of a microscope."""
    unit = _RESOLUTION_UNITS.get(resolution_unit)
    if unit is None:
        return {}
    sizes = {axis: micrometres(_inverse(pixels_per_unit.get(axis)), unit) for axis in "yx"}
    return known(sizes) if all(map(plausible, sizes.values())) else {}


def plausible(size: float | None) -> bool:
    """Tell whether a pixel size in µm can be a microscope's; 72 to 1200 dpi of a screen or printer cannot."""
    return size is not None and 1e-4 <= size <= 20.0


def _inverse(value: float | None) -> float | None:
    return 1.0 / value if value else None
