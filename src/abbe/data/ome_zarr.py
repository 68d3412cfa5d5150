"""OME-Zarr 0.1 to 0.5 and plain Zarr arrays (formats 2 and 3, also sharded), on a disk or at an address.

Opening reads metadata only. A region reads and decodes only the chunks that it touches. Of a pyramid the level of
full resolution is taken, which the specification (https://ngff.openmicroscopy.org/specifications) puts first.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np

from abbe.data.axes import LETTERS, UNKNOWN, Bounds, LazyArray, known, micrometres, overlap, seconds
from abbe.data.claims import check_sparse_claim
from abbe.data.image import Image
from abbe.data.kept import KEPT_BYTES, Kept
from abbe.errors import AbbeError

MARKS = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
"""One of these files makes a folder a Zarr group or array."""
_LOOKED_FOR = " or ".join(MARKS[:3])
_TYPES = {"time": "T", "channel": "C"}
_ANONYMOUS = "set FSSPEC_S3_ANON=true if the data are public"


def is_url(source: str | Path) -> bool:
    """Tell an address such as ``s3://bucket/a.zarr`` from a path."""
    return isinstance(source, str) and bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source))


def local_path(source: str | Path) -> str | Path:
    """Turn a ``file://`` address into its path; everything else stays as it is."""
    parts = urlsplit(str(source)) if is_url(source) else None
    if parts is None or parts.scheme.lower() != "file":
        return source
    return Path(url2pathname(f"//{parts.netloc}{parts.path}" if parts.netloc else parts.path))


def is_zarr(path: str | Path) -> bool:
    """Tell whether a folder is a Zarr group or array, or at least called one."""
    folder = Path(path)
    return folder.is_dir() and (folder.suffix.lower() == ".zarr" or any((folder / mark).exists() for mark in MARKS))


def open_zarr(source: str | Path) -> Image:
    """Open the image of an OME-Zarr group, or a Zarr array, without loading pixels.

    Parameters
    ----------
    source
        A folder, or an address that fsspec knows: ``https://``, ``s3://``, ``gs://``, ``memory://``, ...

    Returns
    -------
    Image
        Its ``format`` is "OME-Zarr" with the version, or "Zarr" for an array without OME metadata.

    Raises
    ------
    AbbeError
        If there is nothing to read, metadata are damaged, what addresses need is not installed, or the group holds
        not one image but a plate, a well or labels; the sentence says which path to give.
    """
    name = _name_of(source)
    node = _open(source, name)
    image = _array_image(node, name) if hasattr(node, "shape") else _group_image(node, name)
    if not is_url(source):
        image.path = Path(source)
        check_sparse_claim(name, image.shape, image.dtype.itemsize, image.path)
    return image


# --- stores ---------------------------------------------------------------------------------------


def _name_of(source: str | Path) -> str:
    """The last part of a path, or what follows from the part that ends in .zarr."""
    parts = [part for part in re.split(r"[/\\]", str(source)) if part] or [str(source)]
    first = next((i for i, part in enumerate(parts) if part.lower().endswith(".zarr")), len(parts) - 1)
    return "/".join(parts[first:])


def _open(source: str | Path, name: str) -> Any:
    """Open the group or array, from its metadata alone."""
    import zarr
    from zarr.errors import NodeNotFoundError

    store, version = _store(source, name)
    try:
        return zarr.open(store, mode="r", zarr_format=version)
    except (NodeNotFoundError, FileNotFoundError):
        raise AbbeError(f"{name}: no Zarr in this folder; expected {_LOOKED_FOR}") from None
    except Exception as error:  # storage and metadata can fail in any way
        raise AbbeError(f"{name}: has damaged Zarr metadata ({_sentence(error)})") from error


def _store(source: str | Path, name: str) -> tuple[Any, Literal[2, 3] | None]:
    """Find the store behind a path or an address, and at an address the version of Zarr there."""
    from zarr.storage import FsspecStore, LocalStore

    if not is_url(source):
        return LocalStore(source, read_only=True), None
    scheme, address = str(source).partition(":")[0], str(source).rstrip("/")
    try:
        import fsspec

        system, path = fsspec.url_to_fs(address)
        store = FsspecStore.from_url(address, read_only=True)
    except ImportError as error:
        raise AbbeError(f"{name}: {scheme}:// needs more packages ({error}); pip install 'abbe[remote]'") from error
    except ValueError as error:
        raise AbbeError(f"{name}: {scheme}:// is not known ({error}); expected https://, s3:// or a path") from error
    return store, _version_at(system, path, name)


def _version_at(system: Any, path: str, name: str) -> Literal[2, 3]:
    """Look for metadata, one file after another: requests in parallel would each wait for a server that is away."""
    denied: Exception | None = None
    for mark in MARKS:
        try:
            system.cat_file(f"{path}/{mark}")
            return 3 if mark == MARKS[0] else 2
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
        except Exception as error:  # each kind of storage has its own
            if not _is_denial(error):  # denied is also what is not there, where listing is not allowed
                raise _unavailable(name, error) from error
            denied = error
    if denied is not None:
        raise _unavailable(name, denied) from denied
    raise _nothing_at(system, path, name)


def _nothing_at(system: Any, path: str, name: str) -> AbbeError:
    """Word the error for an address without a Zarr, or without so much as the bucket."""
    bucket = path.partition("/")[0]
    with suppress(Exception):  # what we may not know
        if "s3" in system.protocol and not system.exists(bucket):
            return AbbeError(f"{name}: there is no bucket {bucket!r} on this server; is the address right?")
    return AbbeError(f"{name}: no Zarr at this address, and nothing else is read from one; expected {_LOOKED_FOR}")


def _is_denial(error: Exception) -> bool:
    return isinstance(error, PermissionError) or getattr(error, "status", None) in (401, 403)


def _unavailable(name: str, error: Exception) -> AbbeError:
    """Word the error for storage that cannot be read: by what it says, as every kind has errors of its own."""
    said = _sentence(error)
    if "credentials" in said.lower():
        return AbbeError(f"{name}: no credentials were found ({said}); log in to the storage, or {_ANONYMOUS}")
    if _is_denial(error):
        return AbbeError(f"{name}: may not be read ({said}); is the address right, and do the credentials fit?")
    if "connect" in f"{type(error).__name__} {said}".lower():
        return AbbeError(
            f"{name}: its server does not answer ({said}); is the address right, can it be reached from here, and if "
            "it is not Amazon's, is FSSPEC_S3_ENDPOINT_URL set?"
        )
    return AbbeError(f"{name}: cannot be read ({said}); is the address right, and are you allowed to read there?")


def _sentence(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


class ZarrArray(LazyArray):
    """An array of a Zarr store, of which only the chunks that a block touches are read; the last ones are kept."""

    def __init__(self, array: Any, name: str):
        self._array, self._name, self._kept = array, name, Kept()
        self.shape, self._chunk = tuple(array.shape), tuple(array.chunks)
        self.dtype = np.dtype(array.dtype).newbyteorder("=")

    def block(self, bounds: Bounds) -> np.ndarray:
        """Read the block; a chunk that was never written holds the array's fill value."""
        if not all(start < stop for start, stop in bounds):
            return np.empty([stop - start for start, stop in bounds], self.dtype)
        cells = [range(start // size, -(-stop // size)) for (start, stop), size in zip(bounds, self._chunk)]
        if math.prod(map(len, cells)) * math.prod(self._chunk) * self.dtype.itemsize > KEPT_BYTES:
            return self._read(bounds)
        chunks = {cell: self._kept.get(cell) for cell in itertools.product(*cells)}
        if missing := [cell for cell, chunk in chunks.items() if chunk is None]:
            chunks |= self._decoded(missing)
        if len(chunks) == 1:
            (cell, chunk) = next(iter(chunks.items()))
            assert chunk is not None
            return chunk[overlap(bounds, self._first(cell), chunk.shape)[1]].copy()
        out = np.empty([stop - start for start, stop in bounds], self.dtype)
        for cell, chunk in chunks.items():
            assert chunk is not None
            into, out_of = overlap(bounds, self._first(cell), chunk.shape)
            out[into] = chunk[out_of]
        return out

    def _decoded(self, cells: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], np.ndarray]:
        """Read chunks by one request for the box around them, which are few more where tiles come in order."""
        bounds = [
            (min(along) * size, min((max(along) + 1) * size, extent))
            for along, size, extent in zip(zip(*cells), self._chunk, self.shape)
        ]
        block, first, found = self._read(bounds), [start for start, _ in bounds], {}
        for cell in cells:
            place = [start - zero for start, zero in zip(self._first(cell), first)]
            found[cell] = block[tuple(slice(at, at + size) for at, size in zip(place, self._chunk))].copy()
            self._kept.put(cell, found[cell])
        return found

    def _first(self, cell: tuple[int, ...]) -> list[int]:
        """Where a chunk begins."""
        return [at * size for at, size in zip(cell, self._chunk)]

    def _read(self, bounds: Bounds) -> np.ndarray:
        try:
            block = np.asarray(self._array[tuple(itertools.starmap(slice, bounds))])
        except Exception as error:  # each codec and each store has its own
            raise AbbeError(f"{self._name}: a chunk cannot be read ({_sentence(error)})") from error
        return block.astype(self.dtype, copy=False)


# --- arrays and groups ----------------------------------------------------------------------------


def _array_image(array: Any, name: str) -> Image:
    """An array that no OME metadata describe; format 3 and xarray may name its axes."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    axes = _letters([{"name": axis} for axis in names or ()], len(array.shape))
    return Image(_pixels(array, name), axes, name=name, format="Zarr")


def _pixels(array: Any, name: str) -> ZarrArray:
    if min(array.chunks, default=1) < 1:
        raise AbbeError(f"{name}: has damaged Zarr metadata, chunks of {array.chunks} pixels; expected at least 1")
    try:
        return ZarrArray(array, name)
    except TypeError:
        raise AbbeError(f"{name}: values of type {array.dtype}; expected whole or real numbers or bool") from None


def _group_image(group: Any, name: str) -> Image:
    """The image of a group, or the error that says where images are."""
    stated = _ome(group)
    if stated.get("multiscales"):
        return _multiscale(group, stated, name)
    if "plate" in stated:
        raise _plate(group, stated["plate"], name)
    if "well" in stated:
        raise _well(stated["well"], name)
    if "bioformats2raw.layout" in stated:
        return _first_series(group, name)
    if isinstance(labels := stated.get("labels"), list) and labels:
        raise AbbeError(f"{name}: a group of label images; give one of them, such as {name}/{labels[0]}")
    members = _members(group)
    inside = f"; give one of its members, such as {name}/{members[0]}" if members else ""
    raise AbbeError(f"{name}: a Zarr group without OME metadata, expected an OME-Zarr image or an array{inside}")


def _ome(group: Any) -> dict[str, Any]:
    """OME metadata of a group: below "ome" since version 0.5, before it at the top."""
    attributes = dict(group.attrs)
    ome = attributes.get("ome")
    return ome if isinstance(ome, dict) else attributes


def _members(group: Any) -> list[str]:
    """Names of the first members, as far as the store can list them."""
    with suppress(Exception):  # a web server cannot
        return list(itertools.islice(sorted(group.keys()), 5))
    return []


def _plate(group: Any, plate: Any, name: str) -> AbbeError:
    """Word the error for a plate: how to name one field, and all of them."""
    wells = [well.get("path", "") for well in plate.get("wells", [])] if isinstance(plate, dict) else []
    if not wells:
        return AbbeError(f"{name}: a plate without wells; expected at least one")
    field = "0"
    with suppress(Exception):  # a plate may name wells that were never written
        field = _ome(group[wells[0]])["well"]["images"][0]["path"]
    return AbbeError(
        f"{name}: a plate of {len(wells)} wells, but one image is needed; give one field, such as "
        f"{name}/{wells[0]}/{field}, or all with the pattern '{name}/*/*/*'"
    )


def _well(well: Any, name: str) -> AbbeError:
    fields = [image.get("path", "") for image in well.get("images", [])] if isinstance(well, dict) else []
    such = f", such as {name}/{fields[0]}, or all with the pattern '{name}/*'" if fields else ""
    return AbbeError(f"{name}: a well of {len(fields)} fields, but one image is needed; give one of them{such}")


def _first_series(group: Any, name: str) -> Image:
    """The first image of the layout in which bioformats2raw writes a file of several."""
    series = ["0"]
    with suppress(KeyError):
        series = list(_ome(group["OME"]).get("series") or series)
    try:
        first = group[series[0]]
    except KeyError:
        raise AbbeError(f"{name}: has no image {series[0]}, which its metadata promise; is it complete?") from None
    image = _group_image(first, f"{name}/{series[0]}")
    if len(series) > 1:
        image.warnings.append(f"{len(series) - 1} more image series in the file are not read")
    return image


# --- multiscales ----------------------------------------------------------------------------------


def _multiscale(group: Any, stated: Mapping[str, Any], name: str) -> Image:
    """The full resolution of the first multiscale image of a group."""
    try:
        first = stated["multiscales"][0]
        dataset = first["datasets"][0]
        array = group[dataset["path"]]
        axes, transforms = _stated_axes(first, len(array.shape)), (_scales(dataset), _scales(first))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise AbbeError(f"{name}: its OME-Zarr metadata lack or misname {error}; is it complete?") from error
    image = Image(_pixels(array, name), _letters(axes, len(array.shape)), name=name)
    version = stated.get("version") or first.get("version")
    image.format = f"OME-Zarr {version}" if version else "OME-Zarr"
    image.pixel_size = _pixel_size(image, axes, transforms)
    image.time_step = _time_step(image, axes, transforms)
    image.channels = _channels(stated.get("omero"), image.n_channels)
    image.rgb = image.dtype == np.uint8 and [label.lower() for label in image.channels] == ["red", "green", "blue"]
    if more := len(stated["multiscales"]) - 1:
        image.warnings.append(f"{more} more images in the group are not read")
    return image


def _stated_axes(multiscale: Mapping[str, Any], ndim: int) -> list[dict[str, Any]]:
    """Axes as the versions state them: none (always TCZYX) until 0.2, letters in 0.3, dictionaries since 0.4."""
    axes = multiscale.get("axes")
    if not isinstance(axes, list):
        axes = list("tczyx") if ndim == 5 else []
    return [axis if isinstance(axis, dict) else {"name": str(axis)} for axis in axes]


def _letters(axes: Sequence[Mapping[str, Any]], ndim: int) -> str:
    """Translate axes to letters: by name, else by type; space of another name is ZYX in order."""
    letters = [_letter(axis) for axis in axes]
    unnamed = [i for i, axis in enumerate(axes) if letters[i] == UNKNOWN and axis.get("type") == "space"]
    if len(unnamed) == sum(axis.get("type") == "space" for axis in axes) <= 3:
        for i, letter in zip(reversed(unnamed), "XYZ"):
            letters[i] = letter
    named = [letter for letter in letters if letter != UNKNOWN]
    if len(letters) != ndim or len(set(named)) < len(named) or not {"Y", "X"} <= set(named):
        return (UNKNOWN * (ndim - 2) + "YX")[-ndim:] if ndim else ""
    return "".join(letters)


def _letter(axis: Mapping[str, Any]) -> str:
    name = str(axis.get("name") or "").upper()
    named = name if len(name) == 1 and name in LETTERS else _TYPES.get(name.lower())
    return named or _TYPES.get(str(axis.get("type")), UNKNOWN)


def _scales(part: Mapping[str, Any]) -> list[float] | None:
    """The scale among the coordinate transformations of a dataset or a multiscale image."""
    for transform in part.get("coordinateTransformations") or []:
        if transform.get("type") == "scale" and isinstance(transform.get("scale"), list):
            return [float(factor) for factor in transform["scale"]]
    return None


def _pixel_size(
    image: Image, axes: Sequence[Mapping[str, Any]], transforms: Sequence[list[float] | None]
) -> dict[str, float]:
    """The steps along Z, Y and X in µm; a scale without a unit says nothing of them."""
    sizes = {}
    for letter, (size, unit) in _steps(image, axes, transforms).items():
        if letter in "ZYX" and unit:
            sizes[letter.lower()] = micrometres(size, str(unit))
        elif letter in "YX" and size != 1:
            image.warnings.append(f"the scale {size:g} along {letter} has no unit and is not taken as a pixel size")
    return known(sizes)


def _time_step(
    image: Image, axes: Sequence[Mapping[str, Any]], transforms: Sequence[list[float] | None]
) -> float | None:
    """Seconds between time points; a scale without a unit says nothing of them."""
    step, unit = _steps(image, axes, transforms).get("T", (1.0, None))
    return seconds(step, str(unit)) if unit else None


def _steps(
    image: Image, axes: Sequence[Mapping[str, Any]], transforms: Sequence[list[float] | None]
) -> dict[str, tuple[float, Any]]:
    """Multiply the scales of dataset and image, by axis, each with its unit; nothing where none is stated."""
    stated = [scale for scale in transforms if scale is not None and len(scale) == len(image.shape)]
    if not stated or len(axes) != len(image.shape):
        return {}
    found = np.prod(stated, axis=0).tolist()
    return {letter: (step, axis.get("unit")) for letter, step, axis in zip(image.axes, found, axes)}


def _channels(omero: Any, n_channels: int) -> tuple[str, ...]:
    """Names of the channels, where every one has its own."""
    stated = omero.get("channels") if isinstance(omero, dict) else None
    listed = stated if isinstance(stated, list) else []
    names = [str(channel.get("label") or "") for channel in listed if isinstance(channel, dict)]
    return tuple(names) if all(names) and len(names) == n_channels else ()
