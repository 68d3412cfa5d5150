"""CZI of Zeiss, ND2 of Nikon and LIF of Leica, opened without loading, by readers of the extra "formats".

The readers are czifile, nd2 and liffile, all under BSD licences; each is imported when the first file of its kind is
met. Of several positions, scenes or images the first is taken, and a warning says so.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from abbe.data.axes import LETTERS, Bounds, LazyArray, View, known, micrometres, seconds
from abbe.data.image import Image
from abbe.errors import AbbeError

_STARTS = {"CZI": b"ZISRAWFILE", "ND2": b"\xda\xce\xbe\n", "LIF": b"\x70\x00\x00\x00"}
_OLD_ND2 = b"\x00\x00\x00\x0cjP  "  # that of every JPEG 2000


def microscope_of(path: Path, start: bytes) -> str:
    """Tell "CZI", "ND2" or "LIF" from the first 32 bytes of a file; "" for all others."""
    if start.startswith(_OLD_ND2) and path.suffix.lower() == ".nd2":
        return "ND2"
    found = next((kind for kind, mark in _STARTS.items() if start.startswith(mark)), "")
    return "" if found == "LIF" and start[8:9] != b"\x2a" else found


def open_microscope(path: Path, kind: str) -> Image:
    """Open a file of the kind that :func:`microscope_of` gave.

    Raises
    ------
    AbbeError
        If the reader is not installed, or cannot read the file.
    """
    openers = {"CZI": _open_czi, "ND2": _open_nd2, "LIF": _open_lif}
    try:
        image = openers[kind](path)
    except AbbeError:
        raise
    except ImportError as error:
        raise AbbeError(
            f"{path.name}: {kind} files need more packages ({error}); pip install 'abbe[formats]'"
        ) from error
    except Exception as error:  # a damaged file can fail anywhere in a parser
        raise AbbeError(f"{path.name}: is not a readable {kind} file ({type(error).__name__}: {error})") from error
    image.name, image.path, image.format = path.name, path, kind
    return image


class Planes(LazyArray):
    """Planes that are read one at a time; the last one is kept.

    Parameters
    ----------
    shape
        Of the whole array; the first ``n_leading`` axes count planes, the others are those of a plane.
    dtype
        Of the values.
    n_leading
        How many axes count planes.
    read
        Gives the plane at a position (one index per leading axis); called by one thread at a time.
    name
        The file, for messages.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: Any,
        n_leading: int,
        read: Callable[[tuple[int, ...]], np.ndarray],
        name: str,
    ):
        self.shape, self.dtype = tuple(shape), np.dtype(dtype).newbyteorder("=")
        self._n_leading, self._read, self._name = n_leading, read, name
        self._lock, self._kept = threading.Lock(), dict[tuple[int, ...], np.ndarray]()

    def block(self, bounds: Bounds) -> np.ndarray:
        """Read the planes of the block and cut them."""
        out = np.empty([stop - start for start, stop in bounds], self.dtype)
        leading, inner = bounds[: self._n_leading], tuple(itertools.starmap(slice, bounds[self._n_leading :]))
        for position in itertools.product(*itertools.starmap(range, leading)):
            at = tuple(index - start for index, (start, _) in zip(position, leading))
            out[at] = self._plane(position)[inner]
        return out

    def _plane(self, position: tuple[int, ...]) -> np.ndarray:
        with self._lock:
            if position not in self._kept:
                self._kept.clear()
                try:
                    plane = np.array(self._read(position), self.dtype)  # a copy: the file is closed after it
                    self._kept[position] = plane.reshape(self.shape[self._n_leading :])
                except Exception as error:  # each reader has its own
                    raise AbbeError(f"{self._name}: plane {position} cannot be read ({error})") from error
            return self._kept[position]


def _image(data: Any, axes: str, pixel_size: Mapping[str, float | None], time_step: float | None) -> Image:
    """Take the axes that an image can have; of the others (positions, scenes, angles) the first index."""
    image, order, letters = Image(data, axes), list[int](), ""
    for i, letter in enumerate(axes):
        ours = "C" if letter == "S" else letter
        if ours in LETTERS and ours not in letters and (data.shape[i] > 1 or ours in "YX"):
            order.append(i)
            letters += ours
            image.rgb |= letter == "S" and data.shape[i] in (3, 4)
        elif data.shape[i] > 1:
            image.warnings.append(f"{data.shape[i] - 1} more of axis {letter} are not read")
    image.data, image.axes, image.pixel_size = View(data, order), letters, known(pixel_size)
    image.time_step = time_step if "T" in letters else None
    return image


def _named(image: Image, names: Sequence[str]) -> Image:
    """Name the channels, if every one has a name."""
    image.channels = tuple(names) if len(names) == image.n_channels and all(names) and not image.rgb else ()
    return image


# --- ND2 ------------------------------------------------------------------------------------------


def _open_nd2(path: Path) -> Image:
    import nd2

    with nd2.ND2File(path) as file:
        sizes, dtype = dict(file.sizes), file.dtype
        voxel, names, time_step = file.voxel_size(), _nd2_channels(file), _nd2_time_step(file)
    counted = [axis for axis in sizes if axis not in "CYXS"]
    shape = [sizes[axis] for axis in counted]

    def read(position: tuple[int, ...]) -> np.ndarray:
        with nd2.ND2File(path) as again:
            return again.read_frame(int(np.ravel_multi_index(position, shape)) if position else 0).copy()

    data = Planes(tuple(sizes.values()), dtype, len(counted), read, path.name)
    scale = {axis: micrometres(getattr(voxel, axis), "µm") for axis in "zyx"}
    return _named(_image(data, "".join(sizes), scale, time_step), names)


def _nd2_time_step(file: Any) -> float | None:
    """Seconds between times: as they came on average, else as they were asked for; None of several phases."""
    with suppress(Exception):
        loop = next(loop for loop in file.experiment if loop.type in ("TimeLoop", "NETimeLoop"))
        (phase,) = getattr(loop.parameters, "periods", [loop.parameters])
        average = phase.periodDiff.avg if phase.periodDiff else 0
        return seconds(average or phase.periodMs, "ms")
    return None


def _nd2_channels(file: Any) -> list[str]:
    with suppress(Exception):  # files of old versions have other metadata
        return [str(channel.channel.name) for channel in file.metadata.channels or []]
    return []


# --- LIF ------------------------------------------------------------------------------------------


def _open_lif(path: Path) -> Image:
    import liffile

    with liffile.LifFile(path) as file:
        n_images = len(file.images)
        if not n_images:
            raise AbbeError(f"{path.name}: holds no images")
        first: Any = file.images[0]
        sizes, dtype, in_frame = dict(first.sizes), first.dtype, set(first.frames.frame_dims)
        scale = {axis.lower(): micrometres(_lif_step(first, axis), "m") for axis in "ZYX"}
        time_step = seconds(_lif_step(first, "T"), "s")
    counted = [axis for axis in sizes if axis not in in_frame]

    def read(position: tuple[int, ...]) -> np.ndarray:
        with liffile.LifFile(path) as again:
            image: Any = again.images[0]
            return image.frame(**dict(zip(counted, position)))

    axes = counted + [axis for axis in sizes if axis in in_frame]
    data = Planes([sizes[axis] for axis in axes], dtype, len(counted), read, path.name)
    image = _image(data, "".join(axis if len(axis) == 1 else "?" for axis in axes), scale, time_step)
    if n_images > 1:
        image.warnings.append(f"{n_images - 1} more images in the file are not read")
    return image


def _lif_step(image: Any, axis: str) -> float | None:
    """Distance of neighbours along an axis, in metres or seconds; None where it has no two."""
    places = image.coords.get(axis)
    return None if places is None or len(places) < 2 else abs(places[1] - places[0])


# --- CZI ------------------------------------------------------------------------------------------


class CziTiles(LazyArray):
    """The tiles of full resolution of a CZI file, pasted where they lie; what no tile covers is 0."""

    def __init__(self, file: Any, name: str):
        self.shape, self.dtype = tuple(file.shape), np.dtype(file.dtype).newbyteorder("=")
        self._start, self._name, self._lock = tuple(file.start), name, threading.Lock()
        # Tiles of the pyramid are stored smaller than the place that they cover.
        self._tiles = [
            tile for tile in file.filtered_subblock_directory if tuple(tile.shape) == tuple(tile.stored_shape)
        ]
        if not self._tiles:
            raise AbbeError(f"{name}: holds no tiles of full resolution")

    def block(self, bounds: Bounds) -> np.ndarray:
        """Decode the tiles that touch the block; later tiles lie over earlier ones."""
        out = np.zeros([stop - start for start, stop in bounds], self.dtype)
        for tile in self._tiles:
            into, out_of = [], []
            for (start, stop), place, origin, extent in zip(bounds, tile.start, self._start, tile.shape):
                low, high = max(start, place - origin), min(stop, place - origin + extent)
                into.append(slice(low - start, high - start))
                out_of.append(slice(low - place + origin, high - place + origin))
            if all(part.stop > part.start for part in into):
                out[tuple(into)] = self._decoded(tile)[tuple(out_of)]
        return out

    def _decoded(self, tile: Any) -> np.ndarray:
        try:
            with self._lock:  # all tiles share the file's position
                return tile.data_segment().data()
        except Exception as error:  # each codec has its own
            raise AbbeError(f"{self._name}: a tile cannot be read ({type(error).__name__}: {error})") from error


def _open_czi(path: Path) -> Image:
    import czifile

    file = czifile.CziFile(str(path))
    sizes, time_step, names = _czi_metadata(file.metadata() or "")
    # In CZI S counts scenes, and 0 the samples of a pixel.
    axes = "".join({"S": "?", "0": "S"}.get(letter, letter) for letter in file.axes)
    return _named(_image(CziTiles(file, path.name), axes, sizes, time_step), names)


def _czi_metadata(xml: str) -> tuple[dict[str, float | None], float | None, list[str]]:
    """Pixel size in µm (stated in metres), seconds between times and channel names; empty or None where not stated."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return {}, None, []
    sizes = {
        distance.get("Id", "").lower(): micrometres(distance.findtext("Value"), "m")
        for distance in root.iterfind(".//Scaling/Items/Distance")
    }
    dimensions = ".//Information/Image/Dimensions/"
    time_step = seconds(root.findtext(f"{dimensions}T/Positions/Interval/Increment"), "s")
    return sizes, time_step, [channel.get("Name") or "" for channel in root.iterfind(f"{dimensions}Channels/Channel")]
