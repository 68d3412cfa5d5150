"""Images as OME-TIFF, with their axes, pixel size and channel names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from abbe.data.write import atomic
from abbe.errors import AbbeError

_SIZES = {"x": "PhysicalSizeX", "y": "PhysicalSizeY", "z": "PhysicalSizeZ"}


def write_image(
    path: str | Path,
    pixels: np.ndarray,
    axes: str,
    pixel_size: Mapping[str, float],
    channels: Sequence[str] = (),
    *,
    rgb: bool = False,
    time_step: float | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write an image as an OME-TIFF, whole or not at all; files of more than 4 GiB are BigTIFF.

    Parameters
    ----------
    path
        The file; its suffix should be .tif.
    pixels
        Of any type that OME-TIFF holds: see :func:`check_type`.
    axes
        Letters of TCZYX, one for each axis.
    pixel_size
        µm, keys among "z", "y" and "x".
    channels
        Names, where they are known.
    rgb
        The C axis is red, green and blue: it is written as the colours of one image.
    time_step
        Seconds between time points, where they are known.
    facts
        What else is known, as :class:`~abbe.data.image.Image` has it.

    Raises
    ------
    AbbeError
        As :func:`abbe.data.write.atomic` and :func:`check_type`.
    """
    check_type(pixels.dtype, Path(path).name)
    metadata: dict[str, Any] = {**(facts or {}), "axes": axes}
    stated = metadata.pop("Channel", ())
    for axis, size in pixel_size.items():
        metadata |= {_SIZES[axis]: size, f"{_SIZES[axis]}Unit": "µm"}
    if time_step is not None and "T" in axes:
        metadata |= {"TimeIncrement": time_step, "TimeIncrementUnit": "s"}
    photometric = "minisblack"
    if rgb and "C" in axes and pixels.shape[axes.index("C")] == 3:
        pixels, axes = np.moveaxis(pixels, axes.index("C"), -1), axes.replace("C", "") + "S"
        photometric, metadata["axes"] = "rgb", axes
    number = pixels.shape[axes.index("C")] if "C" in axes else 1
    if photometric == "minisblack":
        named = [{"Name": name} for name in channels] if len(channels) == number else [{}] * number
        stated = stated if len(stated) == number else [{}] * number
        metadata["Channel"] = [one | name for one, name in zip(stated, named, strict=True)]
    with atomic(path) as temporary:
        tifffile.imwrite(temporary, pixels, ome=True, metadata=metadata, photometric=photometric, compression="zlib")
    return Path(path)


def check_type(dtype: np.dtype, name: str) -> None:
    """Raise AbbeError where OME-TIFF has no such values."""
    if dtype in (np.dtype(np.float16), np.dtype(np.int64), np.dtype(np.uint64)):
        raise AbbeError(f"{name}: {dtype} cannot be written as OME-TIFF; add --dtype float32 or --format zarr")
