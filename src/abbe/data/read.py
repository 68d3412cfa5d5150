"""Read images: a path or an array becomes a lazy :class:`Image` that knows its axes, pixel size and channels.

TIFF (also OME-TIFF, ImageJ hyperstacks, the full resolution of pyramids), PNG, JPEG, BMP, GIF and WebP with
one frame, and NPY. Files are known by their first bytes, not by their suffix. Nothing is loaded on opening; a
region of an uncompressed TIFF or NPY is read through a memory map, that of a compressed TIFF decodes only the
tiles or strips that it needs.

Colour tables are expanded, except in ImageJ and OME files: there they only say how to display the values.
Transparency is dropped. Orientation tags are not applied.
"""

from __future__ import annotations

import itertools
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import imagecodecs
import numpy as np
import PIL.Image
import tifffile

from abbe.data import axes as axes_of_image
from abbe.data.axes import UNKNOWN, Bounds, Deferred, LazyArray, Palette, View
from abbe.errors import AbbeError

SUFFIXES = (
    *(".tif", ".tiff", ".btf", ".tf8", ".lsm", ".svs", ".ndpi", ".scn"),
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".npy"),
)
"""What the files of a folder must end with, in small letters, to be taken as images."""

_OPTIONS = {"C": ("--channel", "channels"), "Z": ("--z", "z planes"), "T": ("--time", "time points")}
_COLOURS = ("red", "green", "blue")
_CACHE_BYTES = 64 * 2**20  # decoded tiles or strips kept per image


# --- the image ------------------------------------------------------------------------------------


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

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents, in the order of ``axes``."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> np.dtype:
        """Type of the values, native byte order."""
        return np.dtype(self.data.dtype).newbyteorder("=")

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
        image = self
        for axis in image.axes:
            if axis not in "CYX" and image.shape[image.axes.index(axis)] == 1:
                image = image._fixed(axis, 0)
        if UNKNOWN in image.axes:
            raise axes_of_image.ambiguous(self.name, image.axes, image.shape)
        if left := [axis for axis in "TZ" if axis in image.axes]:
            raise self._unchosen(left)
        order = [
            image.axes.index("C") if "C" in image.axes else None,
            image.axes.index("Y"),
            image.axes.index("X"),
        ]
        flat = {axis: size for axis, size in self.pixel_size.items() if axis in "yx"}
        return replace(image, data=View(image.data, order), axes="CYX", pixel_size=flat)

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
        if self.axes != "CYX":
            raise ValueError(f"{self.name}: regions are read from planar images, not {self.axes}")
        if not (0 <= y0 <= y1 <= self.height and 0 <= x0 <= x1 <= self.width):
            raise ValueError(f"{self.name}: region {y0}:{y1}, {x0}:{x1} is outside {self.height} x {self.width} pixels")
        # Own memory: whoever gets the region may write to it, and a memory map behind it may go.
        return np.require(self.data[:, y0:y1, x0:x1], requirements=["C", "O", "W"])

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

    def _unchosen(self, left: Sequence[str]) -> AbbeError:
        """Word the error for axes that remain to be chosen."""
        choices = [f"{_OPTIONS[axis][0]} 0..{self.sizes[axis] - 1}" for axis in left]
        extents = " x ".join(str(extent) for extent in self.shape)
        channel = f"; --channel picks one of {self.n_channels} channels" if self.n_channels > 1 else ""
        return AbbeError(
            f"{self.name}: {len(self.axes)} axes {self.axes} ({extents}), but one plane is needed;"
            f" choose with {' and '.join(choices)}{channel}"
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


# --- the door -------------------------------------------------------------------------------------


def read(source: Any, *, axes: str | None = None) -> Image:
    """Open an image without loading it.

    Parameters
    ----------
    source
        Path of a file, or an array: NumPy's or anything with ``shape``, ``dtype`` and slices. A 2-D array is
        YX; a 3-D array of 8-bit values with 3 or 4 in its last axis is a colour picture, YXC.
    axes
        One letter per axis, such as "TCYX", where file or array do not say it or say it wrongly.

    Raises
    ------
    AbbeError
        If the file is missing, empty, damaged or no image, if the values are no real numbers, or if the axes
        of an array are ambiguous. A file with ambiguous axes opens; its ``planar`` raises.
    """
    if isinstance(source, (str, Path)):
        image = _read_file(Path(source))
    elif all(hasattr(source, attribute) for attribute in ("shape", "dtype", "__getitem__")):
        image = Image(source, _array_axes(source, axes), name="array")
    else:
        raise AbbeError(f"a {type(source).__name__} is no image; expected a path or an array")
    _check_values(image)
    if axes is not None:
        _rename_axes(image, axes_of_image.parse_axes(axes, image.shape, image.name))
    return _without_alpha(image)


def _rename_axes(image: Image, axes: str) -> None:
    """Take the user's axes; what the file said about its channels holds only where they stay."""
    if image.axes.find("C") != axes.find("C"):
        image.rgb, image.channels = False, ()
    image.axes = axes


def _array_axes(array: Any, given: str | None) -> str:
    shape = tuple(array.shape)
    guessed = _guess(shape, array.dtype)
    if UNKNOWN in guessed and given is None:
        raise axes_of_image.ambiguous("array", guessed, shape, "pass axes=")
    return guessed


def _guess(shape: Sequence[int], dtype: Any) -> str:
    """Axes of an array that says nothing but its shape and type."""
    if _is_picture(shape, dtype):
        return "YXC"
    return (UNKNOWN * max(len(shape) - 2, 0) + "YX")[-len(shape) :] if shape else ""


def _is_picture(shape: Sequence[int], dtype: Any) -> bool:
    """Channels last and 8-bit: nobody stores anything but colours this way."""
    return len(shape) == 3 and shape[-1] in (3, 4) and dtype == np.uint8


def _check_values(image: Image) -> None:
    """Refuse what has no pixels, or pixels that are no real numbers."""
    try:
        kind = np.dtype(image.data.dtype).kind
    except TypeError:
        raise AbbeError(f"{image.name}: values of type {image.data.dtype}; expected a NumPy array") from None
    if kind not in "biuf":
        raise AbbeError(f"{image.name}: {image.data.dtype} values; expected whole or real numbers or bool")
    if len(image.shape) < 2 or 0 in image.shape:
        raise AbbeError(f"{image.name}: shape {image.shape} has no plane of pixels; expected at least Y and X")


def _without_alpha(image: Image) -> Image:
    """Mark 8-bit pictures in arrays as colours, and drop the transparency of colours."""
    if not image.rgb and image.format in ("array", "NPY"):
        image.rgb = image.axes == "YXC" and _is_picture(image.shape, image.dtype)
    if not image.rgb:
        return image
    return replace(_first_channels(image, 3), channels=_COLOURS)


def _first_channels(image: Image, n: int) -> Image:
    """View the first ``n`` channels only."""
    bounds = [(0, n if axis == "C" else extent) for axis, extent in zip(image.axes, image.shape)]
    return image if image.n_channels == n else replace(image, data=View(image.data, range(len(bounds)), bounds))


def _read_file(path: Path) -> Image:
    """Open a file by what its first bytes say it is."""
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except IsADirectoryError:
        raise AbbeError(f"{path}: is a folder; expected an image file") from None
    except OSError as error:
        raise AbbeError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from error
    if not start:
        raise AbbeError(f"{path.name}: is empty (0 bytes)")
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _open_tiff(path)
    return _open_npy(path) if start[:6] == b"\x93NUMPY" else _open_picture(path, start)


def _open_npy(path: Path) -> Image:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise AbbeError(f"{path.name}: is not a readable NPY file ({error})") from error
    data = array if array.dtype.isnative else View(array, range(array.ndim))
    return Image(data, _guess(array.shape, array.dtype), name=path.name, path=path, format="NPY")


# --- PNG, JPEG, BMP and their like ----------------------------------------------------------------

_MODES = (
    {
        "1": ("?", "1"),
        "L": ("u1", "L"),
        "LA": ("u1", "L"),
        "La": ("u1", "L"),
        "I": ("i4", "I"),
        "F": ("f4", "F"),
    }
    | {mode: ("u2", mode) for mode in ("I;16", "I;16L", "I;16B", "I;16N")}
    | dict.fromkeys(("RGB", "RGBA", "RGBX", "RGBa", "YCbCr", "HSV", "LAB"), ("u1", "RGB"))
)
"""For each of Pillow's modes the type of the values and the mode to convert to."""

_limit = threading.Lock()


@contextmanager
def _pillow(path: Path) -> Iterator[PIL.Image.Image]:
    """Open with Pillow and word its errors; pictures above its limit of 179 megapixels are welcome."""
    try:
        with _limit:
            before, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
            try:
                picture = PIL.Image.open(path)
            finally:
                PIL.Image.MAX_IMAGE_PIXELS = before
        with picture:
            yield picture
    except PIL.UnidentifiedImageError:
        raise AbbeError(f"{path.name}: is not an image that Abbe reads; expected one of {' '.join(SUFFIXES)}") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise AbbeError(f"{path.name}: is damaged or cut off ({error})") from error


def _open_picture(path: Path, start: bytes) -> Image:
    """Open what Pillow opens: one frame, grey or colours."""
    with _pillow(path) as picture:
        n_frames, kind = getattr(picture, "n_frames", 1), picture.format or ""
        if n_frames > 1 and kind != "MPO":  # a camera's JPEG with a preview
            raise AbbeError(f"{path.name}: {n_frames} frames (an animation); expected one, or a TIFF stack")
        if picture.mode == "CMYK":
            raise AbbeError(f"{path.name}: CMYK colours; expected grey or RGB, convert it first")
        data = _deep_png(path, picture, start) if kind == "PNG" else None
        data = _ordinary(path, picture) if data is None else data
    rgb = len(data.shape) == 3
    return Image(data, "YXC" if rgb else "YX", rgb=rgb, name=path.name, path=path, format=kind)


def _ordinary(path: Path, picture: PIL.Image.Image) -> Deferred:
    """Grey, bool or 8-bit colours; a palette of greys is grey."""
    if picture.mode in ("P", "PA"):
        kind, mode = "u1", "L" if _grey_palette(picture) else "RGB"
    elif picture.mode in _MODES:
        kind, mode = _MODES[picture.mode]
    else:
        raise AbbeError(f"{path.name}: Pillow's mode {picture.mode} is not read; expected grey or RGB")
    dtype = np.dtype(kind)

    def load() -> np.ndarray:
        with _pillow(path) as again:
            return np.asarray(again if again.mode == mode else again.convert(mode)).astype(dtype, copy=False)

    return Deferred((picture.height, picture.width, *([3] if mode == "RGB" else [])), dtype, load)


def _grey_palette(picture: PIL.Image.Image) -> bool:
    if picture.palette is None:
        return False
    mode, table = picture.palette.getdata()
    entries = np.frombuffer(table, np.uint8)
    entries = entries[: len(entries) // len(mode) * len(mode)].reshape(-1, len(mode))
    return bool((entries[:, :1] == entries[:, :3]).all())


def _deep_png(path: Path, picture: PIL.Image.Image, start: bytes) -> Deferred | None:
    """16-bit colours or grey with transparency, which Pillow would cut to 8 bits; None for other PNG."""
    depth, colour_type = start[24], start[25]  # in the header chunk, which always comes first
    samples = {2: 3, 4: 2, 6: 4}.get(colour_type)
    if depth != 16 or samples is None:
        return None
    kept = 3 if samples > 2 else 1

    def load() -> np.ndarray:
        try:
            return imagecodecs.png_decode(path.read_bytes())[..., :kept]
        except (imagecodecs.PngError, OSError, ValueError) as error:
            raise AbbeError(f"{path.name}: is damaged or cut off ({error})") from error

    return Deferred((picture.height, picture.width, *([3] if kept == 3 else [])), np.dtype(np.uint16), load)


# --- TIFF -----------------------------------------------------------------------------------------

_PHOTOMETRIC = tifffile.PHOTOMETRIC
_YCBCR_DECODED = {6, 7, 33003, 33005, 34712, 34892, 50001}  # JPEG, JPEG 2000 and WebP decode to RGB


def _open_tiff(path: Path) -> Image:
    messages: list[str] = []
    try:
        with _heard(messages), tifffile.TiffFile(path) as tiff:
            image = _first_series(path, tiff)
    except AbbeError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the parser
        raise AbbeError(f"{path.name}: is not a readable TIFF, it may be cut off ({error})") from error
    if any(re.search("invalid page offset|TiffTag 270 .* invalid value offset", message) for message in messages):
        raise AbbeError(f"{path.name}: is cut off, some of its pages or their description lie behind its end")
    image.warnings.extend(messages)
    return image


class _Listener(logging.Handler):
    """Gathers the messages of the thread that made it."""

    def __init__(self, messages: list[str]):
        super().__init__(logging.WARNING)
        self._messages, self._thread = messages, threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message without the name of the object that it starts with."""
        if record.thread == self._thread:
            self._messages.append(re.sub(r"^<.*?>\s*", "", record.getMessage()))


@contextmanager
def _heard(messages: list[str]) -> Iterator[None]:
    """Collect what tifffile logs: only there it says that pages are missing."""
    logger, listener = logging.getLogger("tifffile"), _Listener(messages)
    logger.addHandler(listener)
    try:
        yield
    finally:
        logger.removeHandler(listener)


def _first_series(path: Path, tiff: tifffile.TiffFile) -> Image:
    """The first image of the file in its full resolution."""
    series = tiff.series[0]
    page = series.keyframe
    _check_series(path, series, page)
    kind = "OME-TIFF" if tiff.is_ome else "ImageJ TIFF" if tiff.is_imagej else "TIFF"
    image = Image(_pixels(path, tiff, series), axes_of_image.letters_of(series.axes), name=path.name, path=path)
    image.format = kind
    image.pixel_size, image.channels = _scale(tiff, page)
    if page.photometric == _PHOTOMETRIC.PALETTE and kind == "TIFF" and page.colormap is not None:
        _expand(image, page.colormap)
    elif "S" in series.axes:
        image = _samples(image, page)
    if len(image.channels) != image.n_channels:
        image.channels = ()
    if page.photometric == _PHOTOMETRIC.MINISWHITE:
        image.warnings.append("stored with white as zero; values are taken as they are")
    if len(tiff.series) > 1:
        image.warnings.append(f"{len(tiff.series) - 1} more image series in the file are not read")
    return image


def _check_series(path: Path, series: tifffile.TiffPageSeries, page: tifffile.TiffPage) -> None:
    """Refuse colours and pages that have no plain reading."""
    if series.dtype is None:
        raise AbbeError(f"{path.name}: {page.bitspersample}-bit values of an unknown kind; expected integers or floats")
    name = getattr(page.photometric, "name", str(page.photometric))
    undecoded = page.photometric == _PHOTOMETRIC.YCBCR and page.compression not in _YCBCR_DECODED
    if undecoded or name in ("SEPARATED", "CIELAB", "ICCLAB", "ITULAB", "LOGL", "LOGLUV"):
        colours = "CMYK" if name == "SEPARATED" else name
        raise AbbeError(f"{path.name}: {colours} colours; expected grey or RGB, convert it first")
    if "S" in series.axes and "C" in series.axes:
        raise AbbeError(f"{path.name}: several channels of several samples each (axes {series.axes}) are not read")


def _samples(image: Image, page: tifffile.TiffPage) -> Image:
    """Tell colours from channels, and drop the transparency of a grey picture."""
    alpha = any(extra in (1, 2) for extra in page.extrasamples)
    colours = page.photometric in (_PHOTOMETRIC.RGB, _PHOTOMETRIC.YCBCR)
    image.rgb = colours and (image.n_channels == 3 or (image.n_channels == 4 and (alpha or not page.extrasamples)))
    if alpha and not image.rgb:
        return _first_channels(image, max(image.n_channels - len(page.extrasamples), 1))
    return image


def _expand(image: Image, colormap: np.ndarray) -> None:
    """Show indices through the file's colour table, (3, N) of 16 bits; a table of greys is a grey image."""
    table = (colormap >> 8).astype(np.uint8)
    image.rgb = bool((table != table[:1]).any())
    image.data = Palette(image.data, table.T if image.rgb else table[0])
    image.axes += "C" if image.rgb else ""


def _scale(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> tuple[dict[str, float], tuple[str, ...]]:
    """Pixel size in µm and channel names, from the most trustworthy place that states them."""
    if tiff.is_ome:
        return axes_of_image.ome_scale(tiff.ome_metadata or "")
    density = {}
    for axis, tag in (("x", 282), ("y", 283)):
        ratio = page.tags.valueof(tag)
        if isinstance(ratio, tuple) and len(ratio) == 2 and all(ratio):
            density[axis] = ratio[0] / ratio[1]
    sizes = axes_of_image.imagej_scale(tiff.imagej_metadata or {}, density)
    return sizes or axes_of_image.tag_scale(int(page.tags.valueof(296) or 1), density), ()


def _pixels(path: Path, tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries) -> Any:
    """The laziest array that the layout of the file allows."""
    if series.dataoffset is not None and not series.is_multifile:
        layout = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
        if series.dataoffset + series.nbytes > path.stat().st_size:
            raise AbbeError(f"{path.name}: is cut off, {series.shape} pixels of {layout} do not fit in the file")
        data = np.memmap(path, layout, "r", series.dataoffset, series.shape)
        return data if layout.isnative else View(data, range(data.ndim))
    if _paged(series):
        return TiffPages(path, tiff, series)

    def load() -> np.ndarray:
        try:
            return tifffile.imread(path)
        except Exception as error:  # as in _open_tiff
            raise AbbeError(f"{path.name}: is damaged or cut off ({error})") from error

    return Deferred(series.shape, series.dtype, load)


def _paged(series: tifffile.TiffPageSeries) -> bool:
    """Tell whether the last axes of the series are those of its pages, and the others count the pages."""
    page = series.keyframe
    n_page = len(page.shape)
    leading, trailing = series.shape[: len(series.shape) - n_page], series.shape[len(series.shape) - n_page :]
    plain = tuple(trailing) == tuple(page.shape) and int(np.prod(leading, dtype=int)) == len(series)
    return plain and set(page.axes) <= set("ZYXS")


def _segment_shape(page: tifffile.TiffPage) -> tuple[int, int, int, int, int]:
    """Extents of a tile or strip in tifffile's normal form."""
    if page.is_tiled:
        return 1, max(page.tiledepth, 1), page.tilelength, page.tilewidth, page.shaped[4]
    return 1, 1, min(page.rowsperstrip, page.imagelength), page.imagewidth, page.shaped[4]


class _Segments(NamedTuple):
    """Where the tiles or strips of a page lie."""

    path: str
    offsets: Sequence[int]
    counts: Sequence[int]
    jpegtables: bytes | None


class TiffPages(LazyArray):
    """Pages of a TIFF, of which only the tiles or strips that a block needs are read and decoded.

    The file is opened anew for each block and closed after it: threads and forked processes never share a
    position, and images that wait hold no file handle. The last decoded segments are kept: 64 MiB, or one.
    """

    def __init__(self, path: Path, tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries):
        page = series.keyframe
        page.init_decode()  # not safe from several threads
        self.shape, self.dtype = tuple(series.shape), np.dtype(series.dtype).newbyteorder("=")
        self._name, self._file, self._series, self._page = path.name, tiff, series, page
        self._lock, self._places = threading.Lock(), dict[int, _Segments]()
        self._kept, self._kept_bytes = OrderedDict[tuple[int, int], np.ndarray](), 0
        self._n_leading = len(self.shape) - len(page.shape)
        # In tifffile's normal form a page is (separate samples, depth, length, width, contiguous samples).
        sample_axis = 0 if page.axes.startswith("S") else 4
        self._normal = [{"Z": 1, "Y": 2, "X": 3, "S": sample_axis}[letter] for letter in page.axes]
        self._segment = _segment_shape(page)
        self._grid = tuple(-(-whole // segment) for whole, segment in zip(page.shaped, self._segment))
        self._check_ends(path)

    def block(self, bounds: Bounds) -> np.ndarray:
        """Decode what the block needs."""
        out = np.full([stop - start for start, stop in bounds], self._page.nodata, self.dtype)
        leading, inner = bounds[: self._n_leading], bounds[self._n_leading :]
        normal = [(0, 1)] * 5
        for axis, (start, stop) in zip(self._normal, inner):
            normal[axis] = (start, stop)
        for position in itertools.product(*itertools.starmap(range, leading)):
            index = int(np.ravel_multi_index(position, self.shape[: self._n_leading])) if position else 0
            target = out[tuple(at - start for at, (start, _) in zip(position, leading))]
            self._paste(index, normal, target.reshape([stop - start for start, stop in normal]))
        return out

    def _paste(self, index: int, bounds: Bounds, target: np.ndarray) -> None:
        """Copy the segments of one page into a block in normal form."""
        if 0 in target.shape:
            return
        segments = self._find(index)
        cells = [range(start // size, -(-stop // size)) for (start, stop), size in zip(bounds, self._segment)]
        with _opened(segments.path) as file:
            for cell in itertools.product(*cells):
                number = int(np.ravel_multi_index(cell, self._grid))
                segment = self._decoded(file, segments, index, number)
                if segment is None:
                    continue
                origin = [place * size for place, size in zip(cell, self._segment)]
                into, out_of = _overlap(bounds, origin, (1, *segment.shape))
                target[into] = segment[None][out_of]

    def _decoded(self, file: BinaryIO, segments: _Segments, index: int, number: int) -> np.ndarray | None:
        """One segment, (depth, length, width, samples); None for one that the file leaves out."""
        with self._lock:
            if (index, number) in self._kept:
                self._kept.move_to_end((index, number))
                return self._kept[index, number]
        offset, count = segments.offsets[number], segments.counts[number]
        if count == 0:
            return None
        file.seek(offset)
        encoded = file.read(count)
        if len(encoded) < count:
            raise AbbeError(f"{self._name}: is cut off, segment {number} of page {index} lies behind its end")
        try:
            tables, header = segments.jpegtables, self._page.jpegheader
            segment = self._page.decode(encoded, number, jpegtables=tables, jpegheader=header)[0]
        except Exception as error:  # each codec has its own
            raise AbbeError(f"{self._name}: segment {number} of page {index} is damaged ({error})") from error
        if segment is not None:
            self._keep((index, number), segment)
        return segment

    def _keep(self, key: tuple[int, int], segment: np.ndarray) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = segment
                self._kept_bytes += segment.nbytes
            while self._kept_bytes > _CACHE_BYTES and len(self._kept) > 1:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes

    def _find(self, index: int) -> _Segments:
        """Find the segments of a page, opening the file again if its directory was not read yet."""
        with self._lock:
            if index not in self._places:
                page = self._page_at(index)
                if page is None:
                    raise AbbeError(f"{self._name}: page {index} is missing; it is in another file of the set")
                place = page.parent.filehandle.path, page.dataoffsets, page.databytecounts, page.jpegtables
                self._places[index] = _Segments(*place)
            return self._places[index]

    def _page_at(self, index: int) -> tifffile.TiffPage | tifffile.TiffFrame | None:
        handle = self._file.filehandle
        closed = handle.closed
        if closed:
            handle.open()
        try:
            return self._series[index]
        finally:
            if closed:
                handle.close()

    def _check_ends(self, path: Path) -> None:
        """Find a file that is cut off before anything is computed, as far as its first and last page tell."""
        for index in {0, len(self._series) - 1}:
            page = self._series[index]
            if page is None or page.parent is not self._file:
                continue
            ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts)]
            if max(ends, default=0) > path.stat().st_size:
                raise AbbeError(f"{path.name}: is cut off, page {index} ends behind the end of the file")


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """Open a file that could be read before, and word the error if it cannot any more."""
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise AbbeError(f"{path}: cannot be read any more ({(error.strerror or str(error)).lower()})") from error


def _overlap(
    bounds: Bounds, origin: Sequence[int], extents: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a segment lies in the block between ``bounds``, and which part of it."""
    into, out_of = [], []
    for (start, stop), first, extent in zip(bounds, origin, extents):
        low, high = max(start, first), min(stop, first + extent)
        into.append(slice(low - start, high - start))
        out_of.append(slice(low - first, high - first))
    return tuple(into), tuple(out_of)
