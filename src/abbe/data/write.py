"""Write results so that each file appears whole or not at all.

Everything is written under a hidden temporary name in the same folder and renamed when it is complete.
Whatever goes wrong, the temporary file is removed and an older file of that name stays as it was.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import queue
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import PIL.Image
import tifffile

from abbe.errors import AbbeError
from abbe.ops.labels import LabelImage, check_labels, largest_label, smallest_unsigned

if TYPE_CHECKING:
    from types import TracebackType

    import pandas as pd

PixelSize = Mapping[str, float] | Sequence[float] | None
"""µm, by axis ("z", "y", "x") or along each spatial axis in order; None or empty when unknown."""

PNG_LEVEL = 2
"""Of zlib: a fifth of the default's time for hardly more bytes."""
BAND = 512
"""Rows of labels that are written together, and pixels per side of a tile of a TIFF."""
LABEL_AXES = ("YX", "ZYX", "TYX", "TZYX", "CYX", "CZYX", "TCYX", "TCZYX")
"""Axes that a label image may have."""
_PYRAMID_FROM = 4096  # pixels along the longer side; smaller images are shown fast enough as they are
_SMALLEST_LEVEL = 1024
_CLASSIC_LIMIT = 2**31  # bytes before compression; a classic TIFF ends at 4 GiB
_REASONS = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the disk is read-only",
    errno.EISDIR: "there is a folder of that name",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "the name is too long",
}


@contextmanager
def atomic(path: str | Path, overwrite: bool = True) -> Iterator[Path]:
    """Write a file whole or not at all: yields the temporary path to write to; folders are made as needed.

    The finished file survives the end of the program; it is not forced through the caches of the disk.

    Raises
    ------
    AbbeError
        If the disk is full, the place cannot be written, or the file exists and ``overwrite`` is False.
    """
    path = Path(path)
    if not overwrite and path.exists():
        raise AbbeError(f"{path}: exists already; choose another place or allow it with --overwrite")
    temporary = path.with_name(f".{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if _concerns_another_file(error, temporary, path):
            raise
        raise AbbeError(f"{path}: cannot be written, {_reason(error)}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path, overwrite: bool = True) -> Iterator[Path]:
    """Write a folder whole or not at all: yields a temporary folder, empty; an older one is replaced at the end.

    Raises
    ------
    AbbeError
        As :func:`atomic`; also if there is a file of that name.
    """
    path = Path(path)
    if not overwrite and path.exists():
        raise AbbeError(f"{path}: exists already; choose another place or allow it with --overwrite")
    temporary = path.with_name(f".{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        temporary.mkdir(parents=True)
        yield temporary
        _replace_folder(temporary, path)
    except OSError as error:
        inside = isinstance(error.filename, str) and temporary in Path(error.filename).parents
        if _concerns_another_file(error, temporary, path) and not inside:
            raise
        raise AbbeError(f"{path}: cannot be written, {_reason(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(new: Path, path: Path) -> None:
    """Rename a folder over another; a system cannot do that in one step, as it can with files."""
    old = path.with_name(f".{uuid.uuid4().hex[:12]}.old")
    if path.exists():
        os.rename(path, old)
    try:
        os.rename(new, path)
    except OSError:
        if old.exists():
            os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _concerns_another_file(error: OSError, temporary: Path, path: Path) -> bool:
    """Tell whether the error names a file that was only read meanwhile."""
    return isinstance(error.filename, str) and Path(error.filename) not in (temporary, path, *path.parents)


def _reason(error: OSError) -> str:
    known = _REASONS.get(error.errno) if error.errno else None
    return known or (error.strerror or str(error)).lower()


def write_text(path: str | Path, text: str, overwrite: bool = True) -> Path:
    """Write UTF-8 text with the line ends it has; raises like :func:`atomic`."""
    with atomic(path, overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
    return Path(path)


def write_table(path: str | Path, table: pd.DataFrame, overwrite: bool = True) -> Path:
    """Write a table as CSV without its index; raises like :func:`atomic`."""
    with atomic(path, overwrite) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
    return Path(path)


def write_png(path: str | Path, rgb: np.ndarray, overwrite: bool = True) -> Path:
    """Write a picture, uint8, (Y, X, 3) or grey (Y, X); raises like :func:`atomic`.

    Raises
    ------
    ValueError
        If the array is of another type or shape.
    """
    if rgb.dtype != np.uint8 or rgb.ndim < 2 or rgb.shape[2:] not in ((), (3,)):
        raise ValueError(f"{path}: {rgb.dtype} array of shape {rgb.shape}; a picture is uint8, (Y, X, 3) or (Y, X)")
    with atomic(path, overwrite) as temporary:
        PIL.Image.fromarray(rgb).save(temporary, format="PNG", compress_level=PNG_LEVEL)
    return Path(path)


def write_labels(
    path: str | Path,
    labels: LabelImage,
    pixel_size: PixelSize = None,
    overwrite: bool = True,
    *,
    axes: str | None = None,
) -> Path:
    """Write a label image as a compressed OME-TIFF of the smallest unsigned type that holds the labels.

    Large planes become pyramids, as :class:`LabelWriter` says; files of more than 2 GiB are BigTIFF. Of labels on the
    disk a band of rows is read at a time.

    Parameters
    ----------
    path
        The file; its suffix should be .tif.
    labels
        (Y, X), (Z, Y, X) or (T, Z, Y, X), non-negative integers or bool.
    pixel_size
        µm, kept in the file.
    overwrite
        Replace an older file.
    axes
        Letters of the axes; must be given for (T, Y, X).

    Raises
    ------
    AbbeError
        As :func:`atomic`; also if the values are no labels, or exceed 4,294,967,295, the most that
        OME-TIFF holds.
    """
    try:
        check_labels(labels)
    except ValueError as error:
        raise AbbeError(f"{path}: cannot be written, {error}") from error
    dtype = smallest_unsigned(largest_label(labels))
    with LabelWriter(path, labels.shape, dtype, pixel_size, overwrite, axes=axes) as writer:
        for plane in np.ndindex(labels.shape[:-2]):
            for top in range(0, labels.shape[-2], BAND):
                writer.write_rows(labels[*plane, top : top + BAND])
    return Path(path)


def label_axes(path: str | Path, shape: Sequence[int], axes: str | None = None) -> str:
    """Give the axes of a label image, by default the last of TZYX.

    Raises
    ------
    AbbeError
        If labels of such axes or extents cannot be written.
    """
    named = "TZYX"[-len(shape) :] if axes is None else axes
    if named not in LABEL_AXES or len(named) != len(shape) or 0 in shape:
        found = f"labels of shape {tuple(shape)}" + (f" and axes {axes}" if axes else "")
        raise AbbeError(f"{path}: cannot be written, {found}; expected (Y, X), or T, C and Z before them")
    return named


def _tiff_options(
    path: str | Path, shape: Sequence[int], dtype: np.dtype, pixel_size: PixelSize, axes: str | None
) -> dict[str, Any]:
    """Options of ``TiffWriter.write``, and under "file" those of its constructor."""
    if dtype not in (np.uint8, np.uint16, np.uint32):
        raise AbbeError(f"{path}: cannot be written, labels of type {dtype}; an OME-TIFF holds up to 4294967295")
    axes = label_axes(path, shape, axes)
    sizes = sizes_by_axis(pixel_size, axes)
    # µm is the unit that OME-XML assumes.
    # OME wants an identifier; one that is drawn at random would make equal results differ in their bytes.
    identifier = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{Path(path).name} {axes} {tuple(shape)} {dtype}"))
    metadata = {
        "axes": axes,
        "UUID": identifier,
        **{f"PhysicalSize{axis.upper()}": size for axis, size in sizes.items()},
    }
    options = {"compression": "zlib", "photometric": "minisblack", "metadata": metadata, "maxworkers": 1}
    if "x" in sizes and "y" in sizes:
        options |= {"resolution": (1e4 / sizes["x"], 1e4 / sizes["y"]), "resolutionunit": "CENTIMETER"}
    big = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize > _CLASSIC_LIMIT
    return options | {"file": {"ome": True, "bigtiff": big}}


def sizes_by_axis(pixel_size: PixelSize, axes: str) -> dict[str, float]:
    """Name the sizes by their axis, leaving out those that are unknown; of a bare sequence the last one is along X."""
    spatial = [axis for axis in axes.lower() if axis in "zyx"]
    if not isinstance(pixel_size, Mapping):
        pixel_size = dict(zip(reversed(spatial), reversed(pixel_size or ())))
    return {axis: float(pixel_size[axis]) for axis in spatial if pixel_size.get(axis)}


class LabelWriter:
    """Write a label image from top to bottom, in bands of any height, as a tiled and compressed OME-TIFF.

    A context manager. Holds about three bands of 512 rows at a time; compression runs in a thread of its
    own. The file appears when the context ends after the last row. Images of more than 4096 pixels along a side
    get a pyramid of subsampled levels in SubIFDs, for which a nameless file in the same folder holds a quarter of
    the pixels meanwhile.

    Parameters
    ----------
    path
        The file.
    shape
        (Y, X), (Z, Y, X) or (T, Z, Y, X) of the whole image; one plane follows the other, the last axis fastest.
    dtype
        uint8, uint16 or uint32; values that do not fit are an error.
    pixel_size
        µm, kept in the file.
    overwrite
        Replace an older file.
    axes
        Letters of the axes; must be given for (T, Y, X).
    """

    def __init__(
        self,
        path: str | Path,
        shape: Sequence[int],
        dtype: Any,
        pixel_size: PixelSize = None,
        overwrite: bool = True,
        *,
        axes: str | None = None,
    ):
        self._path, self._shape, self._dtype = Path(path), tuple(map(int, shape)), np.dtype(dtype)
        self._options = _tiff_options(path, shape, self._dtype, pixel_size, axes)
        self._height, self._width = self._shape[-2:]
        self._all_rows = math.prod(self._shape[:-1])
        self._tile = [min(BAND, -(-extent // 16) * 16) for extent in self._shape[-2:]]  # TIFF: multiples of 16
        self._overwrite, self._n_rows = overwrite, 0
        self._levels = _lower_levels(self._shape)
        self._bands: queue.Queue[np.ndarray | None] = queue.Queue(maxsize=1)
        self._failure: BaseException | None = None
        self._context = ExitStack()

    def __enter__(self) -> LabelWriter:
        temporary = self._context.enter_context(atomic(self._path, self._overwrite))
        self._band = self._new_band()
        self._thread = threading.Thread(
            target=self._write, args=(temporary,), name=f"write {self._path.name}", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._finish(complete=error is None)
        except BaseException as failure:
            self._context.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._context.__exit__(kind, error, trace)

    def _finish(self, complete: bool) -> None:
        """Wait for the thread; fails if it failed, or if rows are missing."""
        missing = self._n_rows < self._all_rows
        if missing or not complete:
            with suppress(Exception):
                self._put(None)
        self._thread.join()
        if complete:
            self._raise_failure()

    def write_rows(self, rows: np.ndarray) -> None:
        """Append rows, (any height, X); after the last row of a plane comes the first of the next.

        Raises
        ------
        AbbeError
            If a value does not fit in the type, or the disk is full.
        ValueError
            If the width is wrong, or there are more rows than the image has.
        """
        self._check(rows)
        while len(rows):
            row = self._n_rows % self._height
            filled = row % self._tile[0]
            taken = rows[: min(self._tile[0] - filled, self._height - row)]
            self._band[filled : filled + len(taken), : self._width] = taken
            self._n_rows += len(taken)
            rows = rows[len(taken) :]
            if (row + len(taken)) % self._tile[0] == 0 or row + len(taken) == self._height:
                self._put(self._band)
                self._band = self._new_band()

    def _check(self, rows: np.ndarray) -> None:
        if rows.ndim != 2 or rows.shape[1] != self._width:
            raise ValueError(f"{self._path}: rows of shape {rows.shape} for an image of width {self._width}")
        if self._n_rows + len(rows) > self._all_rows:
            raise ValueError(f"{self._path}: more than {self._all_rows} rows")
        try:
            check_labels(rows)
        except ValueError as error:
            raise AbbeError(f"{self._path}: cannot be written, {error}") from error
        if largest_label(rows) > np.iinfo(self._dtype).max:
            raise AbbeError(f"{self._path}: label {largest_label(rows)} does not fit in {self._dtype}")

    def _new_band(self) -> np.ndarray:
        """Rows of whole tiles; what lies beyond the image stays 0."""
        height, width = self._tile
        return np.zeros((height, -(-self._width // width) * width), self._dtype)

    def _put(self, band: np.ndarray | None) -> None:
        """Hand a band to the thread, None to end it early; fails if it has failed."""
        while True:
            self._raise_failure()
            with suppress(queue.Full):
                self._bands.put(band, timeout=0.1)
                return

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _write(self, temporary: Path) -> None:
        """Run in the thread: compress and write tiles as the bands come."""
        options = self._options | {"tile": tuple(self._tile)}
        try:
            with tifffile.TiffWriter(temporary, **options.pop("file")) as tiff, self._scratch(temporary) as scratch:
                whole = {"shape": self._shape, "dtype": self._dtype, "subifds": len(self._levels)}
                tiff.write(self._tiles(scratch), **whole, **options)
                self._write_levels(tiff, scratch, options)
        except BaseException as failure:  # told to the caller, in whose thread it belongs
            self._failure = failure

    def _scratch(self, temporary: Path) -> AbstractContextManager[IO[bytes] | None]:
        """Open a file that vanishes by itself, for every second pixel of every second row."""
        return tempfile.TemporaryFile(dir=temporary.parent) if self._levels else nullcontext()

    def _write_levels(self, tiff: tifffile.TiffWriter, scratch: IO[bytes] | None, options: dict[str, Any]) -> None:
        """Write the lower levels of the pyramid from the scratch file, which holds the first of them."""
        if scratch is None:
            return
        scratch.flush()
        half = np.memmap(scratch, self._dtype, "r", shape=self._levels[0])
        same = {key: options[key] for key in ("compression", "photometric", "maxworkers", "tile")}
        for number, shape in enumerate(self._levels):
            level = half[..., :: 2**number, :: 2**number]
            tiles = (tile for plane in np.ndindex(shape[:-2]) for tile in _tiles_of(level[plane], *self._tile))
            tiff.write(tiles, shape=shape, dtype=self._dtype, subfiletype=1, metadata=None, **same)

    def _tiles(self, scratch: IO[bytes] | None) -> Iterator[np.ndarray]:
        height, width = self._tile
        tops = range(0, self._height, height)
        for top in itertools.chain.from_iterable(itertools.repeat(tops, self._all_rows // self._height)):
            band = self._bands.get()
            if band is None:
                raise ValueError(f"{self._path}: {self._n_rows} of {self._all_rows} rows were written")
            if scratch is not None:  # tiles have an even height, so that every band starts with a kept row
                scratch.write(band[: self._height - top : 2, : self._width : 2].tobytes())
            for left in range(0, band.shape[1], width):
                yield np.ascontiguousarray(band[:, left : left + width])


def _lower_levels(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Extents of the levels below a large image, each with planes of half the sides of the one above it."""
    levels: list[tuple[int, ...]] = []
    while max(shape[-2:]) > (_SMALLEST_LEVEL if levels else _PYRAMID_FROM):
        shape = (*shape[:-2], -(-shape[-2] // 2), -(-shape[-1] // 2))
        levels.append(shape)
    return levels


def _tiles_of(plane: np.ndarray, height: int, width: int) -> Iterator[np.ndarray]:
    """Cut a plane into tiles; what lies beyond it is 0."""
    for top in range(0, plane.shape[0], height):
        for left in range(0, plane.shape[1], width):
            tile = plane[top : top + height, left : left + width]
            yield np.pad(tile, ((0, height - tile.shape[0]), (0, width - tile.shape[1])))
