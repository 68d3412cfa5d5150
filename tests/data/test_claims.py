"""Damaged files and lying headers: right pixels, or one sentence; never a crash, a hang or a heap of memory."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data import claims
from abbe.data.claims import ALWAYS, EXPANSION, check_claim
from abbe.data.read import read
from abbe.errors import LONGEST_REASON, AbbeError, reason

SHAPE = (24, 30)
MEMORY = 2**26
CLAIMS = (0, 1, 2**16 - 1, 2**31 - 1)
TIFFS = {
    "plain.tif": {},
    "strips.tif": {"compression": "zlib", "rowsperstrip": 8},
    "tiles.tif": {"compression": "zstd", "tile": (16, 16)},
    "runs.tif": {"compression": "packbits", "rowsperstrip": 8, "bigtiff": True, "byteorder": ">"},
    "a.ome.tif": {"ome": True, "compression": "lzw"},
}
PICTURES = {"a.png": "PNG", "a.jpg": "JPEG", "a.bmp": "BMP", "a.gif": "GIF", "a.webp": "WEBP"}


def pixels(dtype: str = "u1") -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, SHAPE).astype(dtype)


def whole_files() -> dict[str, bytes]:
    files = {}
    for name, options in TIFFS.items():
        tifffile.imwrite(buffer := io.BytesIO(), pixels("u2"), **options)
        files[name] = buffer.getvalue()
    for name, kind in PICTURES.items():
        PIL.Image.fromarray(pixels()).save(buffer := io.BytesIO(), kind)
        files[name] = buffer.getvalue()
    np.save(buffer := io.BytesIO(), pixels("u2"))
    return files | {"a.npy": buffer.getvalue()}


FILES = whole_files()


def look(path: Path) -> None:
    """Read an image, or of a large one a corner, in little memory; a refusal is one sentence."""
    tracemalloc.start()
    try:
        refused = refusal(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY
    if refused is not None:
        assert str(refused).startswith(path.name)
        assert len(str(refused).splitlines()) == 1
        assert not isinstance(refused.__cause__, MemoryError)


def refusal(path: Path) -> AbbeError | None:
    try:
        plane = read(path).planar()
        large = plane.height * plane.width > 2**22
        y0, x0 = (max(plane.height - 16, 0), max(plane.width - 16, 0)) if large else (0, 0)
        region = plane.region(y0, plane.height, x0, plane.width)
    except AbbeError as error:
        return error
    assert large or region.shape == plane.shape
    assert region.dtype == plane.dtype
    return None


@given(st.sampled_from(sorted(FILES)), st.sampled_from(["flip", "cut", "zero", "header"]), st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, name, damage, seed):
    rng = np.random.default_rng(seed)
    data = bytearray(FILES[name])
    start = int(rng.integers(0, len(data)))
    if damage == "flip":
        for at in rng.integers(0, len(data), 8):
            data[at] ^= int(rng.integers(1, 256))
    elif damage == "cut":
        del data[max(start, 1) :]
    elif damage == "zero":
        data[start : start + 99] = bytes(len(data[start : start + 99]))
    else:
        data[8:60] = rng.bytes(len(data[8:60]))
    path = tmp_path_factory.mktemp("damaged") / name
    path.write_bytes(data)
    look(path)


def header_numbers() -> list[tuple[str, int, str]]:
    """File, place and layout of every number that says how its pixels lie."""
    numbers = [("a.png", 16, ">I"), ("a.png", 20, ">I"), ("a.png", 24, "B"), ("a.bmp", 18, "<I"), ("a.bmp", 22, "<I")]
    numbers += [("a.gif", 6, "<H"), ("a.gif", 8, "<H"), ("a.webp", 21, "<H"), ("a.webp", 23, "<H")]
    frame = FILES["a.jpg"].find(b"\xff\xc0")
    numbers += [("a.jpg", frame + 5, ">H"), ("a.jpg", frame + 7, ">H")]
    for name in TIFFS:
        with tifffile.TiffFile(io.BytesIO(FILES[name])) as tiff:
            order, count = tiff.byteorder, "Q" if tiff.is_bigtiff else "I"
            for tag in tiff.pages[0].tags.values():
                if tag.code in (256, 257, 258, 259, 273, 277, 278, 279, 317, 322, 323, 324, 325, 339):
                    layout = {3: "H", 4: "I", 16: "Q"}[int(tag.dtype)]
                    numbers += [(name, tag.valueoffset, order + layout), (name, tag.offset + 4, order + count)]
    return numbers


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_lying_header_costs_no_memory(tmp_path, claim):
    for name, place, layout in header_numbers():
        if claim < 256 ** struct.calcsize(layout):
            data = bytearray(FILES[name])
            struct.pack_into(layout, data, place, claim)
            if name.endswith("png"):
                struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
            (tmp_path / name).write_bytes(data)
            look(tmp_path / name)


def test_a_header_that_lists_too_few_tiles_is_refused(tmp_path):
    data = bytearray(FILES["tiles.tif"])
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        struct.pack_into("<I", data, tiff.pages[0].tags["ImageWidth"].valueoffset, 60_000)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(AbbeError, match=r"a\.tif: is damaged, page 0 of 24 x 60000 pixels needs 7500 tiles .* lists 4"):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize("shape", [(2**40, 2**20), (-24, 30), (2**70, 1), (24, 0), (), "(", "__import__('os')"])
def test_shapes_that_no_npy_has(tmp_path, shape):
    header = f"{{'descr': '<u2', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(4000))
    with pytest.raises(AbbeError, match=r"^a\.npy: [^\n]*$"):
        read(tmp_path / "a.npy")


def test_bytes_behind_an_npy_are_told(tmp_path):
    np.save(tmp_path / "a.npy", pixels())
    assert read(tmp_path / "a.npy").warnings == []
    with (tmp_path / "a.npy").open("ab") as file:
        file.write(bytes(7))
    assert read(tmp_path / "a.npy").warnings == ["7 bytes follow the array, which are not read"]


def test_what_codecs_can_do_is_no_lie():
    check_claim("a", (10**6, 10**6), 1, 10**12 // 1032, "deflate")
    check_claim("a", (10**5, 10**5), 1 / 8, 10**5 // 8, "fax")  # one bit for each blank row
    check_claim("a", (ALWAYS,), 1, 1, "raw")
    with pytest.raises(AbbeError, match=r"a: its header claims 65536 x 2048 values \(128 MiB\) where 1000 bytes"):
        check_claim("a", (2**16, 2**11), 1, 1000, "deflate")


@pytest.mark.parametrize(
    ("codec", "encode"),
    [
        ("deflate", imagecodecs.zlib_encode),
        ("lzw", imagecodecs.lzw_encode),
        ("run lengths", imagecodecs.packbits_encode),
    ],
)
def test_no_blank_area_is_taken_for_a_lie(codec, encode):
    blank = bytes(2**20)
    assert len(blank) < len(encode(blank)) * EXPANSION[codec]


@pytest.mark.parametrize(
    "name", ["1.png", "L.png", "RGB.png", "L.gif", "L.bmp", "L.jpg", "RGB.jpg", "RGB.webp", "P.png"]
)
def test_blank_pictures_are_welcome(tmp_path, monkeypatch, name):
    monkeypatch.setattr(claims, "ALWAYS", 0)
    PIL.Image.new(name.split(".")[0], (700, 900)).save(tmp_path / name)
    assert read(tmp_path / name).planar().region(0, 900, 0, 700).max() == 0


@pytest.mark.parametrize("compression", ["zlib", "lzw", "zstd", "packbits", "jpeg", "jpeg2000", "webp", "lzma"])
def test_blank_tiffs_are_welcome(tmp_path, monkeypatch, compression):
    monkeypatch.setattr(claims, "ALWAYS", 0)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((700, 900, 3), "u1"), compression=compression, photometric="rgb")
    assert read(tmp_path / "a.tif").planar().region(690, 700, 0, 900).max() == 0


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
def test_a_png_that_lacks_rows_is_refused(tmp_path, mode):
    PIL.Image.new(mode, (30, 24)).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    assert read(tmp_path / "a.png").planar().region(0, 24, 0, 30).max() == 0
    struct.pack_into(">I", data, 20, 25)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(AbbeError, match=r"a\.png: is damaged or cut off"):
        np.asarray(read(tmp_path / "a.png").data)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_adobe_deflate"])
def test_blank_masks_of_one_bit_are_welcome(tmp_path, monkeypatch, compression):
    monkeypatch.setattr(claims, "ALWAYS", 0)
    PIL.Image.new("1", (9000, 900)).save(tmp_path / "a.tif", compression=compression)
    assert not read(tmp_path / "a.tif").planar().region(0, 900, 0, 9000).any()


def test_whole_numbers_of_24_bits_are_refused(tmp_path):
    data = bytearray(FILES["plain.tif"])
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        struct.pack_into("<H", data, tiff.pages[0].tags["BitsPerSample"].valueoffset, 24)
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(AbbeError, match=r"a\.tif: whole numbers of 24 bits; expected 1 to 16, 32 or 64"):
        read(tmp_path / "a.tif")


def test_a_turned_photograph_is_told(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(pixels()).save(tmp_path / "a.jpg", exif=exif)
    image = read(tmp_path / "a.jpg")
    assert image.shape == SHAPE
    assert "orientation tag 6" in image.warnings[0]


def test_reasons_are_part_of_a_line():
    assert reason(ValueError("one\ntwo")) == "one"
    assert reason(MemoryError()) == "MemoryError"
    assert reason(ValueError("a\x00b")) == "a?b"
    assert len(reason(ValueError("x" * 999))) == LONGEST_REASON
