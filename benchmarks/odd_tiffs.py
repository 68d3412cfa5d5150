"""Odd but valid TIFF files, each with what has to be read from it; used by ``odd_files.py``."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import tifffile

TYPES = ("?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")
HEIGHT, WIDTH = 53, 70
UNREAD = "TIFF of CMYK, CIELAB, complex values, 24 bits"


@dataclass(frozen=True)
class Case:
    """A file and what it holds."""

    kind: str
    """Row of the table."""
    name: str
    """File name."""
    write: Callable[[Path], Any]
    """Makes the file."""
    expected: np.ndarray | None
    """(C, Y, X) of the chosen plane; None for what cannot be read and has to be refused."""
    chosen: dict[str, Any] = field(default_factory=dict)
    """``axes`` for the reader, ``z`` and ``time`` of the plane; what the file itself does not settle."""
    tolerance: float = 0.0
    """Of lossy compression, in grey levels."""


def values(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Draw numbers over the whole range of a type."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.normal(size=shape).astype(kind)
    if kind.kind == "b":
        return rng.random(shape) > 0.5
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max, shape, kind, endpoint=True)


def smooth(shape: tuple[int, ...], dtype: str = "u1") -> np.ndarray:
    """Draw a gradient, which lossy codecs keep within a few grey levels."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    grey = 40 + rows + 2 * columns
    return np.broadcast_to(grey if len(shape) == 2 else grey[..., None], shape).astype(dtype)


def plane_of(array: np.ndarray, axes: str) -> tuple[np.ndarray, dict[str, int]]:
    """Take the last z plane and time point of an array, as (C, Y, X), and say which they are."""
    chosen = {}
    for axis, name in (("Z", "z"), ("T", "time")):
        if axis in axes:
            at = axes.index(axis)
            chosen[name] = array.shape[at] - 1
            array, axes = array.take(-1, at), axes.replace(axis, "")
    axes = axes.replace("S", "C")
    return (np.moveaxis(array, axes.index("C"), 0) if "C" in axes else array[None]), chosen


def tiff(kind: str, name: str, array: np.ndarray, axes: str = "YX", tolerance: float = 0.0, **options: Any) -> Case:
    """Make a case that tifffile writes in one call."""
    expected, chosen = plane_of(array, axes)
    options = {"photometric": "minisblack", "metadata": {"axes": axes}} | options
    return Case(kind, name, lambda path: tifffile.imwrite(path, array, **options), expected, chosen, tolerance)


def types() -> Iterator[Case]:
    """Every type in both byte orders."""
    for dtype, order in itertools.product(TYPES, "<>"):
        array = values((HEIGHT, WIDTH), dtype)
        name = f"type {np.dtype(dtype).name} {'little' if order == '<' else 'big'}.tif"
        yield tiff("TIFF, 12 number types, both byte orders", name, array, byteorder=order)


def compressions() -> Iterator[Case]:
    """Every codec that can write, in strips and in tiles."""
    kind = "TIFF, 12 compressions, strips and tiles"
    layouts: dict[str, dict[str, Any]] = {"strips": {"rowsperstrip": 9}, "tiles": {"tile": (32, 16)}}
    for codec, layout in itertools.product(("zlib", "lzw", "zstd", "packbits", "lzma", "lerc", "jpegxl"), layouts):
        yield tiff(kind, f"{codec} {layout}.tif", values((HEIGHT, WIDTH), "u2"), compression=codec, **layouts[layout])
    for codec, layout in itertools.product(("png", "webp", "jpeg2000", "jpegxr", "jpeg"), layouts):
        array = smooth((HEIGHT, WIDTH, 3)) if codec == "webp" else smooth((HEIGHT, WIDTH))
        options: dict[str, Any] = {"photometric": "rgb"} if codec == "webp" else {}
        if codec == "webp":
            options["compressionargs"] = {"lossless": True}
        tolerance = 8 if codec in ("jpeg", "jpegxr") else 0
        axes = "YXS" if array.ndim == 3 else "YX"
        yield tiff(
            kind, f"{codec} {layout}.tif", array, axes, tolerance, compression=codec, **options, **layouts[layout]
        )
    for codec in ("group3", "group4", "packbits", "tiff_lzw"):
        bits = values((HEIGHT, WIDTH), "?")

        def write(path: Path, codec: str = codec, bits: np.ndarray = bits) -> None:
            PIL.Image.fromarray(bits).save(path, compression=codec)

        yield Case("TIFF, fax and other 1-bit compressions", f"1 bit {codec}.tif", write, bits[None])


def predictors() -> Iterator[Case]:
    """Horizontal and floating point differences."""
    kind = "TIFF, predictors 2 and 3"
    for dtype, codec, tile in itertools.product(("u1", "u2", "i4", "u8"), ("zlib", "lzw", "zstd"), (None, (32, 16))):
        yield tiff(
            kind,
            f"predictor 2 {dtype} {codec} {'tiles' if tile else 'strips'}.tif",
            values((HEIGHT, WIDTH), dtype),
            compression=codec,
            predictor=2,
            tile=tile,
        )
    for dtype, order in itertools.product(("f2", "f4", "f8"), "<>"):
        array = values((HEIGHT, WIDTH), dtype)
        name = f"predictor 3 {dtype} {'little' if order == '<' else 'big'}.tif"
        yield tiff(kind, name, array, compression="zlib", predictor=3, byteorder=order)


def packed(path: Path, array: np.ndarray, bits: int, *, order: str = "<", photometric: int = 1) -> None:
    """Write values of any number of bits as one uncompressed strip of rows that begin at whole bytes (TIFF 6.0)."""
    height, width = array.shape
    places = 1 << np.arange(bits - 1, -1, -1)
    rows = ((array[..., None].astype(np.int64) & places) > 0).reshape(height, width * bits)
    strip = np.packbits(rows, axis=1).tobytes()
    start = 8 + len(strip) + len(strip) % 2
    tags = [
        *((256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric)),
        *((273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, len(strip)), (339, 3, 1)),
    ]
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, kind, 1) + struct.pack(f"{order}{'HH' if kind == 3 else 'I'}", *value)
        for tag, kind, number in tags
        for value in [(number, 0) if kind == 3 else (number,)]
    )
    mark = b"II" if order == "<" else b"MM"
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    path.write_bytes(mark + struct.pack(f"{order}HI", 42, start) + strip + bytes(len(strip) % 2) + directory)


def bit_depths() -> Iterator[Case]:
    """Numbers of bits that no type has."""
    for bits, order in itertools.product((1, 2, 4, 6, 10, 12, 14, 24), "<>"):
        array = np.random.default_rng(bits).integers(0, 2**bits, (HEIGHT, WIDTH))
        dtype = "?" if bits == 1 else "u1" if bits <= 8 else "u2"

        def write(path: Path, array: np.ndarray = array, bits: int = bits, order: str = order) -> None:
            packed(path, array, bits, order=order)

        name = f"{bits} bits {'little' if order == '<' else 'big'}.tif"
        if bits > 16:
            yield Case(UNREAD, name, write, None)
        else:
            yield Case("TIFF, 1 to 14 bits per value", name, write, array[None].astype(dtype))
    array = np.random.default_rng(0).integers(0, 16, (HEIGHT, WIDTH))
    yield Case(
        "TIFF, colours",
        "white is zero.tif",
        lambda path: packed(path, array, 4, photometric=0),
        array[None].astype("u1"),
    )


def axes() -> Iterator[Case]:
    """Every set of axes that the three ways of naming them can say."""
    extents = {"T": 2, "C": 3, "Z": 4, "Y": HEIGHT, "X": WIDTH}
    for named in ("YX", "CYX", "ZYX", "TYX", "ZCYX", "TCYX", "TZYX", "TZCYX"):
        array = values(tuple(extents[axis] for axis in named), "u2")
        for compression in (None, "zlib"):
            packing = "zlib" if compression else "plain"
            extra: dict[str, Any] = {"compression": compression}
            if compression is None:  # ImageJ reads no compression
                yield tiff("ImageJ TIFF, 8 sets of axes", f"imagej {named}.tif", array, named, imagej=True)
            yield tiff("OME-TIFF, 8 sets of axes", f"{named} {packing}.ome.tif", array, named, ome=True, **extra)
            yield tiff("TIFF with axes in its description", f"shaped {named} {packing}.tif", array, named, **extra)
    for dtype in ("u1", "f4"):
        yield tiff("ImageJ TIFF, 8 sets of axes", f"imagej {dtype}.tif", values((4, 20, 30), dtype), "ZYX", imagej=True)
    colours = values((2, 20, 30, 3), "u1")
    yield tiff("ImageJ TIFF, 8 sets of axes", "imagej colours.tif", colours, "TYXS", imagej=True, photometric="rgb")


def colours() -> Iterator[Case]:
    """Samples beside each other and apart, with transparency, as indices, and colours of printers."""
    kind = "TIFF, colours"
    for dtype, tile in itertools.product(("u1", "u2", "f4"), (None, (16, 32))):
        where = "tiles" if tile else "strips"
        array = values((HEIGHT, WIDTH, 3), dtype)
        options: dict[str, Any] = {"photometric": "rgb", "tile": tile, "metadata": None}
        yield tiff(kind, f"rgb {dtype} {where}.tif", array, "YXS", **options)
        apart = np.ascontiguousarray(array.transpose(2, 0, 1))
        yield tiff(kind, f"rgb apart {dtype} {where}.tif", apart, "SYX", planarconfig="separate", **options)
        yield tiff(
            kind, f"rgb zlib {dtype} {where}.tif", apart, "SYX", planarconfig="separate", compression="zlib", **options
        )
    rgba = values((HEIGHT, WIDTH, 4), "u1")

    def transparent(path: Path) -> None:
        tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unassalpha"], compression="lzw")

    yield Case(kind, "rgba.tif", transparent, rgba[..., :3].transpose(2, 0, 1))
    table = np.arange(768, dtype=np.uint16).reshape(3, 256) * 85
    indices = values((HEIGHT, WIDTH), "u1")
    shown = (table >> 8).astype("u1")[:, indices]
    yield Case(kind, "palette.tif", lambda path: tifffile.imwrite(path, indices, colormap=table), shown)
    for photometric in ("separated", "cielab"):
        array = values((HEIGHT, WIDTH, 4 if photometric == "separated" else 3), "u1")

        def write(path: Path, array: np.ndarray = array, photometric: str = photometric) -> None:
            tifffile.imwrite(path, array, photometric=photometric)

        yield Case(UNREAD, f"{photometric}.tif", write, None)
    for dtype in ("c8", "c16"):
        array = np.ones((9, 9), dtype)
        write_complex = lambda path, array=array: tifffile.imwrite(path, array)  # noqa: E731
        yield Case(UNREAD, f"complex {dtype}.tif", write_complex, None)
    photograph = smooth((64, 64, 3))
    yield tiff(kind, "ycbcr.tif", photograph, "YXS", 8, photometric="rgb", compression="jpeg", metadata=None)


def pyramid(path: Path, array: np.ndarray, levels: int, **options: Any) -> None:
    """Write an image with smaller ones in its SubIFDs."""
    with tifffile.TiffWriter(path, bigtiff=options.pop("bigtiff", False), ome=options.pop("ome", None)) as writer:
        writer.write(array, subifds=levels, **options)
        for level in range(1, levels + 1):
            smaller = array[..., :: 2**level, :: 2**level]
            writer.write(smaller, subfiletype=1, **({key: options[key] for key in options if key != "metadata"}))


def containers() -> Iterator[Case]:
    """Pyramids, BigTIFF, several series, pages of unequal shape, and pages that say nothing."""
    kind = "TIFF, pyramids and BigTIFF"
    plane, stack = values((200, 230), "u2"), values((2, 200, 230), "u2")
    layout: dict[str, Any] = {"tile": (64, 64), "photometric": "minisblack", "compression": "zlib"}
    yield Case(kind, "pyramid.tif", lambda path: pyramid(path, plane, 2, **layout), plane[None])
    named = layout | {"metadata": {"axes": "CYX"}, "ome": True}
    yield Case(kind, "pyramid.ome.tif", lambda path: pyramid(path, stack, 2, **named), stack)
    big = layout | {"bigtiff": True}
    yield Case(kind, "pyramid.btf", lambda path: pyramid(path, plane, 3, **big), plane[None])

    def pages(path: Path) -> None:
        with tifffile.TiffWriter(path) as writer:
            for level in range(3):
                writer.write(plane[:: 2**level, :: 2**level], subfiletype=int(level > 0), metadata=None, **layout)

    yield Case(kind, "pyramid in pages.tif", pages, plane[None])
    for order, codec in itertools.product("<>", (None, "zlib", "lzw")):
        name = f"big {'little' if order == '<' else 'big'} {codec or 'plain'}.tif"
        yield tiff(kind, name, plane, bigtiff=True, byteorder=order, compression=codec)
    kind = "TIFF, several series, unequal pages, pages without axes"

    def series(path: Path, metadata: Any = None, **options: Any) -> None:
        with tifffile.TiffWriter(path, **options) as writer:
            for array in (plane, values((9, 8), "u1"), values((3, 20, 30), "f4")):
                writer.write(array, photometric="minisblack", metadata=metadata)

    yield Case(kind, "unequal pages.tif", series, plane[None])
    yield Case(kind, "series.tif", lambda path: series(path, {}), plane[None])
    yield Case(kind, "series.ome.tif", lambda path: series(path, {}, ome=True), plane[None])
    loose: dict[str, Any] = {"photometric": "minisblack", "metadata": None}

    def bare(path: Path) -> None:
        tifffile.imwrite(path, stack, compression="zlib", **loose)

    yield Case(kind, "pages without axes.tif", bare, None)
    yield Case(kind, "pages with axes given.tif", bare, stack[1:], {"axes": "ZYX", "z": 1})
    yield Case(kind, "pages as channels.tif", bare, stack, {"axes": "CYX"})

    def sparse(path: Path) -> None:
        tiles = iter([plane[:64, :64], None, None, plane[64:128, 64:128]])
        tifffile.imwrite(path, tiles, shape=(128, 128), dtype="u2", **layout)

    holes = plane[:128, :128].copy()
    holes[:64, 64:] = holes[64:, :64] = 0
    yield Case(kind, "left out tiles.tif", sparse, holes[None])


def lsm(path: Path, stack: np.ndarray) -> None:
    """Write (Z, Y, X) as Zeiss LSM does: a thumbnail after each plane, and the CZ_LSMINFO structure in tag 34412."""
    info = np.zeros((), tifffile.TIFF.CZ_LSMINFO)
    info["MagicNumber"], info["StructureSize"] = 67127628, info.dtype.itemsize
    info["DimensionZ"], info["DimensionY"], info["DimensionX"] = stack.shape
    info["DimensionChannels"] = info["DimensionTime"] = info["DataType"] = 1
    info["VoxelSizeX"] = info["VoxelSizeY"] = 1e-7
    tag = (34412, 1, info.dtype.itemsize, info.tobytes(), True)
    with tifffile.TiffWriter(path, byteorder="<") as writer:
        for number, plane in enumerate(stack):
            options: dict[str, Any] = {"metadata": None, "photometric": "minisblack"}
            writer.write(plane, extratags=[] if number else [tag], **options)
            writer.write(plane[::4, ::4], subfiletype=1, **options)


def foreign() -> Iterator[Case]:
    """Metadata of microscopes, right and full of nonsense."""
    kind = "TIFF, LSM and nonsense in the tags of microscopes"
    stack = values((3, 40, 48), "u1")
    yield Case(kind, "zeiss.lsm", lambda path: lsm(path, stack), stack[2:], {"z": 2})
    plane = values((40, 48), "u2")
    tags = {
        *(33628, 33629, 34361, 34362, 34412, 34118, 50838, 50839, 51023, 65330, 65426, 65027, 34377, 34665, 33550),
        *(42112, 42113, 65420, 65449, 51123, 37706, 34363, 50288, 50296, 65009, 65021, 65100, 65200),
    }
    for tag in sorted(tags):
        junk = np.random.default_rng(tag).bytes(64)

        def write(path: Path, tag: int = tag, junk: bytes = junk) -> None:
            tifffile.imwrite(path, plane, metadata=None, extratags=[(tag, 1, len(junk), junk, True)])

        yield Case(kind, f"nonsense in tag {tag}.tif", write, plane[None])
    texts = (
        "ImageJ=1.54f\nimages=900\nslices=900\n",
        "<?xml version='1.0'?><OME><Image/></OME>",
        '{"shape": [7, 7, 7]}',
    )
    for number, text in enumerate((*texts, "Aperio |MPP = x|", "SCANIMAGE.SI.x = 1\nframe", "MetaMorph", "<MetaData>")):

        def describe(path: Path, text: str = text) -> None:
            tifffile.imwrite(path, plane, metadata=None, description=text)

        yield Case(kind, f"nonsense in description {number}.tif", describe, plane[None])


def extremes() -> Iterator[Case]:
    """The smallest and the thinnest images, and numbers at the ends of their types."""
    kind = "1 x 1, 1 x N, N x 1, thin and prime shapes"
    for shape, tile in itertools.product(((1, 1), (1, 997), (997, 1), (2, 3), (17, 19)), (None, (16, 16))):
        name = f"{shape[0]} x {shape[1]} {'tiles' if tile else 'strips'}.tif"
        yield tiff(kind, name, values(shape, "u2"), tile=tile, compression="zlib" if tile else None)
    kind = "numbers that float32 does not hold, NaN, infinity"
    for dtype in ("i4", "u4", "i8", "u8"):
        top = np.iinfo(dtype).max
        yield tiff(kind, f"top of {dtype}.tif", top - values((HEIGHT, WIDTH), "u1").astype(dtype))
    for dtype in ("f2", "f4", "f8"):
        array = values((HEIGHT, WIDTH), dtype)
        array[0, :4] = np.nan, np.inf, -np.inf, -0.0
        array[1, :2] = np.finfo(dtype).max, np.finfo(dtype).tiny
        yield tiff(kind, f"nan and infinity {dtype}.tif", array)
    yield tiff(kind, "nothing but nan.tif", np.full((HEIGHT, WIDTH), np.nan, "f4"))


def names() -> Iterator[Case]:
    """Names that shells, patterns and other systems stumble over."""
    array = values((20, 30), "u2")
    odd = (
        "spaces  in it.tif",
        "ü µm 細胞 🔬.tif",
        "[1-9]*?.tif",
        "-o.tif",
        "100 %.d.ome.tif",
        "CAPITALS.TIF",
        "a.b.c.tif",
    )
    for name in (
        *odd,
        "'quoted\".tif",
        "#;&$(x).tif",
        "l" * 180 + ".tif",
        "[bold]red[/bold].tif",
        "NA.tif",
        "new\nline.tif",
    ):
        yield tiff("names with spaces, signs, other scripts", name, array)


def all_tiffs() -> Iterator[Case]:
    """Every TIFF of the table."""
    for part in (types, compressions, predictors, bit_depths, axes, colours, containers, foreign, extremes, names):
        yield from part()
