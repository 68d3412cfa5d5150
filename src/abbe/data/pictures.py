"""PNG, JPEG, BMP, GIF and WebP, opened without loading."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image

from abbe.data.axes import Deferred
from abbe.data.image import SUFFIXES, Image
from abbe.errors import AbbeError

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


def open_picture(path: Path, start: bytes) -> Image:
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
