"""What other programs write as OME-Zarr is read, lazily; what is no image says where images are."""

from __future__ import annotations

import functools
import http.server
import itertools
import json
import math
import pickle
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import fsspec
import numpy as np
import ome_zarr.writer
import pytest
import s3fs
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import FsspecStore

from abbe.data import kept as kept_module
from abbe.data.ome_zarr import ZarrArray, is_url, is_zarr, local_path
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


def test_numbers_that_cannot_be_are_told(tmp_path):
    """A chunk without pixels, and an image of which next to nothing is stored; few missing chunks are no lie."""
    pixels = numbers((40, 60))
    for name, keys, claim in (("a", ("chunk_grid", "configuration", "chunk_shape"), 0), ("b", ("shape",), 2**40)):
        array = zarr.create_array(tmp_path / f"{name}.zarr", shape=pixels.shape, dtype="u2", chunks=(20, 20))
        array[...] = pixels
        place = tmp_path / f"{name}.zarr" / "zarr.json"
        stated = json.loads(place.read_text())
        inner = stated
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]][0] = claim
        place.write_text(json.dumps(stated))
    with pytest.raises(AbbeError, match=r"a\.zarr: has damaged Zarr metadata"):
        read(tmp_path / "a.zarr")
    with pytest.raises(AbbeError, match=r"b\.zarr: its header claims 1099511627776 x 60 values"):
        read(tmp_path / "b.zarr")
    zarr.create_array(tmp_path / "c.zarr", shape=(100_000, 100_000), dtype="u2", chunks=(1024, 1024))
    assert read(tmp_path / "c.zarr").shape == (100_000, 100_000)


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


@pytest.mark.parametrize("shards", [None, (40, 60)])
def test_tiles_in_order_decode_each_chunk_once(tmp_path, monkeypatch, shards):
    """Tiles with margins, as the runner reads them: what two of them share is decoded once."""
    pixels = numbers((200, 300))
    path = write(tmp_path / "a.zarr", pixels, multiscale("yx"), chunks=(20, 30), shards=shards)
    decoded, read_box = [], ZarrArray._read

    def watched(self: ZarrArray, bounds: Any) -> np.ndarray:
        decoded.append(math.prod(stop - start for start, stop in bounds))
        return read_box(self, bounds)

    def read_tiles() -> int:
        decoded.clear()
        image = read(path).planar()
        for y, x in itertools.product(range(0, 200, 50), range(0, 300, 50)):
            y0, y1, x0, x1 = max(y - 16, 0), min(y + 66, 200), max(x - 16, 0), min(x + 66, 300)
            np.testing.assert_array_equal(image.region(y0, y1, x0, x1)[0], pixels[y0:y1, x0:x1])
        return sum(decoded)

    monkeypatch.setattr(ZarrArray, "_read", watched)
    assert read_tiles() == pixels.size
    monkeypatch.setattr(kept_module, "KEPT_BYTES", 1)
    assert read_tiles() > 2 * pixels.size


def test_what_was_read_can_be_written_to(tmp_path):
    pixels = numbers((40, 60))
    image = read(write(tmp_path / "a.zarr", pixels, multiscale("yx"), chunks=(20, 20))).planar()
    for box in ((0, 20, 0, 20), (0, 40, 0, 60)):
        image.region(*box)[...] = 0
        np.testing.assert_array_equal(image.region(0, 40, 0, 60)[0], pixels)


def test_large_regions_are_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("abbe.data.ome_zarr.KEPT_BYTES", 1000)
    pixels = numbers((40, 60))
    image = read(write(tmp_path / "a.zarr", pixels, multiscale("yx"), chunks=(20, 20)))
    np.testing.assert_array_equal(image.data[...], pixels)
    assert not image.data._kept._parts
    np.testing.assert_array_equal(image.data[5:15, 3:12], pixels[5:15, 3:12])
    assert list(image.data._kept._parts) == [(0, 0)]


def test_threads_may_read_one_zarr(tmp_path):
    pixels = numbers((200, 300))
    image = read(write(tmp_path / "a.zarr", pixels, multiscale("yx"), chunks=(17, 23))).planar()

    def same(corner: tuple[int, int]) -> bool:
        y, x = corner
        return np.array_equal(image.region(y, y + 60, x, x + 60)[0], pixels[y : y + 60, x : x + 60])

    corners = np.random.default_rng(0).integers(0, 140, (60, 2)).tolist()
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(same, corners))


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


def test_an_image_at_an_address_can_travel(tmp_path, served):
    """Workers get it as it is, for it has no path that they could open."""
    pixels = numbers((30, 40))
    write(tmp_path / "a.zarr", pixels, multiscale("yx"), chunks=(10, 10))
    image = read(f"{served}/a.zarr").planar()
    image.region(0, 20, 0, 20)
    there = pickle.loads(pickle.dumps(image))
    np.testing.assert_array_equal(there.region(5, 25, 5, 35)[0], pixels[5:25, 5:35])


class Bucket(http.server.BaseHTTPRequestHandler):
    """The few words of S3 that reading needs: HEAD, GET, listing, and its errors; folders are buckets.

    Signed requests are let in, whoever signs them; the bucket "public" is for all, the bucket "secret" for nobody.
    """

    root: Path

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).strip("/").partition("/")
        signed = "Authorization" in self.headers
        if bucket == "secret" or (bucket != "public" and not signed):
            self.answer(403, "AccessDenied")
        elif not (self.root / bucket).is_dir():
            self.answer(404, "NoSuchBucket")
        elif not key:
            self.answer(200, "ListBucketResult", "<KeyCount>0</KeyCount>")
        elif (self.root / bucket / key).is_file():
            self.give((self.root / bucket / key).read_bytes())
        else:
            self.answer(404, "NoSuchKey")

    def do_HEAD(self) -> None:
        self.do_GET()

    def give(self, data: bytes) -> None:
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        start, stop = (int(first), int(last or len(data) - 1) + 1) if first else (len(data) - int(last), len(data))
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("ETag", '"0"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("Content-Range", f"bytes {start}-{min(stop, len(data)) - 1}/{len(data)}")
        self.end(data[start:stop])

    def answer(self, status: int, kind: str, inside: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        error = f"<Error><Code>{kind}</Code><Message>{kind}</Message></Error>"
        self.end((f"<{kind}>{inside}</{kind}>" if status == 200 else error).encode())

    def end(self, data: bytes) -> None:
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that speaks S3 over the test's folder, and credentials for it."""
    handler = type("BucketHere", (Bucket,), {"root": tmp_path})
    for name, value in {"ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "mine", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    for name in ("CONFIG_FILE", "SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(f"AWS_{name}", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": address})
        yield
        server.shutdown()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_bucket_is_read(tmp_path, s3, version):
    pixels = numbers((2, 30, 40))
    shards = {"shards": (1, 20, 20)} if version == "0.5" else {}
    path = tmp_path / "plates" / "a b" / "c.ome.zarr"
    write(path, pixels, multiscale("cyx", [1, 0.5, 0.5]), version, chunks=(1, 10, 10), **shards)
    image = read("s3://plates/a b/c.ome.zarr")
    assert (image.name, image.pixel_size) == ("c.ome.zarr", {"y": 0.5, "x": 0.5})
    np.testing.assert_array_equal(image.planar().region(5, 25, 5, 35), pixels[:, 5:25, 5:35])


def test_what_a_bucket_refuses_is_told_in_one_sentence(tmp_path, s3, monkeypatch):
    for bucket in ("plates", "public", "secret"):
        write(tmp_path / bucket / "a.zarr", numbers((8, 9)), multiscale("yx"))
    with pytest.raises(AbbeError, match=r"^b\.zarr: no Zarr at this address, and nothing else .* zarr\.json"):
        read("s3://plates/b.zarr")
    with pytest.raises(AbbeError, match=r"^a\.zarr: there is no bucket 'other' on this server; .* right\?$"):
        read("s3://other/a.zarr")
    with pytest.raises(AbbeError, match=r"^a\.zarr: may not be read \(.*\); .* do the credentials fit\?$"):
        read("s3://secret/a.zarr")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(AbbeError, match=r"^a\.zarr: no credentials were found .* FSSPEC_S3_ANON=true"):
        read("s3://plates/a.zarr")
    monkeypatch.setitem(fsspec.config.conf, "s3", fsspec.config.conf["s3"] | {"anon": True})
    assert read("s3://public/a.zarr").shape == (8, 9)
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": "http://127.0.0.1:9", "anon": True})
    with pytest.raises(AbbeError, match=r"^a\.zarr: its server does not answer \(.*\); is the address right"):
        read("s3://public/a.zarr")


def test_what_addresses_need_is_named(monkeypatch):
    with pytest.raises(AbbeError, match=r"a\.zarr: xyz:// is not known"):
        read("xyz://bucket/a.zarr")
    with pytest.raises(AbbeError, match=r"a\.zarr: its server does not answer .* is the address right"):
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
