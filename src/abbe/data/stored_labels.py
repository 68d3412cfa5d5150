"""Label images too large for memory: in compressed chunks on the disk, filled object by object, read like arrays.

The chunks are those of the OME-Zarr that :mod:`abbe.data.write_zarr` writes, so that the files of a finished image can
become the result as they are.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from abbe.data.axes import Bounds, LazyArray
from abbe.errors import AbbeError
from abbe.ops.boxes import Box, blocks, corner, slices

CHUNK = 1024
"""Pixels per side of a chunk of planes."""
BLOCK = (8, 256, 256)
"""Extents of a chunk of volumes along Z, Y and X: a tile of a volume is small and deep, and would touch many planes."""
OPEN_BYTES = 64 * 2**20
"""Chunks that are held in memory while objects are added to them."""


class StoredLabels(LazyArray):
    """A label image on the disk that reads like an array: slices of it are arrays, its frames are such images again.

    ``np.asarray`` loads it whole.

    Parameters
    ----------
    array
        The Zarr array.
    place
        Indices along its first axes, of the frame that is meant.
    keep
        What has to live as long as anybody reads: a folder that goes with the last of them.
    """

    def __init__(self, array: Any, place: tuple[int, ...] = (), keep: object = None):
        self.array, self._place, self._keep = array, place, keep
        self.shape, self.dtype = tuple(array.shape[len(place) :]), array.dtype

    def __getitem__(self, key: Any) -> Any:
        """Read a part; whole numbers for some of the axes give a frame, of which nothing is read yet."""
        places = key if isinstance(key, tuple) else (key,)
        if len(places) < self.ndim and all(isinstance(place, int | np.integer) for place in places):
            inside = (range(extent)[place] for place, extent in zip(places, self.shape))
            return StoredLabels(self.array, (*self._place, *inside), self._keep)
        return super().__getitem__(key)

    def block(self, bounds: Bounds) -> np.ndarray:
        """Read what lies between ``bounds``."""
        return np.asarray(self.array[(*self._place, *slices(bounds))])

    @property
    def size(self) -> int:
        """Count the pixels."""
        return int(np.prod(self.shape, dtype=np.int64))

    def max(self) -> int:
        """Find the largest label, chunk by chunk."""
        parts = blocks(self.shape, self.array.chunks[len(self._place) :])
        return max(int(self[part].max()) for part in parts)


class LabelStore:
    """Fill a label image on the disk, object by object, in memory that does not grow with it.

    Chunks to which nothing was added for longest are compressed and written; one that gets more objects later, since
    the next row of tiles or a large object reaches into it, is read again for that.

    Parameters
    ----------
    folder
        Becomes the Zarr array; what is there is removed. None for a temporary folder, which goes when nobody reads the
        labels any more.
    shape
        Of the whole image.
    dimensions
        Of its frames: 2 for planes, 3 for volumes.
    """

    def __init__(self, folder: Path | None, shape: Sequence[int], dimensions: int = 2):
        import zarr

        self._temporary: tempfile.TemporaryDirectory | None = None
        if folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="abbe-")
            folder = Path(self._temporary.name) / "labels.zarr"
        shutil.rmtree(folder, ignore_errors=True)
        self._folder = folder
        sides = (CHUNK, CHUNK) if dimensions == 2 else BLOCK
        self._array = zarr.create_array(folder, **chunked(shape, np.dtype(np.uint32), sides))
        self._open: OrderedDict[Box, np.ndarray] = OrderedDict()
        self._bytes = 0

    def add(self, box: Box, labels: np.ndarray) -> None:
        """Add objects, int32 with 0 elsewhere, in a box of the image; no pixel gets two.

        Raises
        ------
        AbbeError
            If the disk is full, or gone.
        """
        for part in self._chunks(box):
            shared = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(box, part, strict=True))
            found = labels[slices(shared, corner(box))]
            if found.any():
                self._at(part)[slices(shared, corner(part))] += found.view(np.uint32)

    def finish(self) -> StoredLabels:
        """Write what is not written yet; gives the image."""
        while self._open:
            self._write_oldest()
        return StoredLabels(self._array, keep=self._temporary)

    def _chunks(self, box: Box) -> Iterator[Box]:
        """Find the chunks that a box touches."""
        steps, extents = self._array.chunks, self._array.shape
        along = [range(start // step * step, stop, step) for (start, stop), step in zip(box, steps, strict=True)]
        for first in itertools.product(*along):
            yield tuple((at, min(at + step, extent)) for at, step, extent in zip(first, steps, extents))

    def _at(self, part: Box) -> np.ndarray:
        """Give the pixels of a chunk, to be changed."""
        if part not in self._open:
            self._open[part] = np.array(self._array[slices(part)])
            self._bytes += self._open[part].nbytes
        self._open.move_to_end(part)
        while self._bytes > OPEN_BYTES and len(self._open) > 1:
            self._write_oldest()
        return self._open[part]

    def _write_oldest(self) -> None:
        part, pixels = self._open.popitem(last=False)
        self._bytes -= pixels.nbytes
        try:
            self._array[slices(part)] = pixels
        except OSError as error:
            reason = error.strerror or error
            raise AbbeError(f"{self._folder}: labels cannot be kept ({reason}); is the disk full?") from error


def chunked(shape: Sequence[int], dtype: np.dtype, sides: Sequence[int]) -> dict[str, Any]:
    """Lay an array out in chunks of ``sides`` along its last axes: options of Zarr's ``create_array``, for format 3."""
    from zarr.codecs import BloscCodec

    chunks = [1] * (len(shape) - len(sides)) + [min(side, extent) for side, extent in zip(sides, shape[-len(sides) :])]
    packed = BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
    return {"shape": tuple(shape), "chunks": tuple(chunks), "dtype": dtype, "fill_value": 0, "compressors": packed}


def laid_out_alike(one: Any, other: Any) -> bool:
    """Tell whether the chunks of two Zarr arrays of equal content would be the same files."""
    metadata = [array.metadata.to_dict() | {"dimension_names": None, "attributes": {}} for array in (one, other)]
    return metadata[0] == metadata[1]


def share_chunks(source: Any, target: Any) -> None:
    """Let an array on the disk have the chunks of one laid out alike: as further names of its files, else as copies."""
    folder, into = (Path(array.store_path.store.root) / array.store_path.path for array in (source, target))
    for file in sorted((folder / "c").rglob("*")):
        place = into / file.relative_to(folder)
        if file.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            _link(file, place)


def _link(file: Path, place: Path) -> None:
    try:
        os.link(file, place)
    except OSError:  # another disk, or one without links
        shutil.copyfile(file, place)
