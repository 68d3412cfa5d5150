"""CZI, ND2 and LIF: axes, scale and pixels arrive, lazily. The files are written here, by the formats' descriptions.

No file of a microscope is among them; ND2 cannot be written, so that a stand-in takes the place of its reader.
"""

from __future__ import annotations

import builtins
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from nd2 import structures

from abbe.data.microscopes import microscope_of
from abbe.data.read import read
from abbe.errors import AbbeError


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 60_000, shape).astype("<u2")


# --- LIF ----------------------------------------------------------------------------------------------------------


def write_lif(path: Path, images: Sequence[np.ndarray], step: float = 0.25e-6, planes: str = "Z") -> None:
    """Write images (C, Z, Y, X) of 16 bits, pixels ``step`` metres apart; ``planes`` T are times, 2.5 s apart."""
    elements, blocks = "", b""
    for number, pixels in enumerate(images):
        n_channels, depth, height, width = pixels.shape
        channels = "".join(
            f'<ChannelDescription DataType="0" ChannelTag="0" Resolution="16" NameOfMeasuredQuantity="" Min="0" '
            f'Max="1" Unit="" LUTName="Green" IsLUTInverted="0" BytesInc="{i * width * height * 2}" BitInc="0"/>'
            for i in range(n_channels)
        )
        last, between, unit = (3, step, "m") if planes == "Z" else (4, 2.5, "s")
        rows = [(1, width, 2, step, "m"), (2, height, 2 * width, step, "m")]
        rows += [(last, depth, 2 * width * height * n_channels, between, unit)]
        dimensions = "".join(
            f'<DimensionDescription DimID="{axis}" NumberOfElements="{extent}" Origin="0" '
            f'Length="{apart * (extent - 1)}" Unit="{unit}" BytesInc="{stride}" BitInc="0"/>'
            for axis, extent, stride, apart, unit in rows
        )
        elements += (
            f'<Element Name="s{number}" UniqueID="{number}"><Data><Image><ImageDescription>'
            f"<Channels>{channels}</Channels><Dimensions>{dimensions}</Dimensions></ImageDescription></Image></Data>"
            f'<Memory Size="{pixels.nbytes}" MemoryBlockID="MemBlock_{number}"/></Element>'
        )
        name = f"MemBlock_{number}".encode("utf-16-le")
        data = pixels.transpose(1, 0, 2, 3).tobytes()
        blocks += struct.pack("<IIBQBI", 0x70, 0, 0x2A, len(data), 0x2A, len(name) // 2) + name + data
    xml = (
        f'<LMSDataContainerHeader Version="2"><Element Name="p"><Children>{elements}</Children></Element>'
        "</LMSDataContainerHeader>"
    ).encode("utf-16-le")
    path.write_bytes(struct.pack("<IIBI", 0x70, len(xml) + 5, 0x2A, len(xml) // 2) + xml + blocks)


def test_lif_arrives_with_axes_scale_and_pixels(tmp_path):
    pixels = numbers(2, 3, 20, 30)
    write_lif(tmp_path / "a.lif", [pixels, numbers(1, 1, 5, 6)])
    image = read(tmp_path / "a.lif")
    assert image.format == "LIF"
    assert image.pixel_size == pytest.approx({"z": 0.25, "y": 0.25, "x": 0.25})
    assert image.sizes == {"C": 2, "Z": 3, "Y": 20, "X": 30}
    assert image.warnings == ["1 more images in the file are not read"]
    for z in range(3):
        np.testing.assert_array_equal(image.select(z=z).planar().region(2, 9, 3, 30), pixels[:, z, 2:9, 3:])


def test_lif_times(tmp_path):
    pixels = numbers(1, 3, 20, 30)
    write_lif(tmp_path / "a.lif", [pixels], planes="T")
    image = read(tmp_path / "a.lif")
    assert (image.axes, image.time_step) == ("TYX", 2.5)
    np.testing.assert_array_equal(image.data[...], pixels[0])
    write_lif(tmp_path / "a.lif", [pixels])
    assert read(tmp_path / "a.lif").time_step is None


def test_a_lif_that_is_cut_is_told(tmp_path):
    write_lif(tmp_path / "a.lif", [numbers(1, 1, 20, 30)])
    whole = (tmp_path / "a.lif").read_bytes()
    for length in (14, 200, len(whole) - 9):
        (tmp_path / "a.lif").write_bytes(whole[:length])
        with pytest.raises(AbbeError, match=r"a\.lif: "):
            read(tmp_path / "a.lif").planar().region(0, 20, 0, 30)


# --- CZI ----------------------------------------------------------------------------------------------------------

CZI_XML = (
    b"<ImageDocument><Metadata><Information><Image><Dimensions><Channels><Channel Name='DAPI'/><Channel Name='GFP'/>"
    b"</Channels><T><Positions><Interval><Start>0</Start><Increment>1.5</Increment></Interval></Positions></T>"
    b"</Dimensions></Image></Information><Scaling><Items><Distance Id='X'><Value>3.25E-07</Value></Distance>"
    b"<Distance Id='Y'><Value>6.5E-07</Value></Distance></Items></Scaling></Metadata></ImageDocument>"
)


def segment(name: str, data: bytes) -> bytes:
    return struct.pack("<16sqq", name.encode(), len(data), len(data)) + data


def czi_entry(place: dict[str, tuple[int, int]], position: int, pixel_type: int, shrunk: int = 1) -> bytes:
    """Describe a tile: start and extent along each axis, those of X first; ``shrunk`` for one of a pyramid."""
    dimensions = b"".join(
        struct.pack("<4siifi", axis.encode(), start, extent, 0.0, extent // shrunk if axis in "XY" else extent)
        for axis, (start, extent) in place.items()
    )
    return struct.pack("<2siqiiBB4si", b"DV", pixel_type, position, 0, 0, 0, 0, b"", len(place)) + dimensions


def write_czi(path: Path, tiles: Sequence[tuple[dict[str, tuple[int, int]], np.ndarray, int]], pixel_type: int) -> None:
    """Write tiles, each with its place and how much it was shrunk."""
    body = b"\0" * (32 + 80 + 432)  # the header is known at the end
    entries = b""
    for place, pixels, shrunk in tiles:
        position, data = len(body), pixels.tobytes()
        entry = czi_entry(place, position, pixel_type, shrunk)
        entries += entry
        head = struct.pack("<iiq", 0, 0, len(data)) + entry
        body += segment("ZISRAWSUBBLOCK", head + b"\0" * max(0, 240 - len(entry)) + data)
    directory = len(body)
    body += segment("ZISRAWDIRECTORY", struct.pack("<i", len(tiles)) + b"\0" * 124 + entries)
    metadata = len(body)
    body += segment("ZISRAWMETADATA", struct.pack("<ii", len(CZI_XML), 0) + b"\0" * 248 + CZI_XML)
    header = struct.pack("<iiii16s16siqqiq", 1, 0, 0, 0, b"", b"", 0, directory, metadata, 0, 0)
    header = segment("ZISRAWFILE", header + b"\0" * 432)
    path.write_bytes(header + body[len(header) :])


def test_czi_mosaics_are_pasted_and_pyramids_left_out(tmp_path):
    pixels = numbers(2, 20, 30)
    tiles = []
    for channel in range(2):
        for number, (top, left) in enumerate([(0, 0), (0, 16), (12, 0), (12, 16)]):
            part = pixels[channel, top : top + 12, left : left + 16]
            place = {
                "X": (left - 100, part.shape[1]),
                "Y": (top + 50, part.shape[0]),
                "C": (channel, 1),
                "M": (number, 1),
            }
            tiles.append((place, part, 1))
    tiles.append(({"X": (-100, 30), "Y": (50, 20), "C": (0, 1), "M": (9, 1)}, numbers(10, 15), 2))
    write_czi(tmp_path / "a.czi", tiles, 1)
    image = read(tmp_path / "a.czi")
    assert (image.format, image.axes, image.channels) == ("CZI", "CYX", ("DAPI", "GFP"))
    assert image.pixel_size == pytest.approx({"y": 0.65, "x": 0.325})
    np.testing.assert_array_equal(image.data[...], pixels)
    np.testing.assert_array_equal(image.planar().region(5, 18, 10, 30), pixels[:, 5:18, 10:30])


def test_czi_times(tmp_path):
    pixels = numbers(3, 20, 30)
    places = [{"X": (0, 30), "Y": (0, 20), "T": (time, 1)} for time in range(3)]
    write_czi(tmp_path / "a.czi", [(place, one, 1) for place, one in zip(places, pixels)], 1)
    image = read(tmp_path / "a.czi")
    assert (image.axes, image.time_step) == ("TYX", 1.5)
    np.testing.assert_array_equal(image.data[...], pixels)
    write_czi(tmp_path / "a.czi", [(places[0], pixels[0], 1)], 1)
    assert read(tmp_path / "a.czi").time_step is None


def test_czi_colours_are_red_green_blue_and_the_first_scene_is_read(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (2, 12, 16, 3)).astype("u1")
    tiles = [
        ({"X": (0, 16), "Y": (0, 12), "S": (scene, 1)}, np.ascontiguousarray(colours[scene, ..., ::-1]), 1)
        for scene in range(2)
    ]
    write_czi(tmp_path / "a.czi", tiles, 3)
    image = read(tmp_path / "a.czi")
    assert image.rgb
    np.testing.assert_array_equal(image.planar().region(0, 12, 0, 16), colours[0].transpose(2, 0, 1))
    assert len(image.warnings) == 1


def test_a_czi_that_is_cut_is_told(tmp_path):
    write_czi(tmp_path / "a.czi", [({"X": (0, 16), "Y": (0, 12)}, numbers(12, 16), 1)], 1)
    whole = (tmp_path / "a.czi").read_bytes()
    for length in (12, 100, 700):
        (tmp_path / "a.czi").write_bytes(whole[:length])
        with pytest.raises(AbbeError, match=r"a\.czi: "):
            read(tmp_path / "a.czi").planar().region(0, 12, 0, 16)


# --- ND2 ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def nd2_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a reader of these pixels in the place of nd2; gives the frames that it was asked for."""

    def stand_in(pixels: np.ndarray, axes: str, loops: list[Any] | None = None) -> list[int]:
        counted = [extent for axis, extent in zip(axes, pixels.shape) if axis not in "CYXS"]
        frames = pixels.reshape(-1, *pixels.shape[len(counted) :])
        asked: list[int] = []

        class File:
            sizes, dtype = dict(zip(axes, pixels.shape)), pixels.dtype
            metadata = SimpleNamespace(
                channels=[SimpleNamespace(channel=SimpleNamespace(name=name)) for name in ("DAPI", "GFP")]
            )

            def __init__(self, path: Path):
                self.path, self.experiment = path, loops or []

            def __enter__(self) -> File:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def voxel_size(self) -> Any:
                return SimpleNamespace(x=0.325, y=0.65, z=2.0)

            def read_frame(self, index: int) -> np.ndarray:
                asked.append(index)
                return frames[index]

        module = ModuleType("nd2")
        module.ND2File = File  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "nd2", module)
        return asked

    return stand_in


def test_nd2_planes_are_read_one_at_a_time(tmp_path, nd2_of):
    (tmp_path / "a.nd2").write_bytes(b"\xda\xce\xbe\n" + b"\0" * 40)
    pixels = numbers(2, 3, 4, 2, 20, 30)
    asked = nd2_of(pixels, "TPZCYX")
    image = read(tmp_path / "a.nd2")
    assert (image.format, image.axes, image.channels) == ("ND2", "TZCYX", ("DAPI", "GFP"))
    assert image.pixel_size == {"z": 2.0, "y": 0.65, "x": 0.325}
    assert image.warnings == ["2 more of axis P are not read"]
    plane = image.select(time=1, z=2).planar()
    assert asked == []
    for top in (0, 5):
        np.testing.assert_array_equal(plane.region(top, top + 5, 3, 30), pixels[1, 0, 2, :, top : top + 5, 3:])
    assert asked == [np.ravel_multi_index((1, 0, 2), (2, 3, 4))]


def time_loop(asked: float, average: float) -> structures.TimeLoop:
    """What the real reader tells of a series, in ms."""
    period = structures.PeriodDiff(avg=average)
    return structures.TimeLoop(4, 0, structures.TimeLoopParams(0, asked, 4 * asked, period))


def phases(number: int) -> structures.NETimeLoop:
    """Describe a series of several phases, each with its own period."""
    period = structures.Period(0, 2000, 8000, structures.PeriodDiff(avg=2500), count=4)
    return structures.NETimeLoop(4 * number, 0, structures.NETimeLoopParams([period] * number))


@pytest.mark.parametrize(
    ("loops", "expected"),
    [
        ([structures.ZStackLoop(3, 0, None), time_loop(asked=2000, average=2500)], 2.5),
        ([time_loop(asked=2000, average=0)], 2.0),
        ([time_loop(asked=0, average=0)], None),
        ([phases(1)], 2.5),
        ([phases(2)], None),
        ([], None),
    ],
)
def test_nd2_times(tmp_path, nd2_of, loops, expected):
    (tmp_path / "a.nd2").write_bytes(b"\xda\xce\xbe\n" + b"\0" * 40)
    nd2_of(numbers(4, 20, 30), "TYX", loops)
    assert read(tmp_path / "a.nd2").time_step == expected


def test_nd2_colours(tmp_path, nd2_of):
    (tmp_path / "a.nd2").write_bytes(b"\xda\xce\xbe\n" + b"\0" * 40)
    pixels = numbers(20, 30, 3)
    nd2_of(pixels, "YXS")
    image = read(tmp_path / "a.nd2")
    assert (image.axes, image.rgb) == ("YXC", True)
    np.testing.assert_array_equal(image.data[...], pixels)


# --- all ----------------------------------------------------------------------------------------------------------

STARTS = {"czi": b"ZISRAWFILE", "nd2": b"\xda\xce\xbe\n", "lif": b"\x70\0\0\0\x05\0\0\0\x2a"}


@pytest.mark.parametrize(("suffix", "package"), [("czi", "czifile"), ("nd2", "nd2"), ("lif", "liffile")])
def test_a_missing_reader_names_the_extra(tmp_path, monkeypatch, suffix, package):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(STARTS[suffix].ljust(64, b"\0"))
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == package:
            raise ModuleNotFoundError(f"No module named '{package}'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(AbbeError, match=rf"a\.{suffix}: .*{package}.*pip install 'abbe\[formats\]'"):
        read(path)


def test_files_are_known_by_their_first_bytes():
    for suffix, start in STARTS.items():
        assert microscope_of(Path("a.tif"), start.ljust(32, b"\0")) == suffix.upper()
    jpeg2000 = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
    assert microscope_of(Path("a.ND2"), jpeg2000) == "ND2"
    assert microscope_of(Path("a.jp2"), jpeg2000) == ""
    assert microscope_of(Path("a"), b"p\0\0\0 text") == microscope_of(Path("a"), b"") == ""
