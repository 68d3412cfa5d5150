"""TIFF, OME-TIFF and ImageJ TIFF, opened without loading; a region decodes only the tiles or strips that it needs."""

from __future__ import annotations

import itertools
import logging
import math
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import tifffile

from abbe.data import axes as axes_of_image
from abbe.data.axes import Bounds, Deferred, LazyArray, Palette, View, overlap
from abbe.data.claims import ALWAYS, check_claim
from abbe.data.image import Image, first_channels
from abbe.data.kept import Kept
from abbe.errors import AbbeError, reason

_PHOTOMETRIC = tifffile.PHOTOMETRIC
_CODECS = dict.fromkeys((2, 3, 4), "fax") | dict.fromkeys((8, 32946), "deflate")
_CODECS |= {1: "raw", 5: "lzw", 7: "jpeg", 32773: "run lengths"}
_YCBCR_DECODED = {6, 7, 33003, 33005, 34712, 34892, 50001}  # JPEG, JPEG 2000 and WebP decode to RGB


def open_tiff(path: Path) -> Image:
    """Open the first series of a TIFF file; damage that shows on opening is an AbbeError."""
    messages: list[str] = []
    try:
        with _heard(messages), tifffile.TiffFile(path) as tiff:
            image = _first_series(path, tiff)
    except AbbeError:
        raise
    except Exception as error:  # a damaged file can fail anywhere in the parser
        raise AbbeError(f"{path.name}: is not a readable TIFF, it may be cut off ({reason(error)})") from error
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
    image.time_step = _time_step(tiff)
    image.facts = axes_of_image.ome_facts(tiff.ome_metadata or "") if tiff.is_ome else {}
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
    if series.dtype.kind in "iu" and any(16 < depth < 32 for depth in _depths(page)):
        # Writers disagree on the order of their bytes.
        raise AbbeError(f"{path.name}: whole numbers of {page.bitspersample} bits; expected 1 to 16, 32 or 64")
    name = getattr(page.photometric, "name", str(page.photometric))
    undecoded = page.photometric == _PHOTOMETRIC.YCBCR and page.compression not in _YCBCR_DECODED
    if undecoded or name in ("SEPARATED", "CIELAB", "ICCLAB", "ITULAB", "LOGL", "LOGLUV"):
        colours = "CMYK" if name == "SEPARATED" else name
        raise AbbeError(f"{path.name}: {colours} colours; expected grey or RGB, convert it first")
    if "S" in series.axes and "C" in series.axes:
        raise AbbeError(f"{path.name}: several channels of several samples each (axes {series.axes}) are not read")


def _depths(page: tifffile.TiffPage) -> Sequence[int]:
    """Bits of one value, for each sample where they differ."""
    return (page.bitspersample,) if isinstance(page.bitspersample, int) else page.bitspersample


def _samples(image: Image, page: tifffile.TiffPage) -> Image:
    """Tell colours from channels, and drop the transparency of a grey picture."""
    alpha = any(extra in (1, 2) for extra in page.extrasamples)
    colours = page.photometric in (_PHOTOMETRIC.RGB, _PHOTOMETRIC.YCBCR)
    image.rgb = colours and (image.n_channels == 3 or (image.n_channels == 4 and (alpha or not page.extrasamples)))
    if alpha and not image.rgb:
        return first_channels(image, max(image.n_channels - len(page.extrasamples), 1))
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


def _time_step(tiff: tifffile.TiffFile) -> float | None:
    """Seconds between time points, where OME-XML or ImageJ states them."""
    if tiff.is_ome:
        return axes_of_image.ome_time_step(tiff.ome_metadata or "")
    stated = tiff.imagej_metadata or {}
    return axes_of_image.seconds(stated.get("finterval"), stated.get("tunit"))


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
    check_claim(path.name, series.shape, series.dtype.itemsize, path.stat().st_size)

    def load() -> np.ndarray:
        try:
            return tifffile.imread(path)
        except Exception as error:  # as in open_tiff
            raise AbbeError(f"{path.name}: is damaged or cut off ({reason(error)})") from error

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
    position, and images that wait hold no file handle. The last decoded segments are kept.
    """

    def __init__(self, path: Path, tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries):
        page = series.keyframe
        self.shape, self.dtype = tuple(series.shape), np.dtype(series.dtype).newbyteorder("=")
        self._name, self._file, self._series, self._page = path.name, tiff, series, page
        self._lock, self._places, self._kept = threading.Lock(), dict[int, _Segments](), Kept()
        self._n_leading = len(self.shape) - len(page.shape)
        # In tifffile's normal form a page is (separate samples, depth, length, width, contiguous samples).
        sample_axis = 0 if page.axes.startswith("S") else 4
        self._normal = [{"Z": 1, "Y": 2, "X": 3, "S": sample_axis}[letter] for letter in page.axes]
        self._segment = _segment_shape(page)
        self._grid = tuple(-(-whole // segment) for whole, segment in zip(page.shaped, self._segment))
        self._check_ends(path)
        page.init_decode()  # not safe from several threads

    def block(self, bounds: Bounds) -> np.ndarray:
        """Decode what the block needs."""
        if math.prod(stop - start for start, stop in bounds) * self.dtype.itemsize > ALWAYS:
            self.block([(start, start + 1) for start, _ in bounds])  # a false header shows before memory is taken
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
                into, out_of = overlap(bounds, origin, (1, *segment.shape))
                target[into] = segment[None][out_of]

    def _decoded(self, file: BinaryIO, segments: _Segments, index: int, number: int) -> np.ndarray | None:
        """One segment, (depth, length, width, samples); None for one that the file leaves out."""
        if (kept := self._kept.get((index, number))) is not None:
            return kept
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
            raise AbbeError(f"{self._name}: segment {number} of page {index} is damaged ({reason(error)})") from error
        if segment is not None:
            self._kept.put((index, number), segment)
        return segment

    def _find(self, index: int) -> _Segments:
        """Find the segments of a page, opening the file again if its directory was not read yet."""
        with self._lock:
            if index not in self._places:
                page = self._page_at(index)
                if page is None:
                    raise AbbeError(f"{self._name}: page {index} is missing; it is in another file of the set")
                place = page.parent.filehandle.path, page.dataoffsets, page.databytecounts, page.jpegtables
                self._check_segments(index, place[1], place[2])
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
            self._check_segments(index, page.dataoffsets, page.databytecounts)
            ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts)]
            if max(ends, default=0) > path.stat().st_size:
                raise AbbeError(f"{path.name}: is cut off, page {index} ends behind the end of the file")

    def _check_segments(self, index: int, offsets: Sequence[int], counts: Sequence[int]) -> None:
        """Find a header whose extents do not fit its list of tiles or strips, or what is stored of them."""
        wanted, listed = math.prod(self._grid), min(len(offsets), len(counts))
        if listed < wanted:
            raise AbbeError(
                f"{self._name}: is damaged, page {index} of {' x '.join(map(str, self._page.shape))} pixels needs "
                f"{wanted} tiles or strips, but the file lists {listed}"
            )
        stored = [count for count in counts if count]  # a count of zero is a tile left out, which costs nothing
        extents, codec = (len(stored), *self._segment), _CODECS.get(int(self._page.compression), "")
        check_claim(self._name, extents, max(_depths(self._page)) / 8, sum(stored), codec)


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """Open a file that could be read before, and word the error if it cannot any more."""
    try:
        with open(path, "rb") as file:
            yield file
    except OSError as error:
        raise AbbeError(f"{path}: cannot be read any more ({(error.strerror or str(error)).lower()})") from error
