"""Odd but valid Zarr folders, each with what has to be read from it, and harmed ones; used by ``odd_files.py``."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from damage import CLAIMS, DAMAGES
from odd_tiffs import HEIGHT, WIDTH, Case, plane_of, values

ARRAYS = "Zarr arrays, versions 2 and 3"
CODECS = "Zarr, codecs, orders, separators, shards, fill values"
OME = "OME-Zarr 0.4 and 0.5, 8 sets of axes, by hand and by ome-zarr"
ZARR_CLAIMS = (-1, *(claim for claim in CLAIMS if claim != 2**20), 2**62)
"""As of other files, but without an extent that is allowed, for a Zarr may leave chunks out, and takes its time."""
HARMED = "files of a Zarr"
LYING = "one number of a Zarr's metadata false"


def types() -> Iterator[Case]:
    """Every type in both versions, bare and with metadata."""
    for dtype, version in itertools.product(("?", "u1", "i1", "i2", "u2", "u4", "i8", "u8", "f2", "f4", "f8"), (2, 3)):
        array = values((HEIGHT, WIDTH), dtype)

        def bare(path: Path, array: np.ndarray = array, version: int = version) -> None:
            put(path, array, version)

        def multiscale(path: Path, array: np.ndarray = array, version: int = version) -> None:
            ome_zarr(path, array[None], "cyx", version)

        number = np.dtype(dtype).name
        yield Case(ARRAYS, f"{number} version {version}.zarr", bare, array[None])
        yield Case(OME, f"{number} {'0.4' if version == 2 else '0.5'}.ome.zarr", multiscale, array[None])


def codecs() -> Iterator[Case]:
    """Every way in which chunks may lie in their files."""
    import numcodecs
    import zarr.codecs

    compressors: dict[tuple[int, str], Any] = {
        (2, "zlib"): numcodecs.Zlib(), (2, "gzip"): numcodecs.GZip(), (2, "bz2"): numcodecs.BZ2(),
        (2, "lzma"): numcodecs.LZMA(), (2, "lz4"): numcodecs.LZ4(), (2, "zstd"): numcodecs.Zstd(),
        (2, "raw"): None, (3, "raw"): None, (3, "gzip"): zarr.codecs.GzipCodec(), (3, "zstd"): zarr.codecs.ZstdCodec(),
    }  # fmt: skip
    for inner in ("lz4", "zstd", "zlib", "blosclz", "lz4hc"):
        compressors[2, f"blosc {inner}"] = numcodecs.Blosc(inner, shuffle=2)
        compressors[3, f"blosc {inner}"] = zarr.codecs.BloscCodec(cname=inner)
    array = values((HEIGHT, WIDTH), "u2")
    for (version, name), compressor in compressors.items():
        yield zarr_case(f"{name} {version}.zarr", array, zarr_format=version, compressors=compressor)
    for version, dtype in itertools.product((2, 3), (">u2", ">i4", ">f4", ">f8")):
        yield zarr_case(f"big endian {dtype[1:]} {version}.zarr", values((HEIGHT, WIDTH), dtype[1:]), stored=dtype,
                        zarr_format=version)  # fmt: skip
    yield zarr_case("order F.zarr", array, zarr_format=2, order="F")
    for separator, version in itertools.product("./", (2, 3)):
        encoding = {"name": "v2" if version == 2 else "default", "separator": separator}
        name = f"{'dots' if separator == '.' else 'folders'} {version}.zarr"
        yield zarr_case(name, array, zarr_format=version, chunk_key_encoding=encoding)
    yield zarr_case("delta.zarr", array, zarr_format=2, filters=[numcodecs.Delta("u2")])
    yield zarr_case("checksum.zarr", array, compressors=[zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()])
    yield zarr_case("transposed.zarr", array, filters=[zarr.codecs.TransposeCodec(order=(1, 0))])
    for shards in ((32, 32), (64, 96), (16, 16)):
        yield zarr_case(f"shards of {shards[0]}.zarr", array, shards=shards)
    yield zarr_case("one chunk.zarr", array, chunks=array.shape)
    yield zarr_case("chunks larger than the image.zarr", array, chunks=(100, 100))
    yield zarr_case("rows.zarr", array, chunks=(1, WIDTH))
    for version in (2, 3):
        holes = array.copy()
        holes[16:48, :32] = 7

        def write(path: Path, holes: np.ndarray = holes, version: int = version) -> None:
            made = create(path, holes, zarr_format=version, fill_value=7)
            made[...] = holes
            for row, column in ((1, 0), (1, 1), (2, 0), (2, 1)):
                (path / ("c/" if version == 3 else "") / f"{row}{'/' if version == 3 else '.'}{column}").unlink(True)

        yield Case(CODECS, f"never written {version}.zarr", write, holes[None])


def create(path: Path, array: np.ndarray, stored: str | None = None, **options: Any) -> Any:
    """Make an array in chunks that do not divide it."""
    import zarr

    options = {"chunks": (16, 16), "zarr_format": 3} | options
    return zarr.create_array(str(path), shape=array.shape, dtype=stored or array.dtype, **options)


def zarr_case(name: str, array: np.ndarray, **options: Any) -> Case:
    """Make a case of one array that is written whole."""

    def write(path: Path) -> None:
        create(path, array, **options)[...] = array

    return Case(CODECS, name, write, array[None])


def axes() -> Iterator[Case]:
    """Every set of axes, in both versions, plain and sharded; and what the package ome-zarr writes."""
    extents = {"T": 2, "C": 3, "Z": 4, "Y": HEIGHT, "X": WIDTH}
    for named, version in itertools.product(("YX", "CYX", "ZYX", "TYX", "CZYX", "TCYX", "TZYX", "TCZYX"), (2, 3)):
        array = values(tuple(extents[axis] for axis in named), "u2")
        expected, chosen = plane_of(array, named)

        def by_hand(path: Path, array: np.ndarray = array, named: str = named, version: int = version) -> None:
            ome_zarr(path, array, named.lower(), version)

        def by_package(path: Path, array: np.ndarray = array, named: str = named, version: int = version) -> None:
            import ome_zarr.writer
            import zarr

            group = zarr.open_group(str(path), mode="w", zarr_format=version)
            ome_zarr.writer.write_image(array, group, axes=named.lower())

        for writer, write in (("hand", by_hand), ("ome-zarr", by_package)):
            yield Case(OME, f"{named} version {version} by {writer}.ome.zarr", write, expected, chosen)
    stack = values((2, 3, 4, 40, 50), "u2")

    def sharded(path: Path) -> None:
        ome_zarr(path, stack, "tczyx", 3, (1, 1, 2, 32, 32))

    yield Case(OME, "tczyx sharded.ome.zarr", sharded, stack[1, :, 3], {"time": 1, "z": 3})


def put(path: Path, array: np.ndarray, version: int, shards: Any = None) -> None:
    """Write one array in small chunks."""
    options: dict[str, Any] = {"shards": shards} if shards else {}
    create(path, array, chunks=(1,) * (array.ndim - 2) + (16, 16), zarr_format=version, **options)[...] = array


def ome_zarr(path: Path, array: np.ndarray, axes: str, version: int, shards: Any = None) -> None:
    """Write two levels of a pyramid and the metadata of OME-Zarr 0.4 (Zarr 2) or 0.5 (Zarr 3) by hand."""
    path.mkdir(parents=True)
    kinds = {"t": "time", "c": "channel"}
    named = [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes]
    datasets = []
    for level in range(2):
        put(path / str(level), array[..., :: 2**level, :: 2**level], version, shards)
        scale = [float(2**level) if axis in "yx" else 1.0 for axis in axes]
        transformations = [{"type": "scale", "scale": scale}]
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    multiscales = [{"name": path.stem, "axes": named, "datasets": datasets}]
    if version == 2:
        multiscales[0]["version"] = "0.4"
        (path / ".zgroup").write_text('{"zarr_format": 2}')
        (path / ".zattrs").write_text(json.dumps({"multiscales": multiscales}))
    else:
        attributes = {"ome": {"version": "0.5", "multiscales": multiscales}}
        group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        (path / "zarr.json").write_text(json.dumps(group))


def all_zarrs() -> Iterator[Case]:
    """Every folder of the table that is a Zarr."""
    for part in (types, codecs, axes):
        yield from part()


# --- harm -----------------------------------------------------------------------------------------------------------


def whole_zarrs(folder: Path) -> dict[str, tuple[Path, np.ndarray]]:
    """Write Zarr folders to harm: name, place and the (C, Y, X) that they hold."""
    import numcodecs

    array = values((90, 110), "u2")
    kinds: dict[str, dict[str, Any]] = {
        "raw 3": {"compressors": None}, "zstd 3": {}, "shards 3": {"shards": (64, 64)},
        "blosc 2": {"zarr_format": 2, "compressors": numcodecs.Blosc()},
        "zlib 2": {"zarr_format": 2, "compressors": numcodecs.Zlib()},
    }  # fmt: skip
    found = {}
    for name, options in kinds.items():
        path = folder / f"{name}.zarr"
        create(path, array, chunks=(32, 32), **options)[...] = array
        found[name] = path, array[None]
    path = folder / "ome.zarr"
    ome_zarr(path, array, "yx", 3)
    found["ome"] = path, array[None]
    return found


def damaged_zarrs(folder: Path, whole: Path, times: int) -> Iterator[tuple[str, Path, np.ndarray]]:
    """Harm a file of each Zarr, metadata or chunk, in every way so many times: damage, folder, what the whole holds."""
    for number, (name, (source, expected)) in enumerate(whole_zarrs(whole).items()):
        files = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
        metadata = [path for path in files if path.name in ("zarr.json", ".zarray", ".zgroup", ".zattrs")]
        for order, (damage, harm) in enumerate(DAMAGES.items()):
            for repeat in range(2 * times):
                rng = np.random.default_rng([number, order, repeat])
                chosen = metadata if repeat % 2 else files
                target = folder / f"{name} {damage} {repeat}.zarr"
                shutil.copytree(source, target)
                place = target / chosen[rng.integers(len(chosen))]
                place.write_bytes(harm(np.frombuffer(place.read_bytes(), np.uint8).copy(), rng).tobytes())
                yield HARMED, target, expected


def lying_zarrs(folder: Path, whole: Path) -> Iterator[tuple[str, Path, np.ndarray]]:
    """Let each number of the metadata of an array claim something else: folder, what the whole holds."""
    for name, (source, expected) in whole_zarrs(whole).items():
        if name == "ome":
            continue
        mark = "zarr.json" if (source / "zarr.json").exists() else ".zarray"
        stated = json.loads((source / mark).read_text())
        for place, claim in itertools.product(_numbers(stated), ZARR_CLAIMS):
            target = folder / f"{name} {' '.join(map(str, place))} {claim}.zarr"
            shutil.copytree(source, target)
            (target / mark).write_text(json.dumps(_changed(stated, place, claim)))
            yield LYING, target, expected


def _numbers(part: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Find the numbers in metadata: the keys that lead there."""
    if isinstance(part, int) and not isinstance(part, bool):
        yield place
    for key, inner in part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ():
        yield from _numbers(inner, (*place, key))


def _changed(part: Any, place: tuple[Any, ...], claim: int) -> Any:
    if not place:
        return claim
    copied = dict(part) if isinstance(part, dict) else list(part)
    copied[place[0]] = _changed(part[place[0]], place[1:], claim)
    return copied


def stated_shape(path: Path) -> tuple[int, ...]:
    """Read the shape that the metadata of a Zarr now state; of an OME-Zarr that of its first level."""
    place = path / "0" if (path / "0" / "zarr.json").exists() else path
    mark = place / "zarr.json" if (place / "zarr.json").exists() else place / ".zarray"
    return tuple(json.loads(mark.read_text())["shape"])
