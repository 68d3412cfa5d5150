"""The objects table of a label image of any size, measured part by part."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from abbe.data.image import Image
from abbe.data.select import Series
from abbe.ops.boxes import Box, bounding, corner, extents, slices, whole
from abbe.report.objects import objects_table
from abbe.report.table import joined
from abbe.report.volumes import volumes_table
from abbe.tiling.merge import Finished

BAND = 2**22
"""Pixels of a band, unless the objects in it are larger."""
COLUMN_OF = {"T": "time", "C": "channel", "Z": "z"}
"""Where a table says in which frame of a series an object was found, by the series' axis."""
REACH = 256
"""Pixels that the objects at a tile's borders may reach beyond it and be measured in one go with the others."""


def measure_finished(finished: Sequence[Finished], image: Image) -> pd.DataFrame:
    """Measure the objects that became final together; none of them is measured again.

    Parameters
    ----------
    finished
        A tile's own objects, then those that it brought together with earlier tiles.
    image
        CYX or CZYX.

    Returns
    -------
    pandas.DataFrame
        As :func:`abbe.report.objects.objects_table` gives, by ascending label.
    """
    within = [(max(start - REACH, 0), stop + REACH) for start, stop in finished[0].box]
    near = [one for one in finished if all(low <= a and b <= high for (low, high), (a, b) in zip(within, one.box))]
    far = [one for one in finished if not any(one is other for other in near)]
    tables = [_measured(*pasted(near), image, image.name, image.extents)]
    tables += [_measured(one.box, one.labels, image, image.name, image.extents) for one in far]
    return joined(tables).sort_values("label", ignore_index=True)


def measure_series(masks: Series, series: Series | None, labels: np.ndarray) -> pd.DataFrame:
    """Measure the objects of label images that exist already.

    Parameters
    ----------
    masks
        The label images, for the axes they run along, and for pixel size and name if there is no image.
    series
        The image, of the same extents: for intensities, pixel size and name.
    labels
        What the masks hold: the axes of the series, then (Z,) Y, X; 0 is background.
    """
    tables = []
    for number, mask in enumerate(masks):
        image = mask if series is None else series[number]
        index = masks.index(number)
        rows = measure_labels(labels[index], image if series is not None else None, name=image.name)
        tables.append(placed(rows, masks, number))
    return joined(tables)


def placed(rows: pd.DataFrame, series: Series, number: int) -> pd.DataFrame:
    """Say in the rows of a frame in which one they were found; changes them in place."""
    for place, (axis, name) in enumerate(series.names(number).items()):
        rows.insert(2 + place, COLUMN_OF[axis], name)
    return rows


def measure_labels(labels: np.ndarray, image: Image | None = None, *, name: str = "", band: int = BAND) -> pd.DataFrame:
    """Measure every object of a label image, with memory for a band rather than for the image.

    Parameters
    ----------
    labels
        ((Z,) Y, X), whole numbers, 0 is background; also a memory map.
    image
        CYX or CZYX, of the same extents: for intensities, pixel size and name.
    name
        Goes into the column ``image``; that of the image unless given.
    band
        Pixels to measure at a time.

    Returns
    -------
    pandas.DataFrame
        As :func:`abbe.report.objects.objects_table` gives, by ascending label.
    """
    rows = max(band // max(math.prod(labels.shape[1:]), 1), 1)
    tables = []
    for first, part in whole_objects(labels, rows):
        box = ((first, first + len(part)), *whole(labels.shape[1:]))
        tables.append(_measured(box, part, image, name, labels.shape))
    return joined(tables).sort_values("label", ignore_index=True)


def _measured(box: Box, labels: np.ndarray, image: Image | None, name: str, extent: tuple[int, ...]) -> pd.DataFrame:
    """Measure a box of an image whose extents are ``extent``."""
    measure: Any = objects_table if labels.ndim == 2 else volumes_table
    return measure(
        labels,
        image.box(box) if image is not None else None,
        pixel_size=pixel_size_of(image) if image is not None else None,
        name=name or (image.name if image is not None else ""),
        channels=image.channels if image is not None else (),
        offset=corner(box),
        extent=extent,
    )


def pasted(finished: Sequence[Finished]) -> tuple[Box, np.ndarray]:
    """Bring objects into one label image: its box, and the labels."""
    box = bounding([one.box for one in finished])
    if len(finished) == 1:
        return box, finished[0].labels
    labels = np.zeros(extents(box), np.int32)
    for one in finished:
        labels[slices(one.box, corner(box))] += one.labels
    return box, labels


def whole_objects(labels: np.ndarray, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Cut a label image into windows of rows, or planes, that together hold every object once, and whole.

    Yields
    ------
    tuple
        The window's first row or plane, and its labels without the objects that belong to another window.
    """
    height = len(labels)
    start, stop = 0, min(rows, height)
    finished = np.zeros(1, bool)  # by label: it was in an earlier window
    while True:
        window = labels[start:stop]
        waiting = np.unique(window[-1]) if stop < height else np.zeros(0, labels.dtype)
        finished = np.pad(finished, (0, max(int(window.max()) + 1 - len(finished), 0)))
        excluded = finished.copy()
        excluded[waiting] = excluded[0] = True
        yield start, np.where(excluded[window], 0, window)
        if stop == height:
            return
        finished |= np.bincount(window.ravel(), minlength=len(finished)).astype(bool) & ~excluded
        pending = np.isin(window, waiting[waiting > 0]).reshape(len(window), -1).any(axis=1)
        start += int(pending.argmax()) if pending.any() else len(window)
        stop = min(max(stop, start) + rows, height)


def pixel_size_of(image: Image) -> tuple[float, ...] | None:
    """Give µm per pixel along Y and X, of a volume along Z before them, or None where one is unknown."""
    sizes = [image.pixel_size.get(axis.lower()) for axis in image.axes[1:]]
    return None if None in sizes else tuple(size for size in sizes if size is not None)
