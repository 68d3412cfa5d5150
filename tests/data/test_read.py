"""What is read equals what was written, lazily; what cannot be read says why."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from abbe.data.axes import Deferred
from abbe.data.image import describe
from abbe.data.kept import Kept
from abbe.data.read import read
from abbe.data.tiff import TiffPages
from abbe.errors import AbbeError

DTYPES = ["?", "u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"]


def values(shape: tuple[int, ...], dtype: str = "u2", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    low, high = (0, 2) if dtype == "?" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    return rng.integers(low, high, shape, endpoint=dtype != "?").astype(dtype)


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


# --- TIFF ---------------------------------------------------------------------------------------------------------


@st.composite
def layouts(draw):
    """A type, axes with extents, and a way to store them."""
    dtype = draw(st.sampled_from(DTYPES))
    axes = draw(st.sampled_from(["YX", "ZYX", "CYX", "TZCYX"]))
    shape = tuple(draw(st.integers(1, 40 if axis in "YX" else 3)) for axis in axes)
    compression = draw(st.sampled_from([None, "zlib", "lzw", "zstd", "packbits"]))
    options = {"compression": compression} if compression and dtype != "?" else {}
    stored = draw(st.sampled_from(["strips", "one strip", "tiles", "contiguous"]))
    if stored == "strips":
        options["rowsperstrip"] = draw(st.integers(1, 9))
    elif stored == "tiles" and dtype != "?":
        options["tile"] = (16, 32)
    return dtype, axes, shape, options


@given(layouts(), st.sampled_from("<>"), st.booleans(), st.data())
@settings(deadline=None, max_examples=40)
def test_any_tiff_reads_back_and_so_does_any_region(tmp_path_factory, layout, byteorder, ome, data):
    dtype, axes, shape, options = layout
    path = tmp_path_factory.mktemp("tiff") / "a.tif"
    array = values(shape, dtype)
    ome = ome and dtype != "f2"
    tifffile.imwrite(
        path, array, byteorder=byteorder, ome=ome, photometric="minisblack", metadata={"axes": axes}, **options
    )
    image = read(path)
    np.testing.assert_array_equal(np.asarray(image.data).squeeze(), array.squeeze())
    assert image.dtype == np.dtype(dtype)
    plane = image.select(time=0, z=0).planar()
    expected = array.reshape([shape[axes.index(a)] if a in axes else 1 for a in "TZCYX"])[0, 0]
    assert plane.axes == "CYX"
    y0, x0 = (data.draw(st.integers(0, extent)) for extent in expected.shape[1:])
    y1 = data.draw(st.integers(y0, expected.shape[1]))
    x1 = data.draw(st.integers(x0, expected.shape[2]))
    region = plane.region(y0, y1, x0, x1)
    np.testing.assert_array_equal(region, expected[:, y0:y1, x0:x1])
    assert region.dtype == np.dtype(dtype)
    assert region.flags.writeable
    assert region.flags.c_contiguous


@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize(("dtype", "samples"), [("u1", 3), ("u2", 3), ("u1", 4)])
def test_colours_are_channels_wherever_they_lie(tmp_path, planarconfig, tile, dtype, samples):
    pixels = values((20, 30, samples), dtype)
    stored = pixels if planarconfig == "contig" else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    extra = {"extrasamples": ["unassalpha"]} if samples == 4 else {}
    tifffile.imwrite(
        tmp_path / "c.tif", stored, photometric="rgb", planarconfig=planarconfig, tile=tile, compression="zlib", **extra
    )
    image = read(tmp_path / "c.tif")
    assert image.axes == ("YXC" if planarconfig == "contig" else "CYX")
    assert (image.rgb, image.channels, image.n_channels) == (True, ("red", "green", "blue"), 3)
    np.testing.assert_array_equal(image.planar().region(3, 20, 5, 29), pixels[3:20, 5:29, :3].transpose(2, 0, 1))


def test_many_samples_are_channels_and_not_colours(tmp_path):
    pixels = values((5, 20, 30))
    tifffile.imwrite(tmp_path / "s.tif", pixels, photometric="minisblack", planarconfig="separate")
    image = read(tmp_path / "s.tif")
    assert (image.axes, image.rgb, image.channels) == ("CYX", False, ())
    pixels = values((300, 4, 5), "u1")
    tifffile.imwrite(tmp_path / "m.tif", pixels, photometric="minisblack", metadata={"axes": "CYX"})
    np.testing.assert_array_equal(read(tmp_path / "m.tif", axes="CYX").planar().region(0, 4, 0, 5), pixels)


def test_transparency_of_a_grey_tiff_is_dropped(tmp_path):
    pixels = values((20, 30, 2), "u1")
    tifffile.imwrite(
        tmp_path / "la.tif", pixels, photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"]
    )
    np.testing.assert_array_equal(read(tmp_path / "la.tif").planar().region(0, 20, 0, 30), pixels[None, ..., 0])


def test_jpeg_in_tiff_decodes_to_colours(tmp_path):
    rows, columns = np.mgrid[:64, :64]
    pixels = np.stack([rows * 3, columns * 3, rows + columns], -1).astype("u1")
    PIL.Image.fromarray(pixels).save(tmp_path / "j.tif", compression="jpeg")
    image = read(tmp_path / "j.tif")
    assert isinstance(image.data, TiffPages)
    assert image.rgb
    expected = np.asarray(PIL.Image.open(tmp_path / "j.tif")).transpose(2, 0, 1)
    region = image.planar().region(20, 50, 10, 64)
    np.testing.assert_allclose(region.astype(int), expected[:, 20:50, 10:], atol=2)


def test_imagej_hyperstack_with_scale(tmp_path):
    stack = values((3, 4, 2, 20, 30))
    tifffile.imwrite(
        tmp_path / "ij.tif",
        stack,
        imagej=True,
        resolution=(1 / 0.3, 1 / 0.3),
        metadata={"axes": "TZCYX", "unit": "\\u00B5m", "spacing": 2.0},
    )
    image = read(tmp_path / "ij.tif")
    assert (image.format, image.axes, image.shape) == ("ImageJ TIFF", "TZCYX", stack.shape)
    assert image.pixel_size == pytest.approx({"z": 2.0, "y": 0.3, "x": 0.3}, rel=1e-5)
    one = image.select(time=2, z=1).planar()
    np.testing.assert_array_equal(one.region(0, 20, 0, 30), stack[2, 1])
    assert set(one.pixel_size) == {"y", "x"}
    np.testing.assert_array_equal(image.select(time=2, z=1, channel=1).planar().region(0, 20, 0, 30)[0], stack[2, 1, 1])


def test_ome_channels_and_scale(tmp_path):
    metadata = {
        "axes": "CYX",
        "PhysicalSizeX": 325,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.325,
        "Channel": {"Name": ["DAPI", "GFP"]},
    }
    pixels = values((2, 20, 30))
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, metadata=metadata)
    image = read(tmp_path / "a.ome.tif")
    assert (image.format, image.channels) == ("OME-TIFF", ("DAPI", "GFP"))
    assert image.pixel_size == pytest.approx({"y": 0.325, "x": 0.325})
    for asked in ("gfp", 1, "1"):
        chosen = image.select(channel=asked)
        assert chosen.channels == ("GFP",)
        np.testing.assert_array_equal(chosen.planar().region(0, 20, 0, 30)[0], pixels[1])
    with pytest.raises(AbbeError, match=r"--channel RFP .* 2 channels \(0 to 1\) named DAPI, GFP"):
        image.select(channel="RFP")


def test_a_pyramid_is_read_in_full_resolution(tmp_path):
    pixels = values((128, 96))
    with tifffile.TiffWriter(tmp_path / "p.ome.tif") as tiff:
        tiff.write(pixels, subifds=1, tile=(32, 32), compression="zlib", metadata={"axes": "YX"})
        tiff.write(pixels[::2, ::2], subfiletype=1, tile=(32, 32), compression="zlib")
    np.testing.assert_array_equal(
        read(tmp_path / "p.ome.tif").planar().region(30, 100, 20, 96)[0], pixels[30:100, 20:96]
    )


def test_printer_resolution_is_no_pixel_size(tmp_path):
    tifffile.imwrite(tmp_path / "d.tif", values((8, 9)), resolution=(72, 72), resolutionunit="INCH")
    assert read(tmp_path / "d.tif").pixel_size == {}
    tifffile.imwrite(tmp_path / "m.tif", values((8, 9)), resolution=(2e4, 2e4), resolutionunit="CENTIMETER")
    assert read(tmp_path / "m.tif").pixel_size == pytest.approx({"y": 0.5, "x": 0.5})


def test_tiff_palettes_are_expanded_but_not_those_of_imagej(tmp_path):
    indices, table = values((20, 30), "u1"), values((3, 256), "u2")
    tifffile.imwrite(tmp_path / "p.tif", indices, photometric="palette", colormap=table)
    image = read(tmp_path / "p.tif")
    assert (image.axes, image.rgb, image.dtype) == ("YXC", True, np.uint8)
    expected = (table >> 8).astype("u1")[:, indices]
    np.testing.assert_array_equal(image.planar().region(2, 9, 3, 8), expected[:, 2:9, 3:8])
    tifffile.imwrite(tmp_path / "ij.tif", indices, imagej=True, colormap=table)
    np.testing.assert_array_equal(read(tmp_path / "ij.tif").planar().region(0, 20, 0, 30)[0], indices)


def test_one_bit_tiff(tmp_path):
    mask = values((20, 30), "?")
    PIL.Image.fromarray(mask).save(tmp_path / "b.tif", compression="group4")
    image = read(tmp_path / "b.tif")
    assert image.dtype == bool
    np.testing.assert_array_equal(image.planar().region(5, 15, 3, 30)[0], mask[5:15, 3:])


def test_an_unnamed_stack_asks_how_to_read_it(tmp_path):
    stack = values((7, 20, 30))
    tifffile.imwrite(tmp_path / "q.tif", stack, photometric="minisblack")
    image = read(tmp_path / "q.tif")
    assert describe(image)["readings"] == ["ZYX", "TYX", "CYX"]
    with pytest.raises(AbbeError, match=r"q\.tif: 7 pages without axes .* say --axes ZYX, TYX or CYX"):
        image.planar()
    np.testing.assert_array_equal(read(tmp_path / "q.tif", axes="CYX").planar().region(0, 20, 0, 30), stack)
    np.testing.assert_array_equal(
        read(tmp_path / "q.tif", axes="ZYX").select(z=3).planar().region(0, 20, 0, 30)[0], stack[3]
    )


def test_a_region_decodes_only_its_tiles(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "t.tif", values((320, 320)), tile=(32, 32), compression="zlib")
    image = read(tmp_path / "t.tif").planar()
    decoded = []
    put = Kept.put
    monkeypatch.setattr(Kept, "put", lambda self, key, segment: (decoded.append(key), put(self, key, segment)))
    image.region(40, 60, 40, 90)
    assert sorted(number for _, number in decoded) == [11, 12]
    image.region(40, 60, 40, 90)
    assert len(decoded) == 2


def test_uncompressed_tiff_and_npy_are_memory_maps(tmp_path):
    tifffile.imwrite(tmp_path / "m.tif", values((50, 60)))
    np.save(tmp_path / "m.npy", values((50, 60)))
    for name in ("m.tif", "m.npy"):
        assert isinstance(read(tmp_path / name).data, np.memmap)


def test_threads_may_read_one_image(tmp_path):
    stack = values((6, 200, 200))
    tifffile.imwrite(tmp_path / "t.tif", stack, photometric="minisblack", tile=(32, 32), compression="zlib")
    image = read(tmp_path / "t.tif", axes="CYX").planar()
    wrong = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(20):
            y, x = rng.integers(0, 150, 2).tolist()
            if (image.region(y, y + 50, x, x + 50) != stack[:, y : y + 50, x : x + 50]).any():
                wrong.append((y, x))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_open_images_hold_no_file_handles(tmp_path):
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("counts file descriptors through /proc")
    tifffile.imwrite(tmp_path / "t.tif", values((64, 64)), tile=(32, 32), compression="zlib")
    PIL.Image.fromarray(values((64, 64), "u1")).save(tmp_path / "p.png")
    before = len(list(descriptors.iterdir()))
    images = [read(tmp_path / name) for name in ("t.tif", "p.png") for _ in range(20)]
    for image in images:
        image.planar().region(0, 40, 0, 40)
    assert len(list(descriptors.iterdir())) == before


# --- pictures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "dtype", "shape"),
    [("1", "?", ()), ("L", "u1", ()), ("LA", "u1", ()), ("RGB", "u1", (3,)), ("RGBA", "u1", (3,)), ("P", "u1", (3,)),
     ("I;16", "u2", ())],
)  # fmt: skip
def test_png_of_every_mode(tmp_path, mode, dtype, shape):
    pixels = values((20, 30, 3), "u1")
    if mode == "I;16":
        picture = PIL.Image.fromarray(values((20, 30), "u2"))
    else:
        picture = PIL.Image.fromarray(pixels).convert(mode)
    picture.save(tmp_path / "a.png")
    image = read(tmp_path / "a.png")
    expected = picture.convert("RGB") if shape else picture.convert("L") if mode == "LA" else picture
    assert (image.format, image.dtype, image.rgb) == ("PNG", np.dtype(dtype), bool(shape))
    np.testing.assert_array_equal(np.asarray(image.data), np.asarray(expected))
    region = image.planar().region(4, 20, 6, 30)
    assert region.shape == (3 if shape else 1, 16, 24)


def test_a_palette_of_greys_is_grey(tmp_path):
    picture = PIL.Image.fromarray(values((20, 30), "u1") // 64).convert("P")
    picture.putpalette([grey for level in (0, 60, 200, 255) for grey in (level,) * 3])
    picture.save(tmp_path / "g.png")
    image = read(tmp_path / "g.png")
    assert (image.axes, image.rgb) == ("YX", False)
    assert set(np.unique(np.asarray(image.data))) <= {0, 60, 200, 255}


@pytest.mark.parametrize("samples", [2, 3, 4])
def test_sixteen_bits_per_colour_stay_sixteen(tmp_path, samples):
    pixels = values((20, 30, samples), "u2")
    (tmp_path / "d.png").write_bytes(imagecodecs.png_encode(pixels))
    image = read(tmp_path / "d.png")
    assert (image.dtype, image.rgb) == (np.uint16, samples > 2)
    kept = pixels[..., :3] if samples > 2 else pixels[..., 0]
    np.testing.assert_array_equal(np.asarray(image.data), kept)


@pytest.mark.parametrize(("suffix", "kind"), [(".bmp", "BMP"), (".jpg", "JPEG"), (".gif", "GIF"), (".webp", "WEBP")])
def test_other_pictures(tmp_path, suffix, kind):
    PIL.Image.fromarray(values((20, 30, 3), "u1")).save(tmp_path / f"a{suffix}")
    image = read(tmp_path / f"a{suffix}")
    assert (image.format, image.rgb, image.planar().shape) == (kind, True, (3, 20, 30))
    expected = np.asarray(PIL.Image.open(tmp_path / f"a{suffix}").convert("RGB"))
    np.testing.assert_array_equal(np.asarray(image.data), expected)


def test_pictures_are_not_loaded_on_opening(tmp_path, monkeypatch):
    PIL.Image.fromarray(values((20, 30), "u1")).save(tmp_path / "a.png")
    monkeypatch.setattr(PIL.Image.Image, "load", lambda self: pytest.fail("loaded"))
    assert isinstance(read(tmp_path / "a.png").data, Deferred)


def test_png_resolution_is_no_pixel_size(tmp_path):
    PIL.Image.fromarray(values((20, 30), "u1")).save(tmp_path / "a.png", dpi=(50_000, 50_000))
    assert read(tmp_path / "a.png").pixel_size == {}


def test_huge_pictures_are_welcome_and_pillows_limit_stays(tmp_path, monkeypatch):
    PIL.Image.fromarray(np.zeros((100, 100), "u1")).save(tmp_path / "a.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    assert read(tmp_path / "a.png").planar().region(0, 100, 0, 100).shape == (1, 100, 100)
    assert PIL.Image.MAX_IMAGE_PIXELS == 100


def test_the_suffix_does_not_matter(tmp_path):
    PIL.Image.fromarray(values((20, 30), "u1")).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", tmp_path / "ü b.tif")
    assert (read(tmp_path / "ü b.tif").format, read(tmp_path / "ü b.tif").name) == ("PNG", "ü b.tif")


# --- NPY and arrays -----------------------------------------------------------------------------------------------


@given(st.sampled_from(DTYPES), st.sampled_from(["C", "F"]), st.sampled_from("<>"))
@settings(deadline=None, max_examples=20)
def test_npy_reads_back(tmp_path_factory, dtype, order, byteorder):
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    array = np.asarray(values((20, 30), dtype).astype(np.dtype(dtype).newbyteorder(byteorder)), order=order)
    np.save(path, array)
    region = read(path).planar().region(2, 19, 3, 30)
    np.testing.assert_array_equal(region[0], array[2:19, 3:])
    assert region.dtype.isnative


def test_arrays():
    grey = read(values((20, 30)))
    assert (grey.axes, grey.name, grey.path, grey.planar().shape) == ("YX", "array", None, (1, 20, 30))
    colour = values((20, 30, 4), "u1")
    image = read(colour)
    assert (image.axes, image.rgb, image.n_channels) == ("YXC", True, 3)
    np.testing.assert_array_equal(image.planar().region(0, 20, 0, 30), colour[..., :3].transpose(2, 0, 1))
    assert read(values((3, 20, 30)), axes="cyx").rgb is False
    with pytest.raises(AbbeError, match="pass axes= ZYX, TYX or CYX"):
        read(values((7, 20, 30)))
    with pytest.raises(AbbeError, match="axes 'YX' name 2 axes, but the data has 3"):
        read(values((7, 20, 30)), axes="YX")


def test_any_lazy_array_will_do():
    class Lazy:
        shape, dtype = (5, 1000, 1000), np.dtype("f4")

        def __getitem__(self, key):
            return np.broadcast_to(np.arange(5, dtype="f4")[:, None, None], self.shape)[key]

    image = read(Lazy(), axes="CYX").planar()
    np.testing.assert_array_equal(image.region(5, 7, 8, 11)[:, 0, 0], np.arange(5))


# --- choices and errors -------------------------------------------------------------------------------------------


def test_a_stack_needs_a_choice():
    image = read(values((3, 2, 4, 20, 30)), axes="TCZYX")
    with pytest.raises(
        AbbeError, match=r"5 axes TCZYX \(3 x 2 x 4 x 20 x 30\).*--time 0\.\.2 and --z 0\.\.3.*--channel"
    ):
        image.planar()
    with pytest.raises(AbbeError, match=r"--z 4 does not exist; the image has 4 z planes \(0 to 3\)"):
        image.select(z=4)
    with pytest.raises(AbbeError, match="--time -1 does not exist"):
        image.select(time=-1)
    assert image.select(time=1, z=1).planar().shape == (2, 20, 30)


def test_axes_of_extent_one_need_no_choice():
    image = read(values((1, 2, 1, 20, 30)), axes="TCZYX")
    assert image.planar().shape == (2, 20, 30)
    assert read(values((20, 30))).select(z=0, time=0, channel=0).planar().shape == (1, 20, 30)
    with pytest.raises(AbbeError, match="--z 1 does not exist"):
        read(values((20, 30))).select(z=1)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (2000, 3), (1, 7)])
def test_odd_shapes(tmp_path, shape):
    pixels = values(shape)
    tifffile.imwrite(tmp_path / "o.tif", pixels)
    np.testing.assert_array_equal(read(tmp_path / "o.tif").planar().region(0, shape[0], 0, shape[1])[0], pixels)
    np.testing.assert_array_equal(read(pixels).planar().region(0, shape[0], 0, shape[1])[0], pixels)


def test_regions_outside_are_refused():
    image = read(values((20, 30))).planar()
    for bounds in ((0, 21, 0, 30), (-1, 5, 0, 5), (5, 4, 0, 5)):
        with pytest.raises(ValueError, match="outside"):
            image.region(*bounds)
    with pytest.raises(ValueError, match="planar"):
        read(values((20, 30))).region(0, 1, 0, 1)


def test_files_that_are_no_images(tmp_path):
    (tmp_path / "empty.tif").touch()
    (tmp_path / "text.tif").write_text("hello")
    (tmp_path / "text.csv").write_text("a,b\n1,2\n")
    for name, words in (
        ("empty.tif", r"empty\.tif: is empty \(0 bytes\)"),
        ("text.tif", r"text\.tif: is not an image"),
        ("text.csv", r"text\.csv: is not an image"),
        ("none.tif", r"none\.tif: cannot be read \(no such file"),
        ("", "is a folder"),
    ):
        with pytest.raises(AbbeError, match=words):
            read(tmp_path / name)
    with pytest.raises(AbbeError, match="NoneType is no image"):
        read(None)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", values((8, 8)))
    (tmp_path / "a.tif").chmod(0)
    with pytest.raises(AbbeError, match=r"a\.tif: cannot be read \(permission denied"):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["contiguous", "stack", "imagej", "ome", "tiles", "strips"])
def test_a_cut_tiff_never_passes_for_a_whole_one(tmp_path, kind, share):
    options = {
        "contiguous": {},
        "stack": {"metadata": None, "photometric": "minisblack"},
        "imagej": {"imagej": True},
        "ome": {"ome": True, "metadata": {"axes": "ZYX"}},
        "tiles": {"tile": (32, 32), "compression": "zlib"},
        "strips": {"compression": "zlib", "rowsperstrip": 8, "photometric": "minisblack"},
    }[kind]
    stack = kind in ("stack", "imagej", "ome", "strips")
    tifffile.imwrite(tmp_path / "a.tif", values((5, 90, 70) if stack else (90, 70)), **options)
    cut(tmp_path / "a.tif", share)
    with pytest.raises(AbbeError, match=r"a\.tif: "):
        np.asarray(read(tmp_path / "a.tif").data)


def test_damage_inside_a_tiff_is_found_when_it_is_read(tmp_path):
    pixels = values((64, 64))
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        offset = tiff.pages[0].dataoffsets[3]
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[offset : offset + 40] = bytes(40)
    (tmp_path / "a.tif").write_bytes(data)
    image = read(tmp_path / "a.tif").planar()
    np.testing.assert_array_equal(image.region(0, 32, 0, 64)[0], pixels[:32])
    with pytest.raises(AbbeError, match=r"a\.tif: segment 3 of page 0 is damaged"):
        image.region(0, 64, 0, 64)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "NPY"])
def test_cut_pictures(tmp_path, kind):
    buffer = io.BytesIO()
    if kind == "NPY":
        np.save(buffer, values((90, 70)))
    else:
        PIL.Image.fromarray(values((90, 70, 3), "u1")).save(buffer, kind)
    (tmp_path / "a.bin").write_bytes(buffer.getvalue())
    cut(tmp_path / "a.bin", 0.5)
    with pytest.raises(AbbeError, match=r"a\.bin: "):
        np.asarray(read(tmp_path / "a.bin").data)


def test_a_cut_png_of_sixteen_bit_colours(tmp_path):
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(values((90, 70, 3))))
    cut(tmp_path / "a.png", 0.5)
    with pytest.raises(AbbeError, match=r"a\.png: is damaged or cut off"):
        np.asarray(read(tmp_path / "a.png").data)


def test_colours_and_numbers_that_are_not_read(tmp_path):
    PIL.Image.fromarray(values((20, 30, 4), "u1"), "CMYK").save(tmp_path / "c.jpg")
    tifffile.imwrite(tmp_path / "c.tif", values((20, 30, 4), "u1"), photometric="separated")
    for name in ("c.jpg", "c.tif"):
        with pytest.raises(AbbeError, match=f"{name}: CMYK colours; expected grey or RGB"):
            read(tmp_path / name)
    np.save(tmp_path / "z.npy", np.zeros((3, 4), complex))
    tifffile.imwrite(tmp_path / "z.tif", np.zeros((3, 4), "c8"))
    for source in (np.zeros((3, 4), complex), tmp_path / "z.npy", tmp_path / "z.tif"):
        with pytest.raises(AbbeError, match=r"complex.* values; expected whole or real numbers"):
            read(source)
    np.save(tmp_path / "o.npy", np.array([[object()]]), allow_pickle=True)
    with pytest.raises(AbbeError, match=r"o\.npy: is not a readable NPY"):
        read(tmp_path / "o.npy")
    for array in (np.zeros(5), np.zeros(()), np.zeros((0, 5))):
        with pytest.raises(AbbeError, match="no plane of pixels"):
            read(array)


def test_an_animation_is_not_an_image(tmp_path):
    frames = [PIL.Image.fromarray(values((20, 30), "u1", seed)) for seed in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(AbbeError, match="3 frames"):
        read(tmp_path / "a.gif")


def test_further_series_are_told(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(values((20, 30)))
        tiff.write(values((9, 8)))
    assert read(tmp_path / "a.tif").warnings == ["1 more image series in the file are not read"]


def test_a_missing_file_of_a_set_is_no_black_plane(tmp_path):
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="30" SizeY="20" SizeC="2" SizeZ="1" '
        'SizeT="1">'
        '<Channel ID="a"/><Channel ID="b"/>'
        '<TiffData FirstC="0" IFD="0" PlaneCount="1"><UUID FileName="a.ome.tif">urn:uuid:1</UUID></TiffData>'
        '<TiffData FirstC="1" IFD="0" PlaneCount="1"><UUID FileName="b.ome.tif">urn:uuid:2</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    pixels = values((20, 30))
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, description=xml, metadata=None)
    image = read(tmp_path / "a.ome.tif")
    assert any("b.ome.tif" in warning for warning in image.warnings)
    np.testing.assert_array_equal(image.select(channel=0).planar().region(0, 20, 0, 30)[0], pixels)
    with pytest.raises(AbbeError, match="page 1 is missing"):
        image.planar().region(0, 20, 0, 30)


def test_description_is_plain():
    assert describe(read(values((20, 30, 3), "u1"))) == {
        "name": "array",
        "format": "array",
        "shape": [20, 30, 3],
        "axes": "YXC",
        "readings": [],
        "dtype": "uint8",
        "pixel_size": {},
        "channels": ["red", "green", "blue"],
        "rgb": True,
        "warnings": [],
    }
