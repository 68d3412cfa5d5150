"""Files of many formats harmed in ways that disks, copies and liars harm them; used by ``odd_files.py``."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import imagecodecs
import numpy as np
import PIL.Image
import tifffile

from odd_tiffs import smooth, values

SHAPE = (90, 110)
CLAIMS = (0, 1, 2**15 - 1, 2**16 - 1, 2**20, 2**31 - 1)
"""What lying headers say instead of the truth."""
TAGS = {
    "width": 256, "length": 257, "bits": 258, "compression": 259, "photometric": 262, "offsets": 273, "samples": 277,
    "rows per strip": 278, "byte counts": 279, "planar": 284, "predictor": 317, "tile width": 322, "tile length": 323,
    "tile offsets": 324, "tile byte counts": 325, "extra samples": 338, "sample format": 339, "depth": 32997,
}  # fmt: skip
Bytes = np.ndarray


def flipped(data: Bytes, rng: np.random.Generator) -> Bytes:
    """Change some bytes anywhere."""
    at = rng.integers(0, len(data), rng.integers(1, 17))
    data[at] ^= rng.integers(1, 256, len(at)).astype(np.uint8)
    return data


def cut(data: Bytes, rng: np.random.Generator) -> Bytes:
    """Lose the end."""
    return data[: rng.integers(1, len(data))]


def zeroed(data: Bytes, rng: np.random.Generator) -> Bytes:
    """Lose a stretch, as a disk does that was never flushed."""
    start = rng.integers(0, len(data))
    data[start : start + rng.integers(1, max(len(data) // 3, 2))] = 0
    return data


def overwritten(data: Bytes, rng: np.random.Generator) -> Bytes:
    """Put random bytes over the header, but for the mark that names the format."""
    length = rng.integers(1, 60)
    data[8 : 8 + length] = rng.integers(0, 256, len(data[8 : 8 + length]))
    return data


def lying(data: Bytes, rng: np.random.Generator) -> Bytes:
    """Make a number that is small in most headers huge, wherever two zero bytes show one."""
    places = np.flatnonzero((data[:-3] > 0) & (data[2:-1] == 0) & (data[3:] == 0))
    places = places[places > 3]
    if len(places):
        at = rng.choice(places)
        data[at + 2 : at + 2 + rng.integers(1, 3)] = rng.integers(1, 256)
    return data


DAMAGES: dict[str, Callable[[Bytes, np.random.Generator], Bytes]] = {
    "bytes changed": flipped,
    "cut short": cut,
    "stretch of zeros": zeroed,
    "header overwritten": overwritten,
    "numbers made huge": lying,
}


def whole_files() -> dict[str, tuple[bytes, np.ndarray]]:
    """By name the bytes of a file and the (C, Y, X) that it holds."""
    grey, deep, colours = values(SHAPE, "u1"), values(SHAPE, "u2"), values((*SHAPE, 3), "u1")
    stack = values((3, *SHAPE), "u2")
    ways: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
        "plain.tif": (deep, {}),
        "strips zlib.tif": (deep, {"compression": "zlib", "rowsperstrip": 16}),
        "strips lzw predictor.tif": (deep, {"compression": "lzw", "predictor": 2, "rowsperstrip": 16}),
        "tiles zstd.tif": (deep, {"compression": "zstd", "tile": (32, 32)}),
        "tiles packbits big.btf": (
            deep,
            {"compression": "packbits", "tile": (32, 32), "bigtiff": True, "byteorder": ">"},
        ),
        "tiles jpeg2000.tif": (smooth(SHAPE), {"compression": "jpeg2000", "tile": (64, 64)}),
        "imagej.tif": (stack, {"imagej": True, "metadata": {"axes": "CYX"}}),
        "channels.ome.tif": (stack, {"ome": True, "metadata": {"axes": "CYX"}}),
        "channels lzw.ome.tif": (stack, {"ome": True, "metadata": {"axes": "CYX"}, "compression": "lzw"}),
    }
    files = {name: (_tiff(array, options), array.reshape(-1, *SHAPE)) for name, (array, options) in ways.items()}
    pictures: dict[str, tuple[np.ndarray, str, dict[str, Any]]] = {
        "grey.png": (grey, "PNG", {}),
        "colours.png": (colours, "PNG", {}),
        "baseline.jpg": (smooth((*SHAPE, 3)), "JPEG", {}),
        "progressive.jpg": (smooth((*SHAPE, 3)), "JPEG", {"progressive": True}),
        "colours.bmp": (colours, "BMP", {}),
        "grey.gif": (grey, "GIF", {}),
        "lossless.webp": (colours, "WEBP", {"lossless": True}),
        "lossy.webp": (smooth((*SHAPE, 3)), "WEBP", {}),
    }
    files |= {name: _picture(*way) for name, way in pictures.items()}
    files["deep colours.png"] = imagecodecs.png_encode(stack.transpose(1, 2, 0).copy()), stack
    for name, array in {"plane.npy": deep, "big.npy": deep.astype(">u2")}.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        files[name] = buffer.getvalue(), deep[None]
    return files


def _tiff(array: np.ndarray, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, photometric="minisblack", **options)
    return buffer.getvalue()


def _picture(array: np.ndarray, kind: str, options: dict[str, Any]) -> tuple[bytes, np.ndarray]:
    buffer = io.BytesIO()
    PIL.Image.fromarray(array).save(buffer, kind, **options)
    shown = np.asarray(PIL.Image.open(buffer).convert("L" if array.ndim == 2 else "RGB"))
    return buffer.getvalue(), shown[None] if shown.ndim == 2 else shown.transpose(2, 0, 1)


def damaged_files(times: int) -> Iterator[tuple[str, str, bytes, np.ndarray]]:
    """Harm every file in every way so many times: damage, name, bytes, and the (C, Y, X) that the whole file holds."""
    for number, (name, (data, expected)) in enumerate(whole_files().items()):
        for order, (damage, harm) in enumerate(DAMAGES.items()):
            for repeat in range(times):
                rng = np.random.default_rng([number, order, repeat])
                harmed = harm(np.frombuffer(data, np.uint8).copy(), rng).tobytes()
                stem, _, suffix = name.partition(".")
                yield damage, f"{stem} {damage} {repeat}.{suffix}", harmed, expected


def lying_headers() -> Iterator[tuple[str, bytes, np.ndarray]]:
    """Let each number of a header claim something else, its checksum kept right: name, bytes, what the file held."""
    for name, (data, expected) in whole_files().items():
        stem, _, suffix = name.partition(".")
        for (field, place, layout), claim in itertools.product(_numbers(data, suffix), CLAIMS):
            if claim < 256 ** struct.calcsize(layout):
                harmed = bytearray(data)
                struct.pack_into(layout, harmed, place, claim)
                if suffix == "png":
                    struct.pack_into(">I", harmed, 29, zlib.crc32(harmed[12:29]))
                yield f"{stem} {field} {claim}.{suffix}", bytes(harmed), expected
    for shape in ((2**40, 2**20), (2**62, 2**62), (-90, 110), (90, -110), (90, 0), (90,), (9, 10, 110), (2**70, 1), ()):
        header = f"{{'descr': '<u2', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
        data = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + values(SHAPE, "u2").tobytes()
        yield f"shape {shape}.npy", data, values(SHAPE, "u2")[None]


def _numbers(data: bytes, suffix: str) -> Iterator[tuple[str, int, str]]:
    """Find the numbers of a header that say how the pixels lie: name, place, layout."""
    if suffix.endswith(("tif", "btf")):
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            order, big = tiff.byteorder, tiff.is_bigtiff
            for name, code in TAGS.items():
                if tag := tiff.pages[0].tags.get(code):
                    yield name, tag.valueoffset, f"{order}{'H' if tag.dtype == 3 else 'Q' if tag.dtype == 16 else 'I'}"
                    yield f"count of {name}", tag.offset + 4, f"{order}{'Q' if big else 'I'}"
        return
    places: dict[str, list[tuple[str, int, str]]] = {
        "png": [("width", 16, ">I"), ("height", 20, ">I"), ("depth", 24, "B"), ("colours", 25, "B")],
        "bmp": [
            ("offset", 10, "<I"),
            ("width", 18, "<I"),
            ("height", 22, "<I"),
            ("bits", 28, "<H"),
            ("packing", 30, "<I"),
        ],
        "gif": [("screen width", 6, "<H"), ("screen height", 8, "<H")],
        "webp": [("length", 4, "<I"), ("chunk", 16, "<I"), ("width", 21, "<H"), ("height", 23, "<H")],
    }
    if suffix == "jpg":
        frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        places["jpg"] = [("height", frame + 5, ">H"), ("width", frame + 7, ">H"), ("components", frame + 9, "B")]
    yield from places.get(suffix, ())
