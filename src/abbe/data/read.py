"""Read images: a path or an array becomes a lazy :class:`Image` that knows its axes, pixel size and channels.

TIFF (also OME-TIFF, ImageJ hyperstacks, the full resolution of pyramids), OME-Zarr (also at addresses), PNG, JPEG,
BMP, GIF and WebP with one frame, NPY, and with the extra "formats" CZI, ND2 and LIF. Files are known by their first
bytes, not by their suffix. Nothing is loaded on opening; a region of an uncompressed TIFF or NPY is read through a
memory map, that of a compressed TIFF or of a Zarr decodes only the tiles, strips or chunks that it needs.

Colour tables are expanded, except in ImageJ and OME files: there they only say how to display the values.
Transparency is dropped. Orientation tags are not applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from abbe.data import axes as axes_of_image
from abbe.data.axes import UNKNOWN, View
from abbe.data.image import Image, first_channels
from abbe.data.microscopes import microscope_of, open_microscope
from abbe.data.ome_zarr import is_url, is_zarr, local_path, open_zarr
from abbe.data.pictures import open_picture
from abbe.data.tiff import open_tiff
from abbe.errors import AbbeError, reason

_COLOURS = ("red", "green", "blue")


def read(source: Any, *, axes: str | None = None) -> Image:
    """Open an image without loading it.

    Parameters
    ----------
    source
        Path of a file, path or address of an OME-Zarr, or an array: NumPy's or anything with ``shape``, ``dtype``
        and slices. A 2-D array is YX; a 3-D array of 8-bit values with 3 or 4 in its last axis is a colour picture,
        YXC.
    axes
        One letter per axis, such as "TCYX", where file or array do not say it or say it wrongly.

    Raises
    ------
    AbbeError
        If the file is missing, empty, damaged or no image, if the values are no real numbers, or if the axes
        of an array are ambiguous. A file with ambiguous axes opens; its ``planar`` raises.
    """
    if isinstance(source, (str, Path)):
        place = local_path(source)
        image = open_zarr(place) if is_url(place) or is_zarr(place) else _read_file(Path(place))
    elif all(hasattr(source, attribute) for attribute in ("shape", "dtype", "__getitem__")):
        image = Image(source, _array_axes(source, axes), name="array")
    else:
        raise AbbeError(f"a {type(source).__name__} is no image; expected a path or an array")
    _check_values(image)
    if axes is not None:
        _rename_axes(image, axes_of_image.parse_axes(axes, image.shape, image.name))
    return _without_alpha(image)


def _rename_axes(image: Image, axes: str) -> None:
    """Take the user's axes; what the file said about its channels holds only where they stay."""
    if image.axes.find("C") != axes.find("C"):
        image.rgb, image.channels = False, ()
    image.axes = axes


def _array_axes(array: Any, given: str | None) -> str:
    shape = tuple(array.shape)
    guessed = _guess(shape, array.dtype)
    if UNKNOWN in guessed and given is None:
        raise axes_of_image.ambiguous("array", guessed, shape, "pass axes=")
    return guessed


def _guess(shape: Sequence[int], dtype: Any) -> str:
    """Axes of an array that says nothing but its shape and type."""
    if _is_picture(shape, dtype):
        return "YXC"
    return (UNKNOWN * max(len(shape) - 2, 0) + "YX")[-len(shape) :] if shape else ""


def _is_picture(shape: Sequence[int], dtype: Any) -> bool:
    """Channels last and 8-bit: nobody stores anything but colours this way."""
    return len(shape) == 3 and shape[-1] in (3, 4) and dtype == np.uint8


def _check_values(image: Image) -> None:
    """Refuse what has no pixels, or pixels that are no real numbers."""
    try:
        kind = np.dtype(image.data.dtype).kind
    except TypeError:
        raise AbbeError(f"{image.name}: values of type {image.data.dtype}; expected a NumPy array") from None
    if kind not in "biuf":
        raise AbbeError(f"{image.name}: {image.data.dtype} values; expected whole or real numbers or bool")
    if len(image.shape) < 2 or 0 in image.shape:
        raise AbbeError(f"{image.name}: shape {image.shape} has no plane of pixels; expected at least Y and X")


def _without_alpha(image: Image) -> Image:
    """Mark 8-bit pictures in arrays as colours, and drop the transparency of colours."""
    if not image.rgb and image.format in ("array", "NPY"):
        image.rgb = image.axes == "YXC" and _is_picture(image.shape, image.dtype)
    if not image.rgb:
        return image
    seen = replace(first_channels(image, 3), channels=_COLOURS)
    if image.format == "TIFF" and image.axes == "CYX":  # as some write any three planes
        seen.warnings.append("three planes, stored as red, green and blue, are read so; if not, say --axes ZYX or TYX")
    return seen


def _read_file(path: Path) -> Image:
    """Open a file by what its first bytes say it is."""
    try:
        with path.open("rb") as file:
            start = file.read(32)
    except IsADirectoryError:
        raise AbbeError(f"{path}: is a folder; expected an image file or an OME-Zarr") from None
    except OSError as error:
        raise AbbeError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from error
    if not start:
        raise AbbeError(f"{path.name}: is empty (0 bytes)")
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return open_tiff(path)
    if microscope := microscope_of(path, start):
        return open_microscope(path, microscope)
    return _open_npy(path) if start[:6] == b"\x93NUMPY" else open_picture(path, start)


def _open_npy(path: Path) -> Image:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # the header is a Python literal, which can be wrong in many ways
        raise AbbeError(f"{path.name}: is not a readable NPY file ({reason(error)})") from error
    data = array if array.dtype.isnative else View(array, range(array.ndim))
    image = Image(data, _guess(array.shape, array.dtype), name=path.name, path=path, format="NPY")
    if left := path.stat().st_size - getattr(array, "offset", 0) - array.nbytes:
        image.warnings.append(f"{left} bytes follow the array, which are not read")
    return image
