"""Label images that somebody has: found beside their images, and read to be measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from abbe.data.axes import UNKNOWN
from abbe.data.image import Image
from abbe.data.read import read
from abbe.data.select import Series, select
from abbe.errors import AbbeError
from abbe.settings import ImageSettings

ENDINGS = (
    *("_labels.tif", "_labels.tiff", "_labels.ome.zarr", "_labels.png", "_mask.tif", "_mask.png"),
    *(".tif", ".tiff", ".png", ".npy"),
)


def find_mask(folder: Path, relative: Path) -> Path | None:
    """Find the mask of an image below a folder, mirrored or flat."""
    bases = (folder / relative, folder / relative.name)
    found = (base.with_name(base.name + ending) for base in bases for ending in ENDINGS)
    return next((path for path in found if path.exists()), None)


def read_masks(labels: Any, image: Any, settings: ImageSettings) -> tuple[Series, Series | None, np.ndarray]:
    """Read whole-number labels, and open the image that they belong to.

    Labels with several planes are of objects in three dimensions, unless ``settings.z`` chooses planes.

    Parameters
    ----------
    labels, image
        Paths, arrays or what :func:`~abbe.data.read.read` gave; the image may be None.
    settings
        Which planes and time points.

    Returns
    -------
    tuple
        The masks as a series, the image as one, and the labels as an array, int32: the series' axes, then the spatial.

    Raises
    ------
    AbbeError
        If they are no labels, or not of the image's extents.
    """
    opened = None if image is None else (image if isinstance(image, Image) else read(image, axes=settings.axes))
    mask = _opened(labels, opened)
    dimensions = 3 if settings.z is None and mask.sizes.get("Z", 1) > 1 else 2
    series = None if opened is None else select(opened, settings, dimensions)
    chosen = {
        "z": settings.z if mask.sizes.get("Z", 1) > 1 else None,
        "time": settings.time if mask.sizes.get("T", 1) > 1 else None,
        "channel": "all" if settings.channel == "all" and mask.n_channels > 1 else None,
    }
    masks = select(mask, ImageSettings(**chosen), dimensions)  # type: ignore[arg-type]
    if series is not None and (masks.shape, masks[0].extents) != (series.shape, series[0].extents):
        found, expected = (_spelled(one.shape + one[0].extents) for one in (masks, series))
        raise AbbeError(f"{mask.name}: {found} pixels, but {series.image.name} has {expected}")
    return masks, series, _pixels(masks)


def _opened(labels: Any, image: Image | None) -> Image:
    """Open a mask; axes that its file does not name are those of the image, if they are as many."""
    mask = labels if isinstance(labels, Image) else read(labels)
    if UNKNOWN not in mask.axes or image is None or isinstance(labels, Image):
        return mask
    axes = "".join(axis for axis in image.axes if image.sizes[axis] > 1)
    axes = axes if len(axes) == len(mask.axes) else axes.replace("C", "")
    return read(labels, axes=axes) if len(axes) == len(mask.axes) else mask


def _pixels(masks: Series) -> np.ndarray:
    first = masks[0]
    if first.n_channels != 1 or first.dtype.kind not in "uib":
        raise AbbeError(
            f"{first.name}: {first.n_channels} channels of {first.dtype}, but a mask is one channel of whole numbers"
        )
    labels = np.empty((len(masks), *first.extents), np.int32)
    for number, frame in enumerate(masks):
        pixels = frame.box(tuple((0, extent) for extent in frame.extents))[0]
        if not 0 <= int(pixels.min()) <= int(pixels.max()) <= np.iinfo(np.int32).max:
            raise AbbeError(
                f"{first.name}: labels from {pixels.min()} to {pixels.max()}; expected 0 for background and numbers "
                f"up to {np.iinfo(np.int32).max}, number them anew"
            )
        labels[number] = pixels
    return labels.reshape(masks.shape + first.extents)


def _spelled(extents: tuple[int, ...]) -> str:
    return " × ".join(map(str, extents))
