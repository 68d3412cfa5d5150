"""What tiles gave, kept on disk until the image is done: after a crash only the tiles in flight are computed again.

A file per tile, written whole or not at all, with a checksum in front. Any number of processes may write at once, for
no two do the same tile; if two did, they would write the same.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from pathlib import Path

import imagecodecs
import numpy as np

from abbe.errors import AbbeError
from abbe.ops.boxes import Box, extents
from abbe.tiling.merge import Part, Piece
from abbe.tiling.stitch import Maps

IDENTITY = "identity.json"
CHECKSUM = 32
"""Bytes of SHA-256 before the content of a file."""


class TileStore:
    """The parts of one image.

    Parameters
    ----------
    folder
        Made if it is not there; what it holds of another image, model or setting is thrown away.
    identity
        Everything that decides what a tile gives.
    """

    def __init__(self, folder: Path, identity: dict[str, object]):
        self.folder = folder
        text = json.dumps(identity, sort_keys=True, default=str)
        record = folder / IDENTITY
        if folder.exists() and not (record.exists() and record.read_text(encoding="utf-8") == text):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        record.write_text(text, encoding="utf-8")

    def save(self, number: int, part: Part) -> None:
        """Keep what tile ``number`` gave."""
        content = imagecodecs.zstd_encode(_packed(part), level=1)
        path = self._path(number)
        unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
        try:
            unfinished.write_bytes(hashlib.sha256(content).digest() + content)
            os.replace(unfinished, path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise AbbeError(f"{self.folder}: a tile cannot be kept ({error.strerror}); is the disk full?") from error

    def load(self, number: int) -> Part | None:
        """Give what tile ``number`` gave; None if it is not there, or not as it was written."""
        try:
            file = self._path(number).read_bytes()
        except OSError:
            return None
        checksum, content = file[:CHECKSUM], file[CHECKSUM:]
        if hashlib.sha256(content).digest() != checksum:
            return None
        return _unpacked(bytes(imagecodecs.zstd_decode(content)))

    def has(self, number: int) -> bool:
        """Tell whether tile ``number`` seems to be there; only :meth:`load` looks at the checksum."""
        return self._path(number).exists()

    def remove(self) -> None:
        """Throw it all away."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.tile"


def _packed(part: Part) -> bytes:
    """Lay a part out as a few arrays, those of its pieces end to end."""
    n_axes = len(part.core)
    arrays = {"core": np.array(part.core), "labels": part.labels}
    arrays["boxes"] = np.array([piece.box for piece in part.pieces], np.int64).reshape(-1, n_axes, 2)
    arrays["masks"] = np.packbits(_end_to_end([piece.mask for piece in part.pieces], bool))
    for name in part.pieces[0].maps if part.pieces else ():
        maps = [piece.maps[name] for piece in part.pieces]
        arrays[f"map {name}"] = _end_to_end(maps, maps[0].dtype)
        arrays[f"channels {name}"] = np.array(len(maps[0]))
    arrays |= {f"face {axis} {side}": face for (axis, side), face in part.faces.items()}
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def _unpacked(content: bytes) -> Part:
    """Take apart what :func:`_packed` laid out."""
    with np.load(io.BytesIO(content)) as file:
        arrays = dict(file)
    boxes = [_box(box) for box in arrays["boxes"]]
    sizes = [int(np.prod(extents(box))) for box in boxes]
    starts = np.cumsum([0, *sizes])
    masks = np.unpackbits(arrays["masks"], count=int(starts[-1])).view(bool)
    names = [name.removeprefix("map ") for name in arrays if name.startswith("map ")]
    pieces = []
    for box, start, size in zip(boxes, starts, sizes):
        maps: Maps = {}
        for name in names:
            channels = int(arrays[f"channels {name}"])
            flat = arrays[f"map {name}"][start * channels : (start + size) * channels]
            maps[name] = flat.reshape(channels, *extents(box))
        pieces.append(Piece(box, masks[start : start + size].reshape(extents(box)), maps))
    faces = {
        (int(key.split()[1]), int(key.split()[2])): values for key, values in arrays.items() if key.startswith("face ")
    }
    return Part(_box(arrays["core"]), arrays["labels"], tuple(pieces), faces)


def _end_to_end(arrays: list[np.ndarray], dtype: np.dtype | type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *(array.ravel() for array in arrays)])


def _box(spans: np.ndarray) -> Box:
    return tuple((int(start), int(stop)) for start, stop in spans)
