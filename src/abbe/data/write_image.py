"""Images as OME-TIFF, with their axes, pixel size and channel names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from abbe.data.write import atomic

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
) -> Path:
    """Write an image as an OME-TIFF, whole or not at all; files of more than 4 GiB are BigTIFF.

    Parameters
    ----------
    path
        The file; its suffix should be .tif.
    pixels
        Of any type that TIFF holds.
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

    Raises
    ------
    AbbeError
        As :func:`abbe.data.write.atomic`.
    """
    metadata: dict[str, Any] = {"axes": axes}
    for axis, size in pixel_size.items():
        metadata |= {_SIZES[axis]: size, f"{_SIZES[axis]}Unit": "µm"}
    if time_step is not None and "T" in axes:
        metadata |= {"TimeIncrement": time_step, "TimeIncrementUnit": "s"}
    photometric = "minisblack"
    if rgb and "C" in axes and pixels.shape[axes.index("C")] == 3:
        pixels, axes = np.moveaxis(pixels, axes.index("C"), -1), axes.replace("C", "") + "S"
        photometric, metadata["axes"] = "rgb", axes
    if "C" in axes and len(channels) == pixels.shape[axes.index("C")]:
        metadata["Channel"] = {"Name": list(channels)}
    with atomic(path) as temporary:
        tifffile.imwrite(temporary, pixels, ome=True, metadata=metadata, photometric=photometric, compression="zlib")
    return Path(path)
