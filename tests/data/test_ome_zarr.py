"""What other programs write as OME-Zarr is read, lazily; what is no image says where images are."""

from __future__ import annotations

import functools
import http.server
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import ome_zarr.writer
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import FsspecStore

from abbe.data.ome_zarr import is_url, is_zarr, local_path
from abbe.data.read import read
from abbe.errors import AbbeError

TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}


def multiscale(axes: str, scale: list[float] | None = None, unit: str | None = "micrometer") -> dict[str, Any]:
    stated = [
        {"name": axis, "type": TYPES[axis]} | ({"unit": unit} if TYPES[axis] == "space" and unit else {})
        for axis in axes
    ]
    transforms = [{"type": "scale", "scale": scale or [1.0] * len(axes)}]
    return {"axes": stated, "datasets": [{"path": "0", "coordinateTransformations": transforms}]}


def write(
    store: Any, pixels: np.ndarray, entry: dict[str, Any], version: str = "0.5", omero: Any = None, **options: Any
) -> Any:
    """Write one level with zarr alone."""
    group = zarr.open_group(store, mode="w", zarr_format=3 if version == "0.5" else 2)
    array = group.create_array("0", shape=pixels.shape, dtype=pixels.dtype, **options)
    array[...] = pixels
    extra = {"omero": omero} if omero else {}
    if version == "0.5":
        group.attrs["ome"] = {"version": version, "multiscales": [entry], **extra}
    else:
        group.attrs.update({"multiscales": [{"version": version, **entry}], **extra})
    return store


def numbers(shape: tuple[int, ...], dtype: str = "u2", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


# --- images -------------------------------------------------------------------------------------------------------


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    axes = "".join(axis for axis in "tczyx" if axis in "yx" or draw(st.booleans()))
    shape = tuple(draw(st.integers(1, 3 if axis in "tcz" else 40)) for axis in axes)
    chunks = tuple(draw(st.integers(1, extent)) for extent in shape)
    version = draw(st.sampled_from(["0.4", "0.5"]))
    options: dict[str, Any] = {"chunks": chunks}
    if version == "0.5" and draw(st.booleans()):
        options["shards"] = tuple(chunk * draw(st.integers(1, 3)) for chunk in chunks)
    dtype = draw(st.sampled_from(["u1", "<u2", ">u2", "<f4", ">f4", "i4", "?"]))
    return {"axes": axes, "shape": shape, "dtype": dtype, "version": version, "options": options}


@settings(deadline=None, max_examples=30)
@given(layout=layouts(), data=st.data())
def test_any_layout_reads_back_and_so_does_any_region(tmp_path_factory, layout, data):
    pixels = numbers(layout["shape"], layout["dtype"])
    path = tmp_path_factory.mktemp("zarr") / "a.ome.zarr"
    write(path, pixels, multiscale(layout["axes"]), layout["version"], **layout["options"])
    image = read(path)
    assert (image.axes, image.format) == (layout["axes"].upper(), f"OME-Zarr {layout['version']}")
    assert image.dtype == pixels.dtype.newbyteorder("=")
    region = tuple(slice(*sorted(data.draw(st.tuples(*[st.integers(0, extent)] * 2)))) for extent in pixels.shape)
    np.testing.assert_array_equal(image.data[region], pixels[region])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_scales_multiply_and_become_micrometres(tmp_path, version):
    entry = multiscale("czyx", [1, 1000, 325, 650], "nanometer")
    entry["coordinateTransformations"] = [{"type": "scale", "scale": [1, 2, 2, 1]}]
    omero = {"channels": [{"label": "DAPI"}, {"label": "GFP"}]}
    image = read(write(tmp_path / "a.zarr", numbers((2, 3, 8, 9)), entry, version, omero))
    assert image.pixel_size == pytest.approx({"z": 2.0, "y": 0.65, "x": 0.65})
    assert image.channels == ("DAPI", "GFP")
    assert image.select(channel="gfp", z=1).planar().shape == (1, 8, 9)


def test_a_scale_without_a_unit_is_no_pixel_size(tmp_path):
    image = read(write(tmp_path / "a.zarr", numbers((8, 9)), multiscale("yx", [0.5, 0.5], None)))
    assert image.pixel_size == {}
    assert any("no unit" in warning for warning in image.warnings)
    assert read(write(tmp_path / "b.zarr", numbers((8, 9)), multiscale("yx", None, None))).warnings == []


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        (None, (1, 2, 3, 8, 9), "TCZYX"),  # 0.1 and 0.2 have five axes, always in this order
        (["c", "y", "x"], (2, 8, 9), "CYX"),  # 0.3
        ([{"name": "ch", "type": "channel"}, {"name": "v", "type": "space"}, {"type": "space"}], (2, 8, 9), "CYX"),
        ([{"name": "phase", "type": "custom"}, {"name": "y", "type": "space"}, "x"], (2, 8, 9), "QYX"),
        (["y", "x"], (2, 8, 9), "QYX"),  # fewer names than axes
        (["y", "y", "x"], (2, 8, 9), "QYX"),
    ],
)
def test_axes_of_every_version(tmp_path, axes, shape, expected):
    entry = {"datasets": [{"path": "0"}]} | ({"axes": axes} if axes else {})
    path = write(tmp_path / "a.zarr", numbers(shape), entry, "0.3")
    assert read(path).axes == expected
    if "Q" in expected:
        with pytest.raises(AbbeError, match=r"a\.zarr: 2 pages without axes .* ZYX"):
            read(path).planar()
        assert read(path, axes="ZYX").axes == "ZYX"


def test_red_green_and_blue_are_colours(tmp_path):
    omero = {"channels": [{"label": name} for name in ("Red", "Green", "Blue")]}
    assert read(write(tmp_path / "a.zarr", numbers((3, 8, 9), "u1"), multiscale("cyx"), omero=omero)).rgb
    assert not read(write(tmp_path / "b.zarr", numbers((3, 8, 9), "u2"), multiscale("cyx"), omero=omero)).rgb


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_images_of_ome_zarr_read_back(tmp_path, zarr_format):
    pixels = numbers((2, 70, 90))
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="w", zarr_format=zarr_format)
    ome_zarr.writer.write_image(pixels, group, axes="cyx")
    image = read(tmp_path / "a.ome.zarr")
    assert image.axes == "CYX"
    np.testing.assert_array_equal(image.data[...], pixels)


def test_plain_arrays_take_the_axes_that_they_name(tmp_path):
    pixels = numbers((2, 8, 9))
    for name, names in (("a", ("z", "y", "x")), ("b", None)):
        array = zarr.create_array(tmp_path / name, shape=pixels.shape, dtype="u2", dimension_names=names)
        array[...] = pixels
    assert (read(tmp_path / "a").axes, read(tmp_path / "a").format) == ("ZYX", "Zarr")
    assert read(tmp_path / "b").axes == "QYX"
    assert read(tmp_path / "b", axes="cyx").select(channel=1).planar().region(0, 8, 0, 9).tolist() == [
        pixels[1].tolist()
    ]


# --- laziness and damage ------------------------------------------------------------------------------------------


def test_only_the_chunks_of_a_region_are_read(tmp_path):
    pixels = numbers((40, 40)) + 1
    write(tmp_path / "a.zarr", pixels, multiscale("yx"), chunks=(20, 20))
    (tmp_path / "a.zarr" / "0" / "c" / "1" / "1").write_bytes(b"no chunk")
    image = read(tmp_path / "a.zarr").planar()
    np.testing.assert_array_equal(image.region(0, 20, 0, 40)[0], pixels[:20])
    with pytest.raises(AbbeError, match=r"a\.zarr: a chunk cannot be read"):
        image.region(19, 21, 19, 21)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"zarr_format": 3, "node_type": "group", "attributes": 7}', "\x00"])
def test_damaged_metadata_are_told(tmp_path, text):
    path = write(tmp_path / "a.zarr", numbers((8, 9)), multiscale("yx"))
    (path / "zarr.json").write_text(text)
    with pytest.raises(AbbeError, match=r"a\.zarr: "):
        read(path)


KEYS = st.sampled_from(["axes", "datasets", "path", "name", "type", "scale", "coordinateTransformations"])


@settings(deadline=None, max_examples=25)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    )
)
def test_odd_metadata_open_or_are_told(tmp_path_factory, odd):
    entry = multiscale("yx")
    path = write(tmp_path_factory.mktemp("zarr") / "a.zarr", numbers((8, 9)), entry)
    for broken in ([odd], [entry | {"axes": odd}], [entry | {"coordinateTransformations": odd}], odd):
        attributes = {"ome": {"multiscales": broken, "omero": odd, "labels": odd, "well": odd}}
        group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        (path / "zarr.json").write_text(json.dumps(group))
        with suppress(AbbeError):
            assert read(path).shape == (8, 9)


# --- what is no image ---------------------------------------------------------------------------------------------


def group_of(path: Path, ome: dict[str, Any]) -> Path:
    zarr.open_group(path, mode="w").attrs["ome"] = {"version": "0.5", **ome}
    return path


def test_a_plate_says_how_to_name_its_fields(tmp_path):
    plate = group_of(tmp_path / "p.zarr", {"plate": {"wells": [{"path": "A/1"}, {"path": "A/2"}]}})
    with pytest.raises(AbbeError, match=r"p\.zarr: a plate of 2 wells.* p\.zarr/A/1/0, .*'p\.zarr/\*/\*/\*'"):
        read(plate)
    group_of(plate / "A" / "1", {"well": {"images": [{"path": "f3"}, {"path": "f4"}]}})
    with pytest.raises(AbbeError, match=r"such as p\.zarr/A/1/f3"):
        read(plate)
    with pytest.raises(AbbeError, match=r"p\.zarr/A/1: a well of 2 fields.* p\.zarr/A/1/f3"):
        read(plate / "A" / "1")
    write(plate / "A" / "1" / "f3", numbers((8, 9)), multiscale("yx"))
    assert read(plate / "A" / "1" / "f3").name == "p.zarr/A/1/f3"


def test_of_several_series_the_first_is_read(tmp_path):
    path = group_of(tmp_path / "b.zarr", {"bioformats2raw.layout": 3})
    with pytest.raises(AbbeError, match="has no image 0"):
        read(path)
    write(path / "0", numbers((8, 9)), multiscale("yx"))
    assert (read(path).shape, read(path).warnings) == ((8, 9), [])
    write(path / "second", numbers((5, 6)), multiscale("yx"))
    group_of(path / "OME", {"series": ["second", "0"]})
    assert read(path).shape == (5, 6)
    assert read(path).warnings == ["1 more image series in the file are not read"]


def test_groups_without_an_image_say_what_they_hold(tmp_path):
    labels = group_of(tmp_path / "a.zarr" / "labels", {"labels": ["nuclei"]})
    with pytest.raises(AbbeError, match=r"such as a\.zarr/labels/nuclei"):
        read(labels)
    zarr.open_group(tmp_path / "g.zarr", mode="w").create_array("pixels", shape=(2, 3), dtype="u1")
    with pytest.raises(AbbeError, match=r"g\.zarr: a Zarr group without OME metadata.* such as g\.zarr/pixels"):
        read(tmp_path / "g.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(AbbeError, match=r"empty\.zarr: no Zarr in this folder"):
        read(tmp_path / "empty.zarr")
    (tmp_path / "folder").mkdir()
    with pytest.raises(AbbeError, match=r"is a folder; expected an image file or an OME-Zarr"):
        read(tmp_path / "folder")
    path = write(tmp_path / "gone.zarr", numbers((8, 9)), multiscale("yx") | {"datasets": [{"path": "7"}]})
    with pytest.raises(AbbeError, match=r"gone\.zarr: its OME-Zarr metadata lack or misname '7'"):
        read(path)


# --- addresses ----------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """A web server over the test's folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_web_server_is_read(tmp_path, served, version):
    pixels = numbers((2, 30, 40))
    write(tmp_path / "a b.zarr", pixels, multiscale("cyx", [1, 0.5, 0.5]), version, chunks=(1, 10, 10))
    image = read(f"{served}/a%20b.zarr/")
    assert image.pixel_size == {"y": 0.5, "x": 0.5}
    assert image.path is None
    np.testing.assert_array_equal(image.planar().region(5, 25, 5, 35), pixels[:, 5:25, 5:35])
    with pytest.raises(AbbeError, match=r"b\.zarr: no Zarr at this address"):
        read(f"{served}/b.zarr")


def test_fsspec_stores_and_file_addresses_are_read(tmp_path):
    pixels, address = numbers((30, 40)), f"memory://{uuid.uuid4().hex}/a.zarr"
    write(FsspecStore.from_url(address), pixels, multiscale("yx"))
    np.testing.assert_array_equal(read(address).data[...], pixels)
    write(tmp_path / "ü b.zarr", pixels, multiscale("yx"))
    image = read((tmp_path / "ü b.zarr").as_uri())
    np.testing.assert_array_equal(image.data[...], pixels)
    assert image.path == tmp_path / "ü b.zarr"


def test_what_addresses_need_is_named(monkeypatch):
    with pytest.raises(AbbeError, match=r"a\.zarr: xyz:// is not known"):
        read("xyz://bucket/a.zarr")
    with pytest.raises(AbbeError, match=r"a\.zarr: cannot be read .* is the address right"):
        read("http://127.0.0.1:9/a.zarr")

    def missing(*_: Any, **__: Any) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    monkeypatch.setattr(fsspec, "url_to_fs", missing, raising=False)
    with pytest.raises(AbbeError, match=r"s3:// needs more packages .*pip install 'abbe\[remote\]'"):
        read("s3://bucket/a.zarr")


def test_addresses_and_paths_are_told_apart(tmp_path):
    assert all(map(is_url, ("s3://b/a.zarr", "https://h/a.zarr", "memory://a")))
    assert not any(map(is_url, ("C:\\a.zarr", "C:/a.zarr", "a.zarr", "/a://b", Path("a"))))
    assert local_path("a/b") == "a/b"
    assert local_path("s3://b/a.zarr") == "s3://b/a.zarr"
    (tmp_path / "v2").mkdir()
    assert not is_zarr(tmp_path / "v2")
    (tmp_path / "v2" / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
    assert is_zarr(tmp_path / "v2")
    assert not is_zarr(tmp_path / "v2" / ".zgroup")
