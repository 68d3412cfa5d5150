"""OME-Zarr 0.1 to 0.5 and plain Zarr arrays (formats 2 and 3, also sharded), on a disk or at an address.

Opening reads metadata only. A region reads and decodes only the chunks that it touches. Of a pyramid the level of
full resolution is taken, which the specification (https://ngff.openmicroscopy.org/specifications) puts first.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np

from abbe.data.axes import LETTERS, UNKNOWN, Bounds, LazyArray, known, micrometres
from abbe.data.image import Image
from abbe.errors import AbbeError

MARKS = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
"""One of these files makes a folder a Zarr group or array."""
_TYPES = {"time": "T", "channel": "C"}
_UNAVAILABLE = "{name}: cannot be read ({error}); is the address right, and are you allowed to read there?{hint}"
_CREDENTIALS = " For public data on S3 set FSSPEC_S3_ANON=true"


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
    image.path = None if is_url(source) else Path(source)
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

    try:
        return zarr.open(_store(source, name), mode="r")
    except AbbeError:
        raise
    except (NodeNotFoundError, FileNotFoundError):
        there = "at this address; only OME-Zarr is read from addresses" if is_url(source) else "in this folder"
        raise AbbeError(f"{name}: no Zarr {there}; expected {' or '.join(MARKS[:3])}") from None
    except Exception as error:  # storage and metadata can fail in any way
        if is_url(source):
            raise _unavailable(name, error) from error
        raise AbbeError(f"{name}: has damaged Zarr metadata ({_sentence(error)})") from error


def _store(source: str | Path, name: str) -> Any:
    """Find the store behind a path or an address."""
    from zarr.storage import FsspecStore, LocalStore

    if not is_url(source):
        return LocalStore(source, read_only=True)
    scheme = str(source).partition(":")[0]
    try:
        return FsspecStore.from_url(str(source).rstrip("/"), read_only=True)
    except ImportError as error:
        raise AbbeError(f"{name}: {scheme}:// needs more packages ({error}); pip install 'abbe[remote]'") from error
    except ValueError as error:
        raise AbbeError(f"{name}: {scheme}:// is not known ({error}); expected https://, s3:// or a path") from error


def _unavailable(name: str, error: Exception) -> AbbeError:
    hint = _CREDENTIALS if "credentials" in str(error).lower() else ""
    return AbbeError(_UNAVAILABLE.format(name=name, error=_sentence(error), hint=hint))


def _sentence(error: Exception) -> str:
    """What an error says, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


class ZarrArray(LazyArray):
    """An array of a Zarr store, of which only the chunks that a block touches are read."""

    def __init__(self, array: Any, name: str):
        self._array, self._name = array, name
        self.shape = tuple(array.shape)
        self.dtype = np.dtype(array.dtype).newbyteorder("=")

    def block(self, bounds: Bounds) -> np.ndarray:
        """Read the block; a chunk that was never written holds the array's fill value."""
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
    """Multiply the scales of dataset and image; a scale without a unit says nothing of µm."""
    stated = [scale for scale in transforms if scale is not None and len(scale) == len(image.shape)]
    if not stated or len(axes) != len(image.shape):
        return {}
    sizes = {}
    for i, letter in enumerate(image.axes):
        unit, size = axes[i].get("unit"), float(np.prod([scale[i] for scale in stated]))
        if letter in "ZYX" and unit:
            sizes[letter.lower()] = micrometres(size, str(unit))
        elif letter in "YX" and size != 1:
            image.warnings.append(f"the scale {size:g} along {letter} has no unit and is not taken as a pixel size")
    return known(sizes)


def _channels(omero: Any, n_channels: int) -> tuple[str, ...]:
    """Names of the channels, where every one has its own."""
    stated = omero.get("channels") if isinstance(omero, dict) else None
    listed = stated if isinstance(stated, list) else []
    names = [str(channel.get("label") or "") for channel in listed if isinstance(channel, dict)]
    return tuple(names) if all(names) and len(names) == n_channels else ()
