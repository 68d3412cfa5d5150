"""PNG, JPEG, BMP, GIF and WebP, opened without loading."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image

from abbe.data.axes import Deferred
from abbe.data.claims import check_claim
from abbe.data.image import SUFFIXES, Image
from abbe.errors import AbbeError, reason

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

_CODECS = {"PNG": "deflate", "JPEG": "jpeg", "MPO": "jpeg", "BMP": "run lengths", "GIF": "lzw"}
_ORIENTATION = 0x0112  # EXIF 2.3

_WHOLE = ((0, 0, 1, 1),)
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row and column of each pass of an interlaced PNG, and its steps along both."""

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
    except AbbeError:
        raise
    except Exception as error:  # each format has its own
        raise AbbeError(f"{path.name}: is damaged or cut off ({reason(error)})") from error


def open_picture(path: Path, start: bytes) -> Image:
    """Open what Pillow opens: one frame, grey or colours."""
    with _pillow(path) as picture:
        n_frames, kind = getattr(picture, "n_frames", 1), picture.format or ""
        if n_frames > 1 and kind != "MPO":  # a camera's JPEG with a preview
            raise AbbeError(f"{path.name}: {n_frames} frames (an animation); expected one, or a TIFF stack")
        if picture.mode == "CMYK":
            raise AbbeError(f"{path.name}: CMYK colours; expected grey or RGB, convert it first")
        depth = start[24] if kind == "PNG" else 8
        extents = (picture.height, picture.width, len(picture.getbands()))
        check_claim(path.name, extents, depth / 8, path.stat().st_size, _CODECS.get(kind, ""))
        data = _deep_png(path, picture, start) if kind == "PNG" else None
        data = _ordinary(path, picture) if data is None else data
        orientation = picture.getexif().get(_ORIENTATION) if kind in ("JPEG", "MPO") else None
    rgb = len(data.shape) == 3
    image = Image(data, "YXC" if rgb else "YX", rgb=rgb, name=path.name, path=path, format=kind)
    if orientation in range(2, 9):
        image.warnings.append(f"to be shown turned or mirrored (orientation tag {orientation}); taken as it is stored")
    return image


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
            if again.format == "PNG":
                _check_rows(path)
            return np.asarray(again if again.mode == mode else again.convert(mode)).astype(dtype, copy=False)

    return Deferred((picture.height, picture.width, *([3] if mode == "RGB" else [])), dtype, load)


def _grey_palette(picture: PIL.Image.Image) -> bool:
    if picture.palette is None:
        return False
    mode, table = picture.palette.getdata()
    entries = np.frombuffer(table, np.uint8)
    entries = entries[: len(entries) // len(mode) * len(mode)].reshape(-1, len(mode))
    return bool((entries[:, :1] == entries[:, :3]).all())


def _check_rows(path: Path) -> None:
    """Inflate a PNG and count: rows that it lacks Pillow would fill with zeros, without a word."""
    data = path.read_bytes()
    inflate, inflated, at = zlib.decompressobj(), 0, 8
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        chunk = data[at + 8 : at + 8 + length] if name == b"IDAT" else b""
        while chunk:
            inflated += len(inflate.decompress(chunk, 2**20))
            chunk = inflate.unconsumed_tail
        at += length + 12
    if inflated < (wanted := _png_bytes(data)):
        raise AbbeError(f"{path.name}: is damaged or cut off, {inflated} of its {wanted} bytes of pixels are there")


def _png_bytes(data: bytes) -> int:
    """Bytes of all rows of a PNG with the filter byte before each, by its header (PNG 1.2, sections 4.1.1 and 2.6)."""
    width, height, depth, colours, interlaced = struct.unpack_from(">IIBBxxB", data, 16)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours]
    extents = [(-(-(height - y) // dy), -(-(width - x) // dx)) for y, x, dy, dx in (_ADAM7 if interlaced else _WHOLE)]
    return sum(rows * (1 + -(-columns * bits // 8)) for rows, columns in extents if rows > 0 and columns > 0)


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
        except Exception as error:  # as above
            raise AbbeError(f"{path.name}: is damaged or cut off ({reason(error)})") from error

    return Deferred((picture.height, picture.width, *([3] if kept == 3 else [])), np.dtype(np.uint16), load)
