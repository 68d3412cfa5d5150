"""Odd but valid PNG, JPEG, BMP, GIF, WebP, NPY and Zarr files, each with what it holds; used by ``odd_files.py``."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image

from odd_tiffs import HEIGHT, WIDTH, Case, smooth, values

ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row and column of each pass of an interlaced PNG, and its steps along both."""


def planes(array: np.ndarray) -> np.ndarray:
    """Bring (Y, X) or (Y, X, C) to (C, Y, X)."""
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)


def interlaced(path: Path, array: np.ndarray) -> None:
    """Write a PNG in the seven passes of Adam7, without filters; (Y, X) or (Y, X, 3), 8 or 16 bits."""
    passes = (array[y::dy, x::dx] for y, x, dy, dx in ADAM7)
    rows = b"".join(b"\0" + row.astype(array.dtype.newbyteorder(">")).tobytes() for part in passes for row in part)
    depth, colour = 8 * array.dtype.itemsize, 0 if array.ndim == 2 else 2
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], depth, colour, 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    written = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(written))


def picture(kind: str, name: str, image: PIL.Image.Image, expected: Any, **options: Any) -> Case:
    """Make a case that Pillow writes."""
    shown = None if expected is None else planes(np.asarray(expected))
    return Case(kind, name, lambda path: image.save(path, **options), shown)


def decoded(image: PIL.Image.Image, kind: str, **options: Any) -> np.ndarray:
    """What Pillow itself decodes of a lossy file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return np.asarray(PIL.Image.open(buffer))


def pngs() -> Iterator[Case]:
    """Every depth and colour type, plain and interlaced."""
    kind = "PNG, 1 to 16 bits, palette, alpha, interlaced"
    from_array = PIL.Image.fromarray
    grey, colours = values((HEIGHT, WIDTH), "u1"), values((HEIGHT, WIDTH, 3), "u1")
    bits, deep = values((HEIGHT, WIDTH), "?"), values((HEIGHT, WIDTH), "u2")
    yield picture(kind, "1 bit.png", from_array(bits), bits)
    yield picture(kind, "8 bit.png", from_array(grey), grey)
    yield picture(kind, "16 bit.png", from_array(deep), deep)
    yield picture(kind, "rgb.png", from_array(colours), colours)
    for mode, channels in (("LA", 2), ("RGBA", 4)):
        array = values((HEIGHT, WIDTH, channels), "u1")
        yield picture(kind, f"{mode}.png", from_array(array, mode), array[..., 0] if mode == "LA" else array[..., :3])
    palette = from_array(grey % 4, "P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 9, 9, 200])
    for depth in (2, 4, 8):
        yield picture(kind, f"palette {depth}.png", palette, np.asarray(palette.convert("RGB")), bits=depth)
    yield picture(kind, "palette with transparency.png", palette, np.asarray(palette.convert("RGB")), transparency=1)
    for channels in (2, 3, 4):
        array = values((HEIGHT, WIDTH, channels), "u2")
        kept = array[..., 0] if channels == 2 else array[..., :3]

        def write(path: Path, array: np.ndarray = array) -> None:
            path.write_bytes(imagecodecs.png_encode(array))

        yield Case(kind, f"16 bit {channels} samples.png", write, planes(kept))
    for dtype, samples in itertools.product(("u1", "u2"), ((), (3,))):
        array = values((HEIGHT, WIDTH, *samples), dtype)

        def write_passes(path: Path, array: np.ndarray = array) -> None:
            interlaced(path, array)

        yield Case(kind, f"interlaced {dtype} {len(samples)}.png", write_passes, planes(array))
    for shape in ((1, 1), (1, 500), (500, 1)):
        array = values(shape, "u1")
        yield picture("1 x 1, 1 x N, N x 1, thin and prime shapes", f"{shape}.png", from_array(array), array)


def photographs() -> Iterator[Case]:
    """JPEG, BMP, GIF and WebP as cameras, scanners and browsers leave them."""
    kind = "JPEG, progressive, rotated, CMYK; MPO"
    colours = PIL.Image.fromarray(smooth((HEIGHT, WIDTH, 3)) + np.arange(3, dtype="u1") * 20)
    grey = PIL.Image.fromarray(smooth((HEIGHT, WIDTH)))
    rotated = PIL.Image.Exif()
    rotated[0x0112] = 6
    ways: dict[str, dict[str, Any]] = {
        "baseline": {}, "progressive": {"progressive": True}, "444": {"subsampling": 0}, "420": {"subsampling": 2},
        "optimised": {"optimize": True}, "rotated": {"exif": rotated}, "poor": {"quality": 1}, "best": {"quality": 100},
    }  # fmt: skip
    for way, options in ways.items():
        for name, image in (("rgb", colours), ("grey", grey)):
            yield picture(kind, f"{way} {name}.jpg", image, decoded(image, "JPEG", **options), **options)
    yield picture(kind, "cmyk.jpg", colours.convert("CMYK"), None)
    frames: dict[str, Any] = {"save_all": True, "append_images": [colours]}
    yield picture(kind, "camera with preview.mpo.jpg", colours, decoded(colours, "JPEG"), format="MPO", **frames)
    kind = "BMP, GIF, WebP"
    yield picture(kind, "rgb.bmp", colours, np.asarray(colours))
    yield picture(kind, "grey.bmp", grey, np.asarray(grey))
    yield picture(kind, "1 bit.bmp", grey.convert("1"), np.asarray(grey.convert("1")))
    few = colours.quantize(16)
    yield picture(kind, "palette.bmp", few, np.asarray(few.convert("RGB")))
    yield picture(kind, "palette.gif", few, np.asarray(few.convert("RGB")))
    yield picture(kind, "interlaced.gif", grey, np.asarray(grey), interlace=True)
    yield picture(kind, "transparent.gif", few, np.asarray(few.convert("RGB")), transparency=0)
    yield picture(kind, "animated.gif", grey, None, save_all=True, append_images=[grey.rotate(90)])
    yield picture(kind, "lossless.webp", colours, np.asarray(colours), lossless=True)
    yield picture(kind, "lossy.webp", colours, decoded(colours, "WEBP"))
    yield picture(kind, "transparent.webp", colours.convert("RGBA"), np.asarray(colours), lossless=True)
    yield picture(kind, "animated.webp", grey, None, save_all=True, append_images=[grey.rotate(90)])
    yield picture(kind, "colours.tif", colours, np.asarray(colours))
    yield picture(kind, "float.tif", grey.convert("F"), np.asarray(grey).astype("f4"))


def npys() -> Iterator[Case]:
    """Every type in both byte orders and both orders of axes, and what is no image."""
    kind = "NPY, 10 number types, C and Fortran order, both byte orders"
    for dtype, order, end in itertools.product(("?", "u1", "i2", "u4", "i8", "u8", "f2", "f4", "f8", "g"), "CF", "<>"):
        array = values((HEIGHT, WIDTH), dtype)
        stored = np.asarray(array.astype(array.dtype.newbyteorder(end)), order=order)  # type: ignore[call-overload]
        name = f"{array.dtype.name} {order} {'little' if end == '<' else 'big'}.npy"

        def write(path: Path, stored: np.ndarray = stored) -> None:
            np.save(path, stored)

        yield Case(kind, name, write, array[None])
    stack = values((4, 20, 30), "u2")
    fortran = np.asfortranarray(stack)
    yield Case(kind, "channels.npy", lambda path: np.save(path, fortran), stack, {"axes": "CYX"})
    for version in ((2, 0), (3, 0)):

        def write_version(path: Path, version: tuple[int, int] = version) -> None:
            with path.open("wb") as file:
                np.lib.format.write_array(file, stack[0], version)

        yield Case(kind, f"version {version[0]}.npy", write_version, stack[:1])
    none: dict[str, Any] = {
        "complex": np.ones((4, 5), complex), "line": np.zeros(9), "number": np.zeros(()), "nothing": np.zeros((0, 5)),
        "text": np.full((4, 5), "a"), "dates": np.zeros((4, 5), "M8[s]"), "records": np.zeros((4, 5), "u1,f4"),
        "objects": np.full((4, 5), None), "pages without axes": stack, "six axes": np.zeros((2,) * 6),
    }  # fmt: skip
    for name, array in none.items():

        def write_other(path: Path, array: np.ndarray = array) -> None:
            np.save(path, array, allow_pickle=True)

        yield Case("NPY that is no image", f"{name}.npy", write_other, None)


def all_pictures() -> Iterator[Case]:
    """Every file of the table that is no TIFF."""
    for part in (pngs, photographs, npys):
        yield from part()
